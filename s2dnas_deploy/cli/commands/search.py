"""`s2dnas-search`: a trained static network and images become the best multi-stage network that was found."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.command import ResumableCommand
from s2dnas_deploy.cli.commands.train import summary_of
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.network import network_options
from s2dnas_deploy.cli.options.recipe import apply_recipe
from s2dnas_deploy.cli.options.training import training_options, training_request

if TYPE_CHECKING:
    from s2dnas_deploy.build.search.session import Found


@click.command(cls=ResumableCommand, name="search")
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    callback=apply_recipe,
    help="A TOML file of these options; the command line overrides it.",
)
@network_options
@click.option("--stages", type=click.IntRange(2, 8), default=3, show_default=True)
@click.option(
    "--target",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.25,
    show_default=True,
    help="Average cost of an image, as a share of the static network's.",
)
@click.option(
    "--space",
    type=click.Choice(["full", "paper"]),
    default="full",
    show_default=True,
    help="paper: every stage goes through all layers; full: also depth exits, and stages that own nothing.",
)
@click.option(
    "--align",
    type=click.IntRange(1, 1_000_000),
    default=8,
    show_default=True,
    help="Divide in portions of this width; at most 8 in a group, so wider ones in wide groups.",
)
@click.option(
    "--strategy",
    type=click.Choice(["policy", "evolution", "random"]),
    default="policy",
    show_default=True,
    help="How plans are found.",
)
@click.option(
    "--evaluations", type=click.IntRange(1, 1_000_000), default=300, show_default=True, help="Plans to judge."
)
@click.option(
    "--evaluator",
    type=click.Choice(["shared", "finetune"]),
    default="shared",
    show_default=True,
    help="Judge plans on shared weights, in a second, or train each for a few epochs.",
)
@click.option(
    "--shared-epochs",
    type=click.IntRange(0, 1_000_000),
    show_default="as many as --epochs",
    help="Passes to train the shared weights.",
)
@click.option("--shared-lr", type=float, default=0.05, show_default=True, help="Peak learning rate of that.")
@click.option(
    "--finalists",
    type=click.IntRange(0, 1_000_000),
    default=8,
    show_default=True,
    help="Train so many of the best plans for a while before the winner is chosen; with fewer than 2, none.",
)
@click.option(
    "--finetune-epochs",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Passes for each finalist, or for every plan with --evaluator finetune.",
)
@click.option(
    "--cost",
    default="clock",
    show_default=True,
    help="Price plans by this machine's clock (one CPU thread), macs, or a device.json of s2dnas-bench.",
)
@click.option(
    "--write-probes",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only write into this folder what s2dnas-bench times on another device.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Train so many of the best plans that differ.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Judge plans on the machines of the Ray cluster at HOST:PORT; the same plan is found.",
)
@training_options
@click.option("--quiet", is_flag=True, help="No messages and no progress, only the result.")
def search(**options: Any) -> None:
    """Find the plan with the best accuracy for its average cost, and train it: MODEL.PT.

    The network must be trained (--weights, or --static-epochs). Beside --out, a folder keeps every plan that
    was tried with its score and cost (plans.jsonl) and a picture (frontier.svg). A search that was stopped,
    even by kill -9, goes on where it was when the same command is given again.

    \b
    s2dnas-search --model net.py:make --input 3x32x32 --weights net.pth --data images/ \\
        --stages 3 --target 0.25 --epochs 10 --out model.pt
    s2dnas-search --recipe models/digits.toml --out digits.pt
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    from s2dnas_deploy.build.search.request import SearchRequest
    from s2dnas_deploy.build.search.session import search_model

    training = training_request({**options, "plan": "searched", "align": 1})
    names = [name for name in SearchRequest.__dataclass_fields__ if name != "training"]
    request = SearchRequest(training=training, **{name: options[name] for name in names})
    if request.cost not in ("macs", "clock") and not Path(request.cost).is_file():
        raise click.UsageError(f"--cost {request.cost}: expected clock, macs or the file of a device profile")
    silence_pillow()
    with Console(quiet=options["quiet"]) as console, redirect_stdout(sys.stderr):
        found = search_model(request, console)
    if found:
        print_result("\n\n".join(_in_words(each) for each in found))


def _in_words(found: "Found") -> str:
    """The plan, what the search thought of it, and what came of it."""
    worth = found.trial.worth
    lines = [f"exits at {', '.join(found.plan.exits)}"]
    lines += [f"  {name}: {' / '.join(map(str, counts))}" for name, counts in found.plan.channels.items()]
    if found.plan.no_reuse:
        lines.append(f"  no reuse at {', '.join(sorted(found.plan.no_reuse))}")
    costs = " / ".join(f"{100 * cost:.1f}%" for cost in worth.exit_cost)
    lines.append(f"cost of leaving at each exit, of the static network's: {costs}")
    lines.append(f"in the search: {100 * worth.accuracy:.2f}% at an average of {100 * worth.cost:.1f}%")
    return "\n".join([*lines, summary_of(found.model, found.out)])
