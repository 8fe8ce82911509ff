"""Do scores on shared weights rank plans as training does? On CIFAR-10, over plans that span the space.

    python benchmarks/shared_scores.py --network STATIC.pt --data DIR --work DIR

Trains the shared weights as s2dnas-search does, and each plan as s2dnas-train does. The score is the search's
reward, the accuracy of the dynamic network within a budget of MACs; after training it is taken on the test
images. Goes on where it was if it is stopped.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from machine import machine
from pages import OWN, put_table
from scipy.stats import kendalltau

from s2dnas_deploy.build.images import load_images
from s2dnas_deploy.build.model_file import load_model
from s2dnas_deploy.build.network import as_network, as_static, carry_over
from s2dnas_deploy.build.search.evaluate import STATISTICS_IMAGES, SharedEvaluator
from s2dnas_deploy.build.search.evaluators import with_gain
from s2dnas_deploy.build.search.judge_shared import logits_of, scores_from
from s2dnas_deploy.build.search.judges import set_judges_aside
from s2dnas_deploy.build.search.price import by_macs
from s2dnas_deploy.build.search.reward import worth_of
from s2dnas_deploy.build.search.space import Choices, ExitSlot, SearchSpace, make_space, uniform_choices
from s2dnas_deploy.build.search.train_shared import SharedTask, train_shared
from s2dnas_deploy.build.training.devices import autocast_for
from s2dnas_deploy.build.training.loop import Task, accuracy, train
from s2dnas_deploy.build.training.settings import Settings
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.run.scores import ExitScores

RESULT = Path(__file__).parent / "results" / "shared_scores.json"
TARGETS = (0.15, 0.25, 0.4)
HOW = {
    "batch_size": 64,
    "lr": 0.05,
    "distill": 0.9,
    "self_distill": 0.3,
    "label_smoothing": 0.1,
    "crop_padding": 2,
}


@click.command()
@click.option("--network", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Keeps what is done.")
@click.option("--shared-epochs", default=5, show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and the tables.")
def main(network: Path, data: str, work: Path, shared_epochs: int, epochs: int, *, record: bool) -> None:
    """Print both scores of each plan, and Kendall's tau between them."""
    work.mkdir(parents=True, exist_ok=True)
    model = load_model(network)
    static, preprocessing = as_static(model.network), model.preprocessing
    splits = load_images(data, input_shape=preprocessing.input_shape, seed=0, val_fraction=0.05)
    assert splits.test is not None, "the data has no test images"
    space, price, device = make_space(static.divisible.space, stages=3), by_macs(static), torch.device("cpu")
    plans = spanning(space)
    kept, judges = set_judges_aside(splits)
    settings = Settings(epochs=epochs, ema=0.995, **HOW)  # type: ignore[arg-type]
    with Console() as console:
        task = SharedTask(
            static=static,
            space=space,
            splits=kept,
            preprocessing=preprocessing,
            settings=Settings(epochs=shared_epochs, ema=0.99, **HOW),  # type: ignore[arg-type]
            folder=work,
        )
        evaluator = SharedEvaluator(
            shared=train_shared(task, console.phase("training shared weights")),
            statistics=kept.train.evenly(STATISTICS_IMAGES),
            preprocessing=preprocessing,
            settings=settings,
            space=space,
            judging=judges,
            price=price,
            target=TARGETS[1],
        )
        whole = accuracy(as_network(static).eval(), splits.val, preprocessing)[0]
        evaluator = with_gain(evaluator, splits.val, whole)
        rows = []
        for name, choices in plans.items():
            scored, costs = evaluator.scores(choices)
            done = work / f"{name}.npz"
            if not done.exists():
                own = carry_over(static, space.plan(choices))
                teacher = as_network(static).eval()
                training = Task(
                    network=own,
                    teacher=teacher,
                    splits=splits,
                    preprocessing=preprocessing,
                    settings=settings,
                    folder=work / name,
                )
                train(training, console.phase(f"training {name}"))
                autocast = autocast_for("auto", device)
                logits = logits_of(own, splits.test, preprocessing, device, autocast)
                _save(scores_from(logits, splits.test.labels), done)
            rows.append({"plan": name, "costs": costs, "shared": _rewards(scored, costs)})
            rows[-1] |= {"trained": _rewards(_load(done), costs), "exits_shared": _exits(scored)}
            rows[-1] |= {"exits_trained": _exits(_load(done))}
            click.echo(json.dumps(rows[-1]), err=True)
    taus = [_tau([row["shared"][i] for row in rows], [row["trained"][i] for row in rows]) for i in range(3)]
    content = {"rows": rows, "taus": taus, "targets": TARGETS, "machine": machine()}
    content |= {"network": network.name, "shared_epochs": shared_epochs, "epochs": epochs}
    click.echo(table(content))
    if record:
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
        put_table("shared_scores", table(content), [OWN])


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table, best after training first."""
    lines = [
        "| plan | MACs up to each exit | exits, shared weights | exits, trained | reward: shared | trained |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(record["rows"], key=lambda row: -float(row["trained"][1])):
        costs, shared, trained = (
            " / ".join(f"{100 * x:.0f}%" for x in row[key])
            for key in ("costs", "exits_shared", "exits_trained")
        )
        lines.append(
            f"| {row['plan']} | {costs} | {shared} | {trained} "
            f"| {100 * row['shared'][1]:.1f} | {100 * row['trained'][1]:.1f} |"
        )
    taus = ", ".join(
        f"{tau:.2f} at {100 * target:.0f}%"
        for tau, target in zip(record["taus"], record["targets"], strict=True)
    )
    lines.append(f"| Kendall's tau of the rewards | {taus} | | | | |")
    return "\n".join(lines) + "\n"


def spanning(space: SearchSpace) -> dict[str, Choices]:
    """Twelve plans: uniform ones, full-depth ones drawn at random, and ones drawn from all of the space."""
    rng = np.random.default_rng(7)
    paper = make_space(space.plans, stages=space.stages, kind="paper", align=space.align)
    exits = [len(slot.options) - 1 for slot in space.slots if isinstance(slot, ExitSlot)]
    doubling, thin = uniform_choices(space)[1:]
    plans = {"uniform": doubling, "uniform, thin first": thin}
    for i in range(3):
        drawn = paper.draw(rng)
        options = [slot.options[choice] for slot, choice in zip(paper.slots, drawn, strict=True)]
        rest = space.slots[len(exits) :]
        same = [slot.options.index(each) for slot, each in zip(rest, options, strict=True)]  # type: ignore[arg-type]
        plans[f"full depth {i}"] = (*exits, *same)
    return plans | {f"drawn {i}": space.draw(rng) for i in range(7)}


def _rewards(scores: ExitScores, costs: Sequence[float]) -> list[float]:
    return [worth_of(scores, costs, target).reward for target in TARGETS]


def _exits(scores: ExitScores) -> list[float]:
    return [float(x) for x in (scores.label == scores.truth).mean(axis=1)]


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    return float(kendalltau(one, other).statistic)


def _save(scores: ExitScores, path: Path) -> None:
    assert scores.truth is not None
    np.savez(path, label=scores.label, confidence=scores.confidence, truth=scores.truth)


def _load(path: Path) -> ExitScores:
    with np.load(path) as kept:
        return ExitScores(label=kept["label"], confidence=kept["confidence"], truth=kept["truth"])


if __name__ == "__main__":
    main()
