"""What a run's timings say: latency of each subject and exit, cost of each stage, and where gains are lost.

Place in the flow: `Run` ──▶ `Summary`, which table, CSV and page show. With S the static network's mean
time of a batch, C the cascade's, and B the bare time of the stages that it ran,

    realised speed-up   S / C          ideal   S / B          by MACs   MACs of S / mean MACs

and C = S · mean MACs / MACs of S + kernels + copying + moving + overhead. `kernels` is what stages take
beyond their share of MACs: small layers use a processor badly, and features are handed over. `copying`
brings images to where stages read them, `moving` survivors together (compaction). `overhead` is the rest:
Python, and the calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bench.report import Report, Run, Taken, Way
from s2dnas_deploy.bench.spread import Estimate, Processes, Timings, estimate, estimate_ratio
from s2dnas_deploy.bench.workers.job import block_rows
from s2dnas_deploy.bench.workers.subjects import CASCADE, STATIC, YARDSTICKS

Whole = npt.NDArray[np.int64]
QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_FEWEST_BEYOND = 5  # timings beyond a percentile; of fewer it would be a matter of chance
_FEWEST = 20  # timings of an exit


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of a batch. A percentile is None where too few timings lie beyond it."""

    mean: Estimate
    quantiles: Mapping[str, Estimate | None]
    batches: int

    @property
    def estimates(self) -> Mapping[str, Estimate | None]:
        """The mean, then the percentiles: the columns of a table."""
        return {"mean": self.mean, **self.quantiles}


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """Against the static network; `by_macs` is None where its MACs are not known, or the cascade has none."""

    realised: Estimate
    ideal: float
    by_macs: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Of one run. `exits` are latencies of batches of one by where the image left; None of too few.

    `losses` are milliseconds of a batch, by name, and add up to the mean with `bare_ms`, or with the static
    network's share of MACs if `kernels` is among them.
    """

    subjects: Mapping[str, Latency]
    exits: tuple[Latency | None, ...]
    stages: tuple[Latency | None, ...]
    """Of a stage where it ran; None if it hardly did."""
    bare_ms: float
    speed_up: SpeedUp | None
    losses: Mapping[str, float]


def summarise(run: Run, report: Report) -> Summary:
    """All that the timings of a run say."""
    return Summary(
        subjects={name: latency(arrays(taken)) for name, taken in run.subjects.items()},
        exits=_by_exit(run, report) if run.batch == 1 else (),
        stages=tuple(_where_run(stage) for stage in run.stages),
        bare_ms=_bare(run),
        speed_up=_speed_up(run, report) if STATIC in run.subjects else None,
        losses=_losses(run, report),
    )


def rows_of(summary: Summary) -> dict[str, Latency]:
    """Everything that has a latency, by name, but the yardsticks."""
    found = {name: each for name, each in summary.subjects.items() if name not in YARDSTICKS}
    parts = {f"leaving at {k}": each for k, each in enumerate(summary.exits)}
    parts |= {f"stage {k}": each for k, each in enumerate(summary.stages)}
    return found | {name: each for name, each in parts.items() if each is not None}


def latency(processes: Processes) -> Latency:
    """Mean and percentiles of the timings that count."""
    count = sum(int((~np.isnan(each)).sum()) for each in processes)
    told = {name: q for name, q in QUANTILES.items() if count * (1 - q) >= _FEWEST_BEYOND}
    mean, *quantiles = estimate(processes, partial(_mean_and_quantiles, list(told.values())))
    return Latency(
        mean=mean,
        quantiles=dict.fromkeys(QUANTILES) | dict(zip(told, quantiles, strict=True)),
        batches=count,
    )


def arrays(taken: Taken) -> list[Timings]:
    """Of each process [blocks, batches]."""
    return [np.array(blocks) for blocks in taken]


def mean_macs(report: Report) -> float:
    """What an image costs on average."""
    return macs_of(report.answers.all_ways, report.measured.stage_macs) or 0.0


def macs_of(ways: Sequence[Way], each: Sequence[int]) -> float | None:
    """What an image that went one of these ways costs on average, by the MACs of each stage; None of none."""
    images = sum(way.images for way in ways)
    spent = sum(way.images * sum(each[k] for k in way.stages) for way in ways)
    return spent / images if images else None


def _by_exit(run: Run, report: Report) -> tuple[Latency | None, ...]:
    """The cascade's latency by where the image left."""
    exits, processes = np.array(report.measured.timed_exits, np.int64), arrays(run.subjects[CASCADE])
    left = [_images_of_blocks(blocks, run.batch, exits) for blocks in processes]
    found: list[Latency | None] = []
    for k in range(len(report.measured.stage_macs)):
        mine = [np.where(where == k, blocks, np.nan) for where, blocks in zip(left, processes, strict=True)]
        enough = sum(int((where == k).sum()) for where in left) >= _FEWEST
        found.append(latency(mine) if enough else None)
    return tuple(found)


def _images_of_blocks(blocks: Timings, batch: int, exits: Whole) -> Whole:
    """Where the one image of each batch left, as the batches are laid out."""
    rows = [block_rows(number, batch, len(exits)) for number in range(len(blocks))]
    return np.array([[exits[row[0]] for row in block] for block in rows])


def _speed_up(run: Run, report: Report) -> SpeedUp:
    static, macs, mean = arrays(run.subjects[STATIC]), report.measured.static_macs, mean_macs(report)
    return SpeedUp(
        realised=estimate_ratio(static, arrays(run.subjects[CASCADE])),
        ideal=mean_of(run.subjects[STATIC]) / _bare(run),
        by_macs=None if macs is None or not mean else macs / mean,
    )


def _losses(run: Run, report: Report) -> Mapping[str, float]:
    bare, copied, moved = _bare(run), mean_of(run.copied), mean_of(run.moved)
    found = {
        "copying": copied,
        "moving": moved,
        "overhead": mean_of(run.subjects[CASCADE]) - bare - copied - moved,
    }
    if STATIC in run.subjects and report.measured.static_macs is not None:
        by_macs = mean_of(run.subjects[STATIC]) * mean_macs(report) / report.measured.static_macs
        return {"kernels": bare - by_macs, **found}
    return found


def _bare(run: Run) -> float:
    return sum(mean_of(stage) for stage in run.stages)


def where_run(processes: Processes) -> Processes:
    """A stage that no image of a batch reached has taken no time at all; that does not count."""
    return [np.where(each > 0, each, np.nan) for each in processes]


def _where_run(taken: Taken) -> Latency | None:
    counted = where_run(arrays(taken))
    return latency(counted) if sum(int(np.isfinite(each).sum()) for each in counted) >= _FEWEST else None


def mean_of(taken: Taken) -> float:
    """Milliseconds of a batch."""
    return _mean(np.concatenate([each.ravel() for each in arrays(taken)]))


def _mean(timings: Timings) -> float:
    return float(timings.mean()) if len(timings) else float("nan")


def _mean_and_quantiles(quantiles: Sequence[float], timings: Timings) -> list[float]:
    mean = _mean(timings)
    return [mean, *(np.quantile(timings, quantiles).tolist() if len(timings) else [mean] * len(quantiles))]
