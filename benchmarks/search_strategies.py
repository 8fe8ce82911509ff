"""Does the policy find better plans than chance, and than evolution? At the same number of evaluations.

    python benchmarks/search_strategies.py --network DIGITS.pt --work DIR

Spaces small enough to judge every plan, on shared weights, priced by MACs: scikit-learn's digits and the
CNN in models/. Each strategy is given 15% as many evaluations as there are plans, with ten seeds. A hit is
one of the best 0.2% of all plans. The policy's constants were chosen on the first space alone.
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine
from pages import put_record
from scipy.stats import binomtest

from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.network.network import as_static
from s2dnas_deploy.workshop.pricing.price import by_macs
from s2dnas_deploy.workshop.search.judging.evaluators import SharedEvaluator, SharedStart
from s2dnas_deploy.workshop.search.judging.train_shared import SharedTask, train_shared
from s2dnas_deploy.workshop.search.space.candidate import candidate_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace
from s2dnas_deploy.workshop.search.strategies import STRATEGIES, Judge
from s2dnas_deploy.workshop.training.loop import accuracy
from s2dnas_deploy.workshop.training.settings import Settings

SEEDS = 10
SHARE = 0.15
BEST = 0.002
SPACES: dict[str, dict[str, Any]] = {
    "two stages, 10% of the MACs": {"stages": 2, "portions": 4, "target": 0.1},
    "three stages, 10% of the MACs": {"stages": 3, "portions": 3, "target": 0.1},
    "two full-depth stages, no choice of reuse, 40%": {
        "stages": 2,
        "portions": 8,
        "kind": "paper",
        "reuse": False,
        "target": 0.4,
    },
}


@click.command()
@click.option("--network", type=click.Path(exists=True, path_type=Path), required=True, help="One stage.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(network: Path, work: Path, *, record: bool) -> None:
    """Print how often each strategy finds one of the best plans."""
    rows = [row for name, how in SPACES.items() for row in _rows(name, network, work / name, **how)]
    click.echo(table(rows))
    if record:
        document = {"machine": machine(), "rows": rows}
        put_record("search_strategies", document, table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| space | strategy | evaluations | seeds that find one of the best 0.2% "
        "| median rank of what is found | against random: better, worse | p |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        evaluations, hits = f"{row['budget']} of {row['plans']}", f"{row['hits']} of {SEEDS}"
        lines.append(
            f"| {row['space']} | {row['strategy']} | {evaluations} | {hits} | {row['rank']:.0f} "
            f"| {row['wins']}, {row['losses']} | {row['p']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _rows(name: str, network: Path, work: Path, *, target: float, **how: Any) -> list[dict[str, Any]]:
    space, truth = _every_plan_judged(network, work, target, how)
    rows = [{"space": name, **_row(strategy, space, truth)} for strategy in STRATEGIES]
    chance = next(row for row in rows if row["strategy"] == "random")
    for row in rows:
        pairs = list(zip(row["found"], chance["found"], strict=True))
        wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        row |= {"wins": wins, "losses": losses}
        row["p"] = binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
    return rows


def _row(name: str, space: SearchSpace, truth: dict[Choices, float]) -> dict[str, Any]:
    scores = np.sort(list(truth.values()))[::-1]
    limit = scores[max(int(BEST * len(scores)), 1) - 1]
    budget = int(SHARE * len(scores))
    found, asked = [], []
    for seed in range(SEEDS):
        judge = Judge(
            lambda asked: [truth[choices] for choices in asked], budget, candidate_of=tuple, effect=tuple
        )
        STRATEGIES[name](space, judge, np.random.default_rng(seed))
        found.append(judge.scores[judge.best])
        asked.append(len(judge.scores))
    return {
        "strategy": name,
        "plans": len(scores),
        "budget": budget,
        "asked": asked,
        "found": found,
        "hits": int(sum(score >= limit for score in found)),
        "rank": float(np.median([1 + (scores > score).sum() for score in found])),
    }


def _every_plan_judged(
    path: Path, work: Path, target: float, how: dict[str, Any]
) -> tuple[SearchSpace, dict[Choices, float]]:
    model = load_model(path)
    static = as_static(model.network)
    space = make_space(static.divisible.space, **how)
    splits = load_images("digits", input_shape=model.preprocessing.input_shape, seed=0, val_fraction=0.6)
    settings = Settings(epochs=60, batch_size=64, lr=0.05, ema=0.99, augment="crop", precision="float32")
    shared_task = SharedTask(
        static=static,
        space=space,
        splits=splits,
        preprocessing=model.preprocessing,
        settings=settings,
        folder=work,
    )
    started = time.perf_counter()
    shared = train_shared(shared_task, lambda done, total, note: None)
    click.echo(f"shared weights: {time.perf_counter() - started:.0f} s", err=True)
    evaluator = SharedEvaluator(
        start=SharedStart(
            shared=shared,
            statistics=splits.train,
            preprocessing=model.preprocessing,
            settings=settings,
        ),
        judging=splits.val,
        price=by_macs(static),
        target=target,
        static_accuracy=accuracy(model.network, splits.val, model.preprocessing)[-1],
    )
    kept = work / f"every plan at {target:g}.json"
    if not kept.exists():
        every = (candidate_of(static, choices, space.plan(choices)) for choices in space.every())
        rewards = [(list(candidate.choices), evaluator(candidate).reward) for candidate in every]
        kept.write_text(json.dumps(rewards))
        click.echo(f"every plan: {time.perf_counter() - started:.0f} s", err=True)
    return space, {tuple(choices): reward for choices, reward in json.loads(kept.read_text())}


if __name__ == "__main__":
    main()
