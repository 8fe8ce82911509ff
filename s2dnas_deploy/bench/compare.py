"""Two measurements of the same bundle held against each other: what is slower, or faster, beyond noise.

Place in the flow: `Report` + `Report` ──▶ `Comparison`. A shared machine is faster today than yesterday.
So all times are taken relative to controls that were timed in the same blocks: numpy's yardsticks, which
no change of this package or of onnxruntime touches. Of a process, what counts is the median over its
blocks of

    log(mean of the subject in the block) - (1 - w) · log(arithmetic) - w · log(memory)

with the medians of both yardsticks in the blocks around it, for a block that something interrupted must
not count for more than one. A subject's w, between 0 and 1, tells how much it suffers from memory that is
shared: the one with which processes of the same report differ least (0 if there are too few to tell). The
change is the difference between the reports' means over processes; its interval comes from a bootstrap
over processes and blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from s2dnas_deploy.bench.report import Report, Run
from s2dnas_deploy.bench.spread import Estimate, Processes, Timings, around
from s2dnas_deploy.bench.summary import arrays, where_run
from s2dnas_deploy.bench.workers.subjects import ARITHMETIC, MEMORY, STATIC, YARDSTICKS
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.sessions.providers import PROVIDERS

_LEVEL = 0.999  # many things are compared, and a false alarm stops somebody's release
_FLOOR = 0.03  # two measurements of one build differ by as much though nothing within either varies so
_FEWEST_PROCESSES = 2
_DRAWS = 2000  # its extreme 0.1% must be seen
_FEWEST_TO_TELL = 6  # processes of both reports, to find w from
_AROUND = 5  # blocks whose control tells how fast the machine was


@dataclass(frozen=True, kw_only=True)
class Change:
    """Of one subject in one configuration: by which share the second takes longer than the first."""

    configuration: str
    subject: str
    by: Estimate
    before_ms: float
    after_ms: float

    @property
    def is_slower(self) -> bool:
        """Slower beyond noise."""
        return self.by.low > 0 and self.by.value > _FLOOR

    @property
    def is_faster(self) -> bool:
        """Faster beyond noise."""
        return self.by.high < 0 and self.by.value < -_FLOOR


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All changes, and in what else the two differ, in words."""

    changes: tuple[Change, ...]
    differences: tuple[str, ...]

    def regressions(self, limit: float) -> tuple[Change, ...]:
        """What is slower beyond noise, and by more than the limit."""
        return tuple(change for change in self.changes if change.is_slower and change.by.value > limit)


def compare(before: Report, after: Report, *, force: bool = False) -> Comparison:
    """Hold two measurements against each other; those of different things only with `force`."""
    serious, slight = _differences(before, after)
    if serious and not force:
        raise OptionError(
            f"these two cannot be compared: {'; '.join(serious)}. A difference in time would not say which "
            "of these it comes from; --force compares them all the same"
        )
    runs = {run.in_words: run for run in before.runs}
    pairs = [(runs[run.in_words], run) for run in after.runs if run.in_words in runs]
    if not pairs:
        raise OptionError(
            f"no configuration was measured in both: {', '.join(runs)} in the first, "
            f"{', '.join(run.in_words for run in after.runs)} in the second; measure with the same "
            "--provider, --threads and --batch"
        )
    fewest = min(len(taken) for run in chain(*pairs) for taken in run.subjects.values())
    if fewest < _FEWEST_PROCESSES:
        raise OptionError(
            f"by {fewest} process nobody can tell noise from change: measure with --processes 5, the default"
        )
    same_static = before.measured.static_digest == after.measured.static_digest
    changes = tuple(
        change
        for one, other in pairs
        for change in _changes(one, other)
        if same_static or change.subject != STATIC
    )
    return Comparison(changes=changes, differences=(*serious, *slight, *_unmatched(before, after)))


def _differences(before: Report, after: Report) -> tuple[list[str], list[str]]:
    """What makes a comparison meaningless, and what is only worth telling."""
    machines = vars(before.environment.machine), vars(after.environment.machine)
    serious = _unlike(*machines, but=("kernel", "memory_bytes"))
    if before.measured.digest != after.measured.digest:
        serious.append(
            f"another bundle, or other thresholds: {before.measured.name} and {after.measured.name}"
        )
    elif before.measured.images_digest != after.measured.images_digest:
        serious.append(f"other images: {before.measured.images} and {after.measured.images}")
    versions = before.environment.versions, after.environment.versions
    serious += _unlike(*({"numpy": each.get("numpy")} for each in versions))
    slight = _unlike(*versions, but=("numpy",))
    slight += _unlike(*({"kernel": each["kernel"]} for each in machines))
    if before.measured.static_digest != after.measured.static_digest:
        slight.append("another static network, which is not compared")
    return serious, slight


def _unmatched(before: Report, after: Report) -> Iterator[str]:
    """What only one of them has."""
    names = [{run.in_words for run in each.runs} for each in (before, after)]
    for here, which in ((names[0] - names[1], "first"), (names[1] - names[0], "second")):
        yield from (f"{name} is in the {which} only, and not compared" for name in sorted(here))


