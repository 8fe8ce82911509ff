"""A trained model in words: the accuracy of each exit, or of each nested width."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2dnas_deploy.workshop.network.model_file import Model


def summary_in_words(model: "Model", out: Path) -> str:
    """What was reached, an exit or a width a line."""
    about = model.provenance
    plan = model.network.division.plan
    names = plan.width_names if plan.nested else [f"exit {k}" for k in range(plan.stages)]
    test = about.get("test_accuracy") or [None] * model.network.stages
    lines = [f"{'':14}{'val':>8}{'test':>8}"]
    before = about.get("static_accuracy")
    if before is not None:
        lines.append(f"{'static':14}{_percent(before['val'])}{_percent(before.get('test'))}")
    for name, val, tested in zip(names, about["val_accuracy"], test, strict=True):
        lines.append(f"{name:14}{_percent(val)}{_percent(tested)}")
    return "\n".join([*lines, f"model: {out}"])


def _percent(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{100 * value:7.2f}%"
