"""The commands: thin layers that parse, call and print. Heavy imports happen inside them.

`s2dnas` is the group of all; each is also installed under its own name.
"""

import click

from s2dnas_deploy import __version__
from s2dnas_deploy.cli.command import GuardedGroup
from s2dnas_deploy.cli.commands.bench import bench
from s2dnas_deploy.cli.commands.calibrate import calibrate
from s2dnas_deploy.cli.commands.demo import demo
from s2dnas_deploy.cli.commands.export import export
from s2dnas_deploy.cli.commands.inspect import inspect
from s2dnas_deploy.cli.commands.run import run
from s2dnas_deploy.cli.commands.search import search
from s2dnas_deploy.cli.commands.serve import serve
from s2dnas_deploy.cli.commands.train import train


@click.group(cls=GuardedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Turn an image CNN into a multi-stage network that answers easy images early."""


main.add_command(search, "search")
main.add_command(train, "train")
main.add_command(export, "export")
main.add_command(inspect, "inspect")
main.add_command(run, "run")
main.add_command(calibrate, "calibrate")
main.add_command(serve, "serve")
main.add_command(bench, "bench")
main.add_command(demo, "demo")

__all__ = ["bench", "calibrate", "demo", "export", "inspect", "main", "run", "search", "serve", "train"]
