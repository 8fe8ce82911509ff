"""What an export wrote, in words."""

from pathlib import Path

from s2dnas_deploy.bundle.manifest import Manifest


def manifest_in_words(manifest: Manifest, out: Path) -> str:
    """The stages, a line each, and what to expect of them."""
    lines = [f"{'stage':>5} {'size':>10} {'MACs':>10} {'features in':>12} {'out':>4}"]
    for k, stage in enumerate(manifest.stages):
        lines.append(
            f"{k:>5} {stage.graph.size_bytes / 1e6:>7.2f} MB {stage.macs / 1e6:>8.2f} M "
            f"{len(stage.reads):>12} {len(stage.gives):>4}"
        )
    if manifest.expected is not None:
        e = manifest.expected
        shares = " / ".join(f"{100 * share:.1f}%" for share in e.exit_share)
        accuracies = " / ".join(f"{100 * accuracy:.2f}%" for accuracy in e.exit_accuracy)
        lines += [
            f"accuracy of each exit on {e.images} validation images: {accuracies}",
            f"with these thresholds: {100 * e.cascade_accuracy:.2f}%, exits {shares}",
        ]
    return "\n".join([*lines, f"bundle: {out}"])
