"""A policy that learns which choices pay: an LSTM walks the slots, REINFORCE moves it.

Place in the flow: a `Strategy`. At slot t the LSTM reads what was chosen at t - 1 and gives a
distribution π_t over the allowed options. After a batch of plans with scores R, its weights climb

    E[ A · log π(plan) ] + β · entropy(π)          A = (R - b) / σ

with b and σ a moving mean and deviation of the scores: the baseline. Plans that were judged before count
again, for free. The best plans found so far are shown again as well (priority replay), for a score that
occurred once is otherwise forgotten. While it samples nothing new, it samples hotter. β falls to a tenth
over the first plans, whatever the budget: a search that is given more asks what it asked before, and goes on
from there. Constants are of this package's own finding; the paper's were not at hand.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace
from s2dnas_deploy.workshop.search.strategies.strategy import Judge

BATCH = 8
_HIDDEN = 48
_LEARNING_RATE = 0.01
_ENTROPY = 10.0  # β at first; the entropy is relative to that of a choice between all alike
_EXPLORED = 200  # so many plans until β is down to a tenth
_ELITE = 8
_ELITE_WEIGHT = 0.5
_FORGET = 0.1  # of the baseline, a batch
_STEPS = 5
_HEAT = 1.5  # by so much hotter with each batch that brought nothing new
_MOST_IDLE = 60  # so many such batches: there is nothing new left


class Policy(nn.Module):
    """`sample` draws plans; `log_probability` says how likely plans are, and how undecided it is."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        sizes = [len(slot.options) for slot in space.slots]
        self.slot = nn.Parameter(0.1 * torch.randn(len(sizes), _HIDDEN))
        self.choice = nn.ParameterList([0.1 * torch.randn(size, _HIDDEN) for size in sizes])
        self.cell = nn.LSTMCell(_HIDDEN, _HIDDEN)
        self.heads = nn.ModuleList([nn.Linear(_HIDDEN, size) for size in sizes])
        for head in self.heads:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def sample(self, count: int, rng: np.random.Generator, temperature: float = 1.0) -> list[Choices]:
        """Plans drawn from the policy; the hotter, the more alike all options."""
        chosen: list[list[int]] = [[] for _ in range(count)]
        state = None
        for t in range(len(self.heads)):
            logits, state = self._step(t, chosen, state)
            allowed = torch.tensor([self.space.allowed(each) for each in chosen])
            hidden = (logits / temperature).masked_fill(~allowed, -torch.inf)
            likely = torch.softmax(hidden.double(), 1).numpy()
            for each, p in zip(chosen, likely, strict=True):
                each.append(int(rng.choice(len(p), p=p / p.sum())))
        return [tuple(each) for each in chosen]

    def log_probability(self, plans: list[Choices]) -> tuple[Tensor, Tensor]:
        """Log π of each plan, and the mean entropy of a decision on the way there, [plans] both."""
        total, entropy = torch.zeros(len(plans)), torch.zeros(len(plans))
        state = None
        for t in range(len(self.heads)):
            before = [list(plan[:t]) for plan in plans]
            logits, state = self._step(t, before, state)
            allowed = torch.tensor([self.space.allowed(each) for each in before])
            logs = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), 1)
            total = total + logs.gather(1, torch.tensor([[plan[t]] for plan in plans]))[:, 0]
            free = allowed.sum(1).float().clamp(min=2).log()  # a decision between many weighs no more
            entropy = entropy - (logs.exp() * logs.masked_fill(~allowed, 0.0)).sum(1) / free
        return total, entropy / len(self.heads)

    def _step(
        self, t: int, chosen: list[list[int]], state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits of slot t, [plans, options], given what each plan chose before."""
        told = self.slot[t].expand(len(chosen), -1)
        if t:
            told = told + self.choice[t - 1][[each[-1] for each in chosen]]
        hidden, memory = self.cell(told, state)
        return self.heads[t](hidden), (hidden, memory)


def search(space: SearchSpace, judge: Judge[Any], rng: np.random.Generator) -> None:
    """Sample, judge, learn, until the budget is spent or the policy samples nothing new."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        policy = Policy(space)
    optimizer = torch.optim.Adam(policy.parameters(), _LEARNING_RATE)
    baseline, idle = _Baseline(), 0
    while judge.left and idle < _MOST_IDLE:
        plans = policy.sample(BATCH, rng, _HEAT**idle)
        before = len(judge.scores)
        answers = judge(plans)
        idle = 0 if len(judge.scores) > before else idle + 1
        if idle:
            continue  # nothing new, nothing to learn
        judged = {plan: score for plan, score in zip(plans, answers, strict=True) if score is not None}
        advantage = baseline.advantage(np.array(list(judged.values())))
        elite = sorted(judge.scores, key=lambda plan: -judge.scores[plan])[:_ELITE]
        beta = _ENTROPY * (1 - 0.9 * min(len(judge.scores) / _EXPLORED, 1.0))
        for _ in range(_STEPS):
            log_probability, entropy = policy.log_probability([*judged, *elite])
            told, shown = log_probability[: len(judged)], log_probability[len(judged) :]
            gain = (advantage * told).mean() + _ELITE_WEIGHT * shown.mean() + beta * entropy.mean()
            optimizer.zero_grad()
            (-gain).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


class _Baseline:
    """A moving mean and deviation of scores; both start unbiased."""

    def __init__(self) -> None:
        self.weight, self.mean, self.square = 0.0, 0.0, 0.0

    def advantage(self, scores: npt.NDArray[np.float64]) -> Tensor:
        """How far scores are above the mean, in deviations, these scores included."""
        self.weight += _FORGET * (1 - self.weight)
        self.mean += _FORGET * (float(scores.mean()) - self.mean)
        self.square += _FORGET * (float((scores**2).mean()) - self.square)
        mean = self.mean / self.weight
        deviation = max(self.square / self.weight - mean**2, 1e-12) ** 0.5
        return torch.tensor((scores - mean) / deviation, dtype=torch.float32).clamp(-3, 3)