def _unlike(before: Mapping[str, Any], after: Mapping[str, Any], *, but: Sequence[str] = ()) -> list[str]:
    keys = [key for key in {**before, **after} if key not in but and before.get(key) != after.get(key)]
    return [f"{key} {_shown(before.get(key))} and {_shown(after.get(key))}" for key in keys]


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _changes(before: Run, after: Run) -> Iterator[Change]:
    """Of every subject that both have, and of every stage where it ran."""
    ours, theirs = _everything(before), _everything(after)
    for name in ours:
        if name in theirs:
            one, other = _relative((ours[name], before), (theirs[name], after))
            yield Change(
                configuration=before.in_words,
                subject=name,
                by=_change(one, other),
                before_ms=_mean(ours[name]),
                after_ms=_mean(theirs[name]),
            )


def _everything(run: Run) -> dict[str, Processes]:
    subjects = {name: arrays(taken) for name, taken in run.subjects.items() if name not in YARDSTICKS}
    stages = {f"stage {k}": where_run(arrays(taken)) for k, taken in enumerate(run.stages)}
    reached = {name: taken for name, taken in stages.items() if all(np.isfinite(t).any() for t in taken)}
    return {**subjects, **reached}


def _relative(*measured: tuple[Processes, Run]) -> list[list[Timings]]:
    """Of both reports, log of each block's mean over the controls' around it, [blocks] of each process.

    Of a device with a memory of its own, a GPU, the yardsticks know nothing.
    """
    means = [_means(processes) for processes, _ in measured]
    if PROVIDERS[measured[0][1].provider].own_memory:
        return means
    controls = [[_control(name, *each) for name in (ARITHMETIC, MEMORY)] for each in measured]
    over = [[y - c for y, c in zip(m, of[0], strict=True)] for m, of in zip(means, controls, strict=True)]
    shift = [[m - c for c, m in zip(*of, strict=True)] for of in controls]
    w = _sensitivity(over, shift)
    return [[y - w * d for y, d in zip(*each, strict=True)] for each in zip(over, shift, strict=True)]


def _sensitivity(over: Sequence[Sequence[Timings]], shift: Sequence[Sequence[Timings]]) -> float:
    """The w with which processes of one report differ least: least squares about each report's mean."""
    y, d = (np.concatenate([_centred(report) for report in each]) for each in (over, shift))
    moved = float(d @ d)
    return float(np.clip(y @ d / moved, 0, 1)) if moved and len(d) >= _FEWEST_TO_TELL else 0.0


def _centred(processes: Sequence[Timings]) -> Timings:
    levels = np.array([np.median(blocks) for blocks in processes])
    centred: Timings = levels - levels.mean()
    return centred


def _means(processes: Processes) -> list[Timings]:
    """Log of the mean of each block in which the subject ran."""
    return [np.log(np.nanmean(taken[np.isfinite(taken).any(1)], axis=1)) for taken in processes]


def _control(name: str, processes: Processes, run: Run) -> list[Timings]:
    """Log of a yardstick around each block in which the subject ran."""
    pairs = zip(processes, arrays(run.subjects[name]), strict=True)
    return [np.log(_speed(control))[np.isfinite(taken).any(1)] for taken, control in pairs]


def _speed(control: Timings) -> Timings:
    """A yardstick's median over some blocks around each."""
    padded = np.pad(np.median(control, axis=1), _AROUND // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _AROUND)[: len(control)]
    speed: Timings = np.median(windows, axis=1)
    return speed


def _change(before: Sequence[Timings], after: Sequence[Timings]) -> Estimate:
    by = around(
        _level(after) - _level(before),
        _levels(after, np.random.default_rng(1)) - _levels(before, np.random.default_rng(0)),
        min(len(before), len(after)),
        level=_LEVEL,
        degrees=_degrees(len(before) + len(after)),
    )
    return Estimate(value=_share(by.value), low=_share(by.low), high=_share(by.high))


def _degrees(processes: int) -> int:
    """Two means are estimated, and w."""
    return processes - (3 if processes >= _FEWEST_TO_TELL else 2)


def _level(processes: Sequence[Timings]) -> float:
    return float(np.mean([np.median(blocks) for blocks in processes]))


def _levels(processes: Sequence[Timings], rng: np.random.Generator) -> Timings:
    """What `_level` would be of processes and blocks drawn with replacement, many times over."""
    chosen = rng.integers(len(processes), size=(_DRAWS, len(processes)))
    medians = np.empty(chosen.shape)
    for which, blocks in enumerate(processes):
        mine = chosen == which
        rows = rng.integers(len(blocks), size=(int(mine.sum()), len(blocks)))
        medians[mine] = np.median(blocks[rows], axis=1)
    levels: Timings = medians.mean(1)
    return levels


def _share(log: float) -> float:
    with np.errstate(over="ignore"):  # of two processes that have nothing in common, there is no upper end
        return float(np.expm1(log))


def _mean(processes: Processes) -> float:
    return float(np.nanmean(np.concatenate([each.ravel() for each in processes])))
