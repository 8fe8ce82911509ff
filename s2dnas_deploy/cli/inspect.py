"""`s2dnas-inspect`: a static network, a plan or a `model.pt` in words."""
import click
from s2dnas_deploy.cli.command import Command

@click.command(cls=Command)
def inspect() -> None:
    """Show."""
