"""`s2dnas-bench`: how fast this device is, as a profile that a search on a workstation prices plans by."""

from pathlib import Path
from typing import Any

import click

from s2dnas_deploy.cli.bundle_options import PROVIDERS
from s2dnas_deploy.cli.command import Command


@click.command(cls=Command)
@click.argument("probes", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Write the profile here."
)
@click.option(
    "--provider",
    type=click.Choice(PROVIDERS),
    default="auto",
    show_default=True,
    help="What runs the graphs.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores per stage.")
@click.option("--quiet", is_flag=True, help="No messages and no progress.")
def bench(**options: Any) -> None:
    """Time the stages of PROBES on this device, one image at a time, and write what a search needs of it.

    \b
    s2dnas-search … --write-probes probes/         on the workstation
    s2dnas-bench probes/ --out device.json         on the device, which needs no torch
    s2dnas-search … --cost device.json             on the workstation again
    """  # noqa: D301
    from s2dnas_deploy.bundle.files import write_text_atomically
    from s2dnas_deploy.cli.console import Console
    from s2dnas_deploy.run.profile import measure_profile

    with Console(quiet=options["quiet"]) as console:
        profile = measure_profile(
            options["probes"],
            provider=options["provider"],
            threads=options["threads"],
            progress=console.phase("timing"),
        )
        write_text_atomically(options["out"], profile.to_json())
        console.say(
            f"{len(profile.times)} probes timed on {profile.device['processor']}, "
            f"{profile.device['provider']}: {options['out']}"
        )
