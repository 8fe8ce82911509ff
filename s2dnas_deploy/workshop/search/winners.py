"""The best plans, trained in full as `s2dnas-train` would; the first is at `--out`, others beside it.

Place in the flow: the best `Trial`s ──train──▶ `Found`. Another search may have left a model there: one of a
plan that has been beaten since makes room, and one that no search has left is found before all the work.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files.atomic import free_name, write_text_atomically
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.search.request import SearchRequest
from s2dnas_deploy.workshop.search.trials import PLANS, Trial
from s2dnas_deploy.workshop.training.prepare import JudgeStatic
from s2dnas_deploy.workshop.training.request import Prepared, Request
from s2dnas_deploy.workshop.training.run import train_plan


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to: a winner as judged in the search, and the model that it became."""

    trial: Trial
    model: Model
    out: Path


def train_winner(
    request: SearchRequest,
    prepared: Prepared,
    judge_static: JudgeStatic,
    reporter: Reporter,
    trial: Trial,
    *,
    rank: int,
) -> Found:
    """Train one of the best; the best of all has rank 0."""
    training, number = request.training, f"-{rank + 1}" if rank else ""
    out, kept = _out(training, rank), training.folder / f"plan{number}.json"
    own = replace(training, out=out, plan=f"searched: {request.strategy}, target {request.target:g}")
    if kept.exists() and kept.read_bytes() != trial.plan.to_json().encode():
        _make_room(own, reporter)
    write_text_atomically(kept, trial.plan.to_json())
    model = train_plan(own, trial.plan, prepared, judge_static, reporter)
    return Found(trial=trial, model=model, out=out)


def check_not_anothers(request: SearchRequest) -> None:
    """Before the work: a model or a checkpoint that no search has left here would be in its way after it."""
    training = request.training
    if training.restart or (training.folder / PLANS).exists():
        return
    for path in (*(_out(training, rank) for rank in range(request.top)), training.folder / "checkpoint.pt"):
        if path.exists():
            raise CheckpointError(
                f"{path} is there already, and not from a search: move it away, give another --out, or "
                "--restart to replace it"
            )


def _make_room(training: Request, reporter: Reporter) -> None:
    """What was trained of a plan that has been beaten since is kept if it is finished."""
    checkpoint, out = training.folder / "checkpoint.pt", training.out
    if checkpoint.exists():
        reporter.say(f"{checkpoint} is of a plan that has been beaten since: it is discarded")
        checkpoint.unlink()
    if out.exists() and not training.restart:
        kept = out.rename(free_name(out.with_name(f"{out.stem}.beaten{out.suffix}")))
        reporter.say(f"{out} is of a plan that has been beaten since: it is kept as {kept.name}")


def _out(training: Request, rank: int) -> Path:
    """Where a plan's model goes, by the plan's rank."""
    return training.out.with_name(f"{training.out.stem}-{rank + 1}.pt") if rank else training.out
