"""How long stages take on this device: by themselves, or in turns with a reference.

Place in the flow: bundles + batches of images ──▶ `StageTimes`, or milliseconds. A shared machine's clock
wanders; what was measured in the same moments does not, relative to each other. So a bundle is timed in
blocks, where there is a reference in turns with blocks of that, and both are kept.
"""

import statistics
import time
from collections.abc import Sequence

from s2dnas_deploy.bundle.device_profile import StageTimes
from s2dnas_deploy.decide.rules import NEVER, only
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array

_BLOCKS = 15
_BLOCK_SECONDS = 0.03
_FEWEST_RUNS = 3


def time_stages(cascade: Cascade, reference: Cascade, batches: Sequence[Array]) -> StageTimes:
    """Time a cascade's stages against a reference, on batches of images as the graphs take them."""
    for which in (cascade, reference):
        _block(which, batches)  # to warm up
    shares: list[list[float]] = []
    against: list[float] = []
    for _ in range(_BLOCKS):
        whole = sum(_block(reference, batches))
        shares.append([seconds / whole for seconds in _block(cascade, batches)])
        against.append(whole)
    reference_ms = 1e3 * statistics.median(against)
    return StageTimes(
        stage_ms=tuple(reference_ms * statistics.median(each) for each in zip(*shares, strict=True)),
        reference_ms=reference_ms,
    )


def stage_ms(cascade: Cascade, batches: Sequence[Array]) -> tuple[float, ...]:
    """Milliseconds of each stage, nobody leaving, on batches of images as the graphs take them."""
    _block(cascade, batches)  # to warm up
    blocks = [_block(cascade, batches) for _ in range(_BLOCKS)]
    return tuple(1e3 * statistics.median(each) for each in zip(*blocks, strict=True))


def way_ms(cascade: Cascade, batches: Sequence[Array]) -> tuple[float, ...]:
    """Milliseconds of each way behind a gate, what is before it included."""
    ways = len(cascade.flow.stops) - 1
    blocks: list[list[float]] = []
    for _ in range(1 + _BLOCKS):  # in turns, so that a busy moment meets them all; the first warms up
        blocks.append([sum(_block(cascade, batches, only(way, ways))) for way in range(ways)])
    return tuple(1e3 * statistics.median(each) for each in zip(*blocks[1:], strict=True))


def _block(cascade: Cascade, batches: Sequence[Array], offsets: Sequence[float] | None = None) -> list[float]:
    """Seconds of each stage, a median over runs on one batch after the other for a short while."""
    runs: list[Sequence[float]] = []
    started = time.perf_counter()
    never = (NEVER,) * len(cascade.flow.early)
    while len(runs) < _FEWEST_RUNS or time.perf_counter() - started < _BLOCK_SECONDS:
        said = cascade.predict(
            batches[len(runs) % len(batches)], thresholds=never, offsets=offsets, timed=True
        )
        runs.append(said.stage_seconds or ())
    return [statistics.median(each) for each in zip(*runs, strict=True)]
