"""What an export wrote, in words."""

from pathlib import Path

from s2dnas_deploy.bundle.entries import percent
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.flow import Choices
from s2dnas_deploy.decide.thresholds import ALWAYS
from s2dnas_deploy.quoting import number_of


def choices_in_words(name: str, setting: Choices) -> str:
    """What a caller may choose, a line each, with what is known of it."""
    lines = [f"--setting {name}=…, {setting.default} if it is not given"]
    for k, choice in enumerate(setting.choices):
        macs = "" if setting.macs is None else f" {setting.macs[k] / 1e6:>10.2f} M MACs"
        right = "" if setting.accuracy is None else f" {percent(setting.accuracy[k]):>8} right"
        lines.append(f"  {choice:<{max(map(len, setting.choices))}}{macs}{right}")
    return "\n".join(lines)


def threshold_in_words(threshold: float) -> str:
    """How sure an exit must be, as a number, or that all exit there, or none."""
    return "never" if threshold > 1 else "always" if threshold <= ALWAYS else f"{threshold:.7g}"


def manifest_in_words(manifest: Manifest, out: Path) -> str:
    """The stages, a line each, and what to expect of them."""
    flow = manifest.flow
    width = max(5, *map(len, flow.called))
    lines = [f"{'stage':>{width}} {'size':>10} {'MACs':>10} {'features in':>12} {'out':>4}"]
    for k, stage in enumerate(manifest.stages):
        lines.append(
            f"{flow.called[k]:>{width}} {stage.graph.size_bytes / 1e6:>7.2f} MB {stage.macs / 1e6:>8.2f} M "
            f"{len(stage.reads):>12} {len(stage.gives):>4}"
        )
    if manifest.expected is not None:
        e = manifest.expected
        exits = [k for k, stop in enumerate(flow.stops) if stop.answers]
        names = [] if flow.is_chain else [" of ", " / ".join(flow.called[k] for k in exits)]
        shares = "".join([" / ".join(f"{100 * e.exit_share[k]:.1f}%" for k in exits), *names])
        accuracies = " / ".join(percent(e.exit_accuracy[k]) for k in exits)
        whose = "each exit on" if flow.is_chain else "each stage on those that come to it of"
        if not flow.settings:  # of those, each choice is told
            lines += [
                f"accuracy of {whose} {number_of(e.images, 'validation image')}: {accuracies}",
                f"{_by_what(manifest)}: {100 * e.cascade_accuracy:.2f}%, exits {shares}",
            ]
    lines += [choices_in_words(name, each) for name, each in flow.settings.items()]
    return "\n".join([*lines, f"bundle: {out}"])


def _by_what(manifest: Manifest) -> str:
    """What decides where images exit, with its numbers."""
    flow = manifest.flow
    if not flow.thresholds:
        return "all in all" if flow.gate is None else "as the gate picks"
    numbers = " / ".join(map(threshold_in_words, flow.thresholds))
    calibrated = all(stage.exit is None or stage.exit.calibrated for stage in manifest.stages[:-1])
    return f"with the thresholds {numbers}{'' if calibrated else ', until s2dnas-calibrate chooses others'}"
