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
from pages import put_record
from scipy.stats import kendalltau
from thresholds import exit_accuracy

from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.reporter import Progress
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.model_file import Model, load_model
from s2dnas_deploy.workshop.network.nested import planned
from s2dnas_deploy.workshop.network.network import as_network, as_static
from s2dnas_deploy.workshop.pricing.price import by_macs
from s2dnas_deploy.workshop.search.judging.evaluators import STATISTICS_IMAGES, SharedEvaluator, SharedStart
from s2dnas_deploy.workshop.search.judging.exit_scores import logits_of, scores_from
from s2dnas_deploy.workshop.search.judging.foretold import foretold
from s2dnas_deploy.workshop.search.judging.judging_images import set_judges_aside
from s2dnas_deploy.workshop.search.judging.reward import worth_of
from s2dnas_deploy.workshop.search.judging.train_shared import SharedTask, train_shared
from s2dnas_deploy.workshop.search.space.by_hand import uniform_choices
from s2dnas_deploy.workshop.search.space.candidate import candidate_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.space.space import Choices, ExitSlot, PlanKind, SearchSpace, Slot
from s2dnas_deploy.workshop.training.devices import autocast_for
from s2dnas_deploy.workshop.training.loop import Task, accuracy, train
from s2dnas_deploy.workshop.training.settings import Settings

TARGETS = (0.15, 0.25, 0.4)
SHARED_LR = 0.05
"""As `s2dnas-search` has it; all else is as its defaults are, and those of `s2dnas-train`."""


@click.command()
@click.option("--network", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Keeps what is done.")
@click.option("--plan-kind", type=click.Choice(["stages", "in-turn"]), default="stages", show_default=True)
@click.option("--limit", type=int, help="At most so many images of each part.")
@click.option("--shared-epochs", default=5, show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and the tables.")
def main(
    network: Path,
    data: str,
    *,
    work: Path,
    plan_kind: PlanKind,
    limit: int | None,
    shared_epochs: int,
    epochs: int,
    record: bool,
) -> None:
    """Print both scores of each plan, and Kendall's tau between them."""
    work.mkdir(parents=True, exist_ok=True)
    model = load_model(network)
    shape = model.preprocessing.input_shape
    splits = load_images(data, input_shape=shape, seed=0, val_fraction=0.05, resize="stretch", limit=limit)
    static, rows = as_static(model.network), []
    with Console() as console:
        space = make_space(static.divisible.space, stages=3, plan_kind=plan_kind)
        evaluator = _evaluator(model, splits, work, shared_epochs, console, space=space)
        for name, choices in spanning(space).items():
            candidate = candidate_of(static, choices, space.plan(choices))
            shared, costs = evaluator.scores(candidate.division), evaluator.price(candidate)
            task = Task(
                network=planned(static, candidate.plan),
                teacher=as_network(static).eval(),
                splits=splits,
                preprocessing=model.preprocessing,
                settings=Settings(epochs=epochs),
                folder=work / f"{name}, {epochs} epochs",
            )
            trained = _trained(task, console.phase(f"training {name}", "steps"))
            rows.append({"plan": name, "costs": costs})
            expected = foretold(shared, evaluator.static_accuracy, evaluator.kept)
            rows[-1] |= {"shared": _rewards(expected, costs), "exits_shared": exit_accuracy(shared)}
            rows[-1] |= {"trained": _rewards(trained, costs), "exits_trained": exit_accuracy(trained)}
            click.echo(json.dumps(rows[-1]), err=True)
    taus = [
        float(kendalltau([row["shared"][i] for row in rows], [row["trained"][i] for row in rows]).statistic)
        for i in range(len(TARGETS))
    ]
    content = {"rows": rows, "taus": taus, "targets": TARGETS, "machine": machine()}
    content |= {"network": network.name, "images": len(splits.train), "shared_epochs": shared_epochs}
    content |= {"epochs": epochs, "plan_kind": plan_kind}
    click.echo(table(content))
    if record:
        put_record("shared_scores", content, table(content))


def _evaluator(
    model: Model, splits: ImageSplits, work: Path, epochs: int, console: Console, *, space: SearchSpace
) -> SharedEvaluator:
    """Judges by shared weights, as s2dnas-search does; by MACs, so that no clock has a say."""
    static, preprocessing = as_static(model.network), model.preprocessing
    kept, judges = set_judges_aside(splits)
    settings = Settings(epochs=epochs, ema=0.99, lr=SHARED_LR)
    task = SharedTask(
        static=static,
        space=space,
        splits=kept,
        preprocessing=preprocessing,
        settings=settings,
        folder=work,
    )
    return SharedEvaluator(
        start=SharedStart(
            shared=train_shared(task, console.phase("training shared weights", "steps")),
            statistics=kept.train.evenly(STATISTICS_IMAGES),
            preprocessing=preprocessing,
            settings=settings,
        ),
        judging=judges,
        price=by_macs(static),
        target=TARGETS[1],
        static_accuracy=accuracy(model.network, splits.val, preprocessing)[-1],
    )


def _trained(task: Task, progress: Progress) -> ExitScores:
    """What the exits of a plan say of the test images once it is trained by itself."""
    done, test, device = task.folder.with_suffix(".npz"), task.splits.test, torch.device("cpu")
    if done.exists():
        return ExitScores.load(done)
    assert test is not None, "the data has no test images"
    train(task, progress)
    logits = logits_of(task.network, test, task.preprocessing, device, autocast_for("auto", device))
    scores = scores_from(logits, test.labels)
    scores.save(done)
    return scores


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

    def at_full_depth(slot: Slot, allowed: Sequence[bool]) -> int:
        at_output = isinstance(slot, ExitSlot)
        return len(slot.options) - 1 if at_output else int(rng.choice(np.flatnonzero(allowed)))

    doubling, thin = uniform_choices(space)[1:]
    plans = {"uniform": doubling, "uniform, thin first": thin}
    plans |= {f"full depth {i}": space.walk(at_full_depth) for i in range(3)}
    return plans | {f"drawn {i}": space.draw(rng) for i in range(7)}


def _rewards(scores: ExitScores, costs: Sequence[float]) -> list[float]:
    return [worth_of(scores, costs, target).reward for target in TARGETS]


if __name__ == "__main__":
    main()
