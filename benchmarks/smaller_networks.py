r"""Smaller static networks of the same family, trained as the static network was, with it as the teacher.

    python benchmarks/smaller_networks.py --static STATIC.pt --data DIR --work DIR

What `peers.py` compares the cascade with. Widths are a share of the static network's; everything else is
its own recipe, read from what STATIC.pt says of itself, and distillation from it on top. A network that
is in the work folder already is not trained again, and one that was interrupted goes on.
"""

from dataclasses import replace
from pathlib import Path

import click
import torch
from sessions import splits_of

from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.workshop.data import ImageSplits
from s2dnas_deploy.workshop.network.model_file import Model, load_model, save_model
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.reading.source import build_network
from s2dnas_deploy.workshop.training.loop import Task, accuracy, train
from s2dnas_deploy.workshop.training.settings import Settings

FACTORS = (0.25, 0.375, 0.5, 0.75, 0.9)


@click.command()
@click.option("--static", "path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--factor", "factors", type=float, multiple=True, default=FACTORS, help="Of the widths.")
def main(path: Path, data: str, work: Path, factors: tuple[float, ...]) -> None:
    """Train those that are not there yet, and say how good each is."""
    static = load_model(path)
    splits = splits_of(static, data)
    with Console() as console:
        for factor in factors:
            model = smaller_network(static, factor, splits, work, console)
            (test,) = model.provenance["test_accuracy"]
            click.echo(f"{factor:5} of the widths: {100 * test:.2f}% of the test images")


def smaller_network(
    static: Model,
    factor: float,
    splits: ImageSplits,
    work: Path,
    console: Console,
    *,
    epochs: int | None = None,
) -> Model:
    """The network with this share of the widths, trained for as many epochs as the static one, or others."""
    path = work / f"width_{factor}.pt"
    if path.exists():
        return load_model(path)
    about = static.provenance
    arguments = dict(about["network_arguments"])
    arguments["widths"] = [round(factor * width) for width in arguments["widths"]]
    torch.manual_seed(0)
    module = build_network(about["network"], arguments).float()
    settings = replace(Settings(**dict(about["settings"], exit_weights=())), distill=0.9)
    task = Task(
        network=as_network(read_network(module, static.preprocessing.input_shape)),
        teacher=static.network.eval(),
        splits=splits,
        preprocessing=static.preprocessing,
        settings=settings if epochs is None else replace(settings, epochs=epochs),
        folder=work / f"width_{factor}",
    )
    assert splits.test is not None, "the data has no test images"
    train(task, console.phase(f"training {factor} of the widths"))
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
