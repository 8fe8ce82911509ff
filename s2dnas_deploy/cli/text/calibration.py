"""A calibration in words: the thresholds, what they come to, and what is promised."""

from collections.abc import Iterator

from s2dnas_deploy.cli.text.export import threshold_in_words
from s2dnas_deploy.decide.rules import FAR
from s2dnas_deploy.decide.thresholds import ALWAYS
from s2dnas_deploy.runtime.calibrate.calibration import Calibration


def calibration_in_words(calibration: Calibration) -> str:
    """The thresholds, where images exit, what that costs, and what is promised."""
    choice = calibration.choice
    lines = [*_table(calibration), *_temperatures(calibration)]
    scale, unit = (1.0, "ms") if calibration.unit == "ms" else (1e-6, "M MACs")
    mean, full = choice.point.cost * scale, choice.full.cost * scale
    lines.append(f"average cost {mean:.4g} {unit}, every stage {full:.4g} {unit}: {full / mean:.2f}x less")
    if choice.point.accuracy is not None and choice.full.accuracy is not None:
        static = calibration.static_accuracy
        lines.append(
            f"accuracy on these images {100 * choice.point.accuracy:.2f}%, "
            f"last exit {100 * choice.full.accuracy:.2f}%"
            + ("" if static is None else f", static network {100 * static:.2f}%")
        )
    if calibration.manifest.promise is not None:
        lines.append(calibration.manifest.promise.statement)
    useful = choice.useful_images
    if _takes_first(calibration):
        first = _names(calibration)[0] if calibration.manifest.flow.gate is not None else "exit 0"
        lines.append(f"every image takes {first}: the other stages are never used")
    elif useful is not None and choice.proven_on and useful > choice.proven_on:
        lines.append(
            f"with about {useful} images to prove it on, not {choice.proven_on}, more could exit early: "
            "what is really lost could then be half of what is promised"
        )
    return "\n".join(lines)


def _table(calibration: Calibration) -> Iterator[str]:
    """A row for each exit, or for each way behind a gate."""
    point, gated = calibration.choice.point, calibration.manifest.flow.gate is not None
    names = _names(calibration)
    width = max(4, *map(len, names))
    yield f"{'way' if gated else 'exit':>{width}} {'offset' if gated else 'threshold':>10} {'share':>7}"
    shown = [f"{t:+.4g}" if abs(t) < FAR else "never" for t in point.thresholds]
    if not gated:
        shown = [threshold_in_words(threshold) for threshold in point.thresholds]
        shown.append("–")
    for name, number, share in zip(names, shown, point.shares, strict=True):
        yield f"{name:>{width}} {number:>10} {100 * share:>6.1f}%"


def _temperatures(calibration: Calibration) -> Iterator[str]:
    """A row for each exit: how far its probabilities are from how often it is right."""
    if not calibration.temperatures:
        return
    names = _names(calibration)
    width = max(4, *map(len, names))
    yield f"{'way' if calibration.manifest.flow.gate else 'exit':>{width}} temperature  calibration error"
    for name, fit in zip(names, calibration.temperatures, strict=True):
        errors = f"{100 * fit.error_before:.1f}% -> {100 * fit.error:.1f}%"
        yield f"{name:>{width}} {fit.temperature:>11.3g}  {errors}"


def _names(calibration: Calibration) -> list[str]:
    flow = calibration.manifest.flow
    return list(flow.called) if flow.gate is None else list(flow.called[1:])


def _takes_first(calibration: Calibration) -> bool:
    """Whether all images take the first way, by the numbers chosen."""
    point = calibration.choice.point
    if calibration.manifest.flow.gate is not None:
        return point.shares[0] == 1
    return point.thresholds[0] <= ALWAYS
