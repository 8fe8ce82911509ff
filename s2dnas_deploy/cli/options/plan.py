"""The options that name a plan and how its widths are rounded, for the commands that are given one."""

from typing import Any

import click

from s2dnas_deploy.cli.options.sections import Declared, option


def plan_option(*, required: bool) -> Declared[Any]:
    """How a network is divided."""
    return option(
        "--plan",
        required=required,
        help="How the network is divided: a JSON file, static, uniform:0.25,0.25,0.5, depth:NODE,NODE or "
        "random:STAGES.",
    )


align_option = option(
    "--align",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Round plans to this many channels.",
)
