"""The options that name a plan and how its widths are rounded, for the commands that are given one."""

from pathlib import Path
from typing import Any

import click

from s2dnas_deploy.cli.options.sections import Declared, option


def plan_option(*, default: str | None) -> Declared[Any]:
    """How a network is divided."""
    return option(
        "--plan",
        default=default,
        show_default=default is not None,
        help="How the network is divided: auto (by --cost), a JSON file, static, uniform:0.25,0.25,0.5, "
        "depth:NODE,NODE or random:STAGES; into nested widths: widths:0.25,0.5,1, of which the caller picks, "
        "in-turn:0.25,1, tried until one is sure, or gate:0.25,0.5,1, of which a gate picks (0.5x0.34 for "
        "0.5: of a third of the residual blocks); for training, also blocks:0.5, which leaves residual "
        "blocks out, and of what came of that, paths:3.",
    )


cost_option = option(
    "--cost",
    default="clock",
    show_default=True,
    help="Price plans by this machine's clock (one CPU thread), macs, or a device.json of s2dnas-bench.",
)


def check_plan(text: str, *, learns: bool) -> None:
    """Refuse what no network could be divided by, before any is read.

    `learns`: some plans are for training alone.
    """
    from s2dnas_deploy.plan import AUTO
    from s2dnas_deploy.plan.text import blocks_share, from_file_or_text, paths_count

    if learns and (blocks_share(text) is not None or paths_count(text) is not None):
        return
    if text != AUTO:
        from_file_or_text(text)


def check_cost(cost: str) -> None:
    """Refuse what is neither a way to price nor a file."""
    if cost not in ("macs", "clock") and not Path(cost).is_file():
        raise click.UsageError(f"--cost {cost}: expected clock, macs or the file of a device profile")


align_option = option(
    "--align",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Round plans to this many channels.",
)
