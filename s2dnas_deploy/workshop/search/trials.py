"""Every plan that was tried, as JSON lines: what a search has found out, and how it goes on after `kill -9`.

Place in the flow: a `Judge` asks ──▶ `Trials`, which answers from the file or has the plan judged and
writes that down. A search that is started again asks the same questions in the same order, and gets the
old answers at once; so nothing of a strategy's own state has to be kept.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from s2dnas_deploy.errors import CheckpointError, PlanError
from s2dnas_deploy.files.atomic import free_name, naming, write_text_atomically
from s2dnas_deploy.files.bounds import Between
from s2dnas_deploy.files.document import Form
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.quoting import shortened
from s2dnas_deploy.workshop.search.judging.evaluators import JudgeMany
from s2dnas_deploy.workshop.search.judging.reward import Worth
from s2dnas_deploy.workshop.search.space.candidate import Candidate
from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace

PLANS, FINALISTS = "plans.jsonl", "finalists.jsonl"
_LARGEST_BYTES = 2**30  # a line has some thousand


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A plan that was tried, and what it is worth."""

    choices: Choices
    plan: Plan
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
        self.path, self._judge, self._told = path, judge, told
        header = json.dumps({"run": dict(run)})
        self.set_aside = _set_aside(path, header)
        """Where trials of another search are now that were at `path`."""
        self._known = _read(path, space)
        if not path.exists():
            write_text_atomically(path, header + "\n")
        self.asked: dict[Choices, Trial] = {}
        """What this search has asked about, in order."""

    def evaluate(self, asked: Sequence[Candidate]) -> list[float]:
        """The reward of each."""
        new = [candidate for candidate in asked if candidate.choices not in self._known]
        answers = iter(self._judge(new) if new else ())
        for candidate in asked:
            choices = candidate.choices
            if choices not in self._known:
                self._known[choices] = Trial(choices=choices, plan=candidate.plan, worth=next(answers))
                self._write(self._known[choices])
            self.asked[choices] = self._known[choices]
            self._told()
        return [self._known[candidate.choices].worth.reward for candidate in asked]

    def best(self, most: int) -> list[Trial]:
        """Those of the highest rank; of equals, the first asked about."""
        return sorted(self.asked.values(), key=lambda trial: trial.worth.rank, reverse=True)[:most]

    def _write(self, trial: Trial) -> None:
        plan = json.loads(trial.plan.to_json())
        document = {"choices": list(trial.choices), **asdict(trial.worth), "plan": plan}
        with naming(self.path), self.path.open("ab") as file:
            file.write(json.dumps(document).encode() + b"\n")


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
    return _content(path).partition(b"\n")[0].decode(errors="replace")


def _content(path: Path) -> bytes:
    try:
        return read_file(path, _LARGEST_BYTES)
    except OSError as problem:
        raise CheckpointError(f"{shortened(str(path), 300)}: {problem.strerror}") from problem


@dataclass(frozen=True, kw_only=True)
class _Line(Worth):
    """The form of a line: what a plan is worth, how it was chosen, and the plan as a document of its own."""

    choices: tuple[Annotated[int, Between(0, 2**31)], ...]
    plan: Mapping[str, Any]


_FORM = Form(record=_Line, error=CheckpointError)


def _read(path: Path, space: SearchSpace) -> dict[Choices, Trial]:
    """What was tried before; a last line that was not finished is cut off."""
    if not path.exists():
        return {}
    content = _content(path)
    whole = content[: content.rfind(b"\n") + 1]
    trials = []
    for number, line in enumerate(whole.split(b"\n")[1:-1], start=2):
        try:
            trials.append(_trial(line, space))
        except (CheckpointError, PlanError) as problem:
            where = f"{shortened(str(path), 300)} is damaged, line {number}"
            raise CheckpointError(f"{where}: {problem}; start over with --restart") from problem
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return {trial.choices: trial for trial in trials}


def _trial(content: bytes, space: SearchSpace) -> Trial:
    line = _FORM.read(content, "a trial")
    plan = space.plan(line.choices)
    if Plan.from_document(line.plan) != plan:
        raise CheckpointError("its choices are of another space")
    stages = {plan.stages, len(line.exit_accuracy), len(line.exit_cost), len(line.exit_share)}
    if len(stages) > 1:
        raise CheckpointError(f"expected numbers for each of {plan.stages} exits")
    worth = Worth(**{each.name: getattr(line, each.name) for each in fields(Worth)})
    return Trial(choices=line.choices, plan=plan, worth=worth)
