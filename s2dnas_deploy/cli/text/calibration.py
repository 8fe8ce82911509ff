"""A calibration in words: the thresholds, what they come to, and what is promised."""

from s2dnas_deploy.decide.thresholds import ALWAYS
from s2dnas_deploy.runtime.calibrate.calibration import Calibration


def calibration_in_words(calibration: Calibration) -> str:
    """The thresholds, where images exit, what that costs, and what is promised."""
    choice = calibration.choice
    lines = [f"{'exit':>4} {'threshold':>10} {'share':>7}"]
    shown = ["never" if t > 1 else "always" if t <= ALWAYS else f"{t:.7g}" for t in choice.point.thresholds]
    for k, (threshold, share) in enumerate(zip([*shown, "–"], choice.point.shares, strict=True)):
        lines.append(f"{k:>4} {threshold:>10} {100 * share:>6.1f}%")
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
    if choice.point.thresholds[0] <= ALWAYS:
        lines.append("every image takes exit 0: the other stages are never used")
    elif useful is not None and choice.proven_on and useful > choice.proven_on:
        lines.append(
            f"with about {useful} images to prove it on, not {choice.proven_on}, more could exit early: "
            "what is really lost could then be half of what is promised"
        )
    return "\n".join(lines)
