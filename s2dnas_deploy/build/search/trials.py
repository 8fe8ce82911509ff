"""Every plan that was tried, as JSON lines: what a search has found out, and how it goes on after `kill -9`.

Place in the flow: a `Judge` asks ──▶ `Trials`, which answers from the file or has the plan judged and
writes that down. A search that is started again asks the same questions in the same order, and gets the
old answers at once; so nothing of a strategy's own state has to be kept.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from s2dnas_deploy.build.search.reward import Worth
from s2dnas_deploy.build.search.space import Choices, SearchSpace
from s2dnas_deploy.errors import CheckpointError, PlanError
from s2dnas_deploy.files.atomic import free_name, naming, write_text_atomically
from s2dnas_deploy.plan import Plan

JudgeMany = Callable[[Sequence[Choices]], Iterable[Worth]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A plan that was tried, and what it is worth."""

    choices: Choices
    worth: Worth


class Trials:
    """The plans tried so far; `evaluate` is what a `Judge` is made of."""

    def __init__(
        self,
        path: Path,
        run: Mapping[str, Any],
        space: SearchSpace,
        judge: JudgeMany,
        told: Callable[[], None],
    ) -> None:
        """Read what is at `path`, if it comes from the same run; `told` is called after each answer.

        `judge` gives answers one by one, in the order asked, so that each is kept as soon as it is there.
        """
        self.path, self.space, self._judge, self._told = path, space, judge, told
        header = json.dumps({"run": dict(run)})
        self.set_aside = _set_aside(path, header)
        """Where trials of another search are now that were at `path`."""
        self._known = _read(path, space)
        if not path.exists():
            write_text_atomically(path, header + "\n")
        self.asked: dict[Choices, Trial] = {}
        """What this search has asked about, in order."""

    def evaluate(self, asked: Sequence[Choices]) -> list[float]:
        """The reward of each."""
        new = [choices for choices in asked if choices not in self._known]
        answers = iter(self._judge(new) if new else ())
        with naming(self.path), self.path.open("ab") as file:
            for choices in asked:
                if choices not in self._known:
                    self._known[choices] = Trial(choices=choices, worth=next(answers))
                    self._write(file, self._known[choices])
                self.asked[choices] = self._known[choices]
                self._told()
        return [self._known[choices].worth.reward for choices in asked]

    def best(self, most: int) -> list[Trial]:
        """Those of the highest rank; of equals, the first asked about."""
        return sorted(self.asked.values(), key=lambda trial: trial.worth.rank, reverse=True)[:most]

    def _write(self, file: BinaryIO, trial: Trial) -> None:
        plan = self.space.plan(trial.choices)
        document = {"choices": list(trial.choices), **asdict(trial.worth), "plan": _document(plan)}
        file.write(json.dumps(document).encode() + b"\n")
        file.flush()


def _set_aside(path: Path, header: str) -> Path | None:
    """Trials of another search (another target, say) make room, and those of this one come back.

    They have cost time, and are not thrown away.
    """
    if not path.exists() or _first_line(path) == header:
        return None
    aside = path.rename(free_name(path))
    for other in sorted(path.parent.glob(f"{path.stem}-*{path.suffix}")):
        if _first_line(other) == header:
            other.rename(path)
            break
    return aside


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n")


def _read(path: Path, space: SearchSpace) -> dict[Choices, Trial]:
    """What was tried before; a last line that was not finished is cut off."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        trials = [_trial(json.loads(line), space) for line in whole.splitlines()[1:]]
    except (ValueError, KeyError, TypeError, IndexError, PlanError) as problem:
        raise CheckpointError(f"{path} is damaged ({problem!r}); start over with --restart") from problem
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return {trial.choices: trial for trial in trials}


def _trial(document: Mapping[str, Any], space: SearchSpace) -> Trial:
    choices = tuple(document["choices"])
    if _document(space.plan(choices)) != document["plan"]:
        raise ValueError("its choices are of another space")
    worth = Worth(
        reward=float(document["reward"]),
        accuracy=float(document["accuracy"]),
        cost=float(document["cost"]),
        exit_accuracy=tuple(document["exit_accuracy"]),
        exit_cost=tuple(document["exit_cost"]),
        exit_share=tuple(document["exit_share"]),
        fits=bool(document["fits"]),
    )
    return Trial(choices=choices, worth=worth)


def _document(plan: Plan) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(plan.to_json())
    return document
