r"""Smaller static networks of the same family, trained as the static network was, with it as the teacher.

    python benchmarks/smaller_networks.py --static STATIC.pt --data DIR --work DIR

What `peers.py` compares the cascade with. They have a share of the static network's widths, and of its blocks
after an x, as in `0.5x0.5`, written as in plans; everything else is its own recipe, read from what STATIC.pt
says of itself, and distillation from it on top. A network that is in the work folder already is not trained
again, and one that was interrupted goes on.
"""

from dataclasses import replace
from pathlib import Path

import click
import torch
from sessions import splits_of

from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.network.model_file import Model, load_model, save_model
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.reading.source import build_network
from s2dnas_deploy.workshop.training.loop import Task, accuracy, train
from s2dnas_deploy.workshop.training.settings import Settings

SHARES = ("0.25", "0.5x0.5", "0.375", "0.5", "1x0.5", "0.75")


@click.command()
@click.option("--static", "path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option(
    "--share", "shares", multiple=True, default=SHARES, help="Of the widths, or of widths x blocks."
)
@click.option("--epochs", type=int, help="[default: as many as the static network]")
@click.option("--augment", default="flip", show_default=True, help="As s2dnas-train has it for the taught.")
def main(
    path: Path, data: str, work: Path, shares: tuple[str, ...], *, epochs: int | None, augment: str
) -> None:
    """Train those that are not there yet, and say how good each is."""
    static = load_model(path)
    splits = splits_of(static, data)
    with Console() as console:
        for share in shares:
            model = smaller_network(static, share, splits, work, console, epochs=epochs, augment=augment)
            (test,) = model.provenance["test_accuracy"]
            click.echo(f"{share:8} of the widths: {100 * test:.2f}% of the test images")


def smaller_network(
    static: Model,
    share: str,
    splits: ImageSplits,
    work: Path,
    console: Console,
    *,
    epochs: int | None = None,
    augment: str = "flip",
) -> Model:
    """The network of this share, trained for as many epochs as the static one, or others."""
    path = work / f"width_{share}.pt"
    if path.exists():
        return load_model(path)
    about = static.provenance
    arguments = dict(about["network_arguments"])
    of_widths, _, of_blocks = share.partition("x")
    arguments["widths"] = [round(float(of_widths) * width) for width in arguments["widths"]]
    if of_blocks:
        arguments["blocks"] = max(1, round(float(of_blocks) * arguments["blocks"]))
    torch.manual_seed(0)
    module = build_network(about["network"], arguments).float()
    settings = replace(Settings(**dict(about["settings"], exit_weights=())), distill=0.9, augment=augment)
    task = Task(
        network=as_network(read_network(module, static.preprocessing.input_shape)),
        teacher=static.network.eval(),
        splits=splits,
        preprocessing=static.preprocessing,
        settings=settings if epochs is None else replace(settings, epochs=epochs),
        folder=work / f"width_{share}",
    )
    assert splits.test is not None, "the data has no test images"
    train(task, console.phase(f"training {share} of the widths", "steps"))
    model = replace(
        static,
        network=task.network.eval(),
        provenance={
            "network": about["network"],
            "network_arguments": arguments,
            "test_accuracy": accuracy(task.network, splits.test, task.preprocessing),
        },
    )
    save_model(model, path)
    return model


if __name__ == "__main__":
    main()
