"""Are promises kept, and what do they cost? Over random draws of images from recorded exit scores.

    python benchmarks/guarantee.py --scores SCORES.npz --macs 8.9,26.4,96

The recorded scores (of `s2dnas-calibrate --scores`) are taken as all there is: calibration images are drawn
from them with replacement, and what the cascade then really loses is known. A second case is synthetic. Every
way of testing goes along the same path:

    exact       what `s2dnas-calibrate` does: the paired test of `risk`
    normal      the normal approximation, which promises more than it can prove
    betting     Waudby-Smith and Ramdas, 2023: capital that grows against too large a mean
    bernstein   Maurer and Pontil, 2009: the empirical Bernstein bound
    bentkus     Bates et al., 2021: the better of Hoeffding's and Bentkus' bounds

The oracle sees everything: the cheapest thresholds on any of the paths that really lose no more than allowed.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine
from pages import put_record

from s2dnas_deploy.decide.exact_tests import ExactTest, binomial_cdf
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import (
    USUAL_OFFSET,
    Against,
    changes,
    losses_of,
    mean_cost,
    path_of,
)

DELTA = 0.05
OFFSETS = tuple(0.25 * i for i in range(13))
Proves = Callable[..., bool]


@click.command()
@click.option("--scores", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--macs", required=True, help="MACs until each exit.")
@click.option("--draws", default=1000, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(scores: Path, macs: str, draws: int, *, record: bool) -> None:
    """Print how often each promise is broken, and what it costs."""
    cost = [float(value) for value in macs.split(",")]
    cases = {"CIFAR-10": (ExitScores.load(scores), cost), "synthetic": (synthetic(200_000), [1.0, 3.0, 10.0])}
    rows = []
    for case, (everyone, costs) in cases.items():
        for images, drop in ((1000, 0.01), (5000, 0.005), (5000, 0.01), (10_000, 0.005)):
            row = {"case": case, "images": images, "drop": drop}
            row["tests"] = compare(everyone, costs, images, drop, draws)
            rows.append(row)
            click.echo(table([row]))
    if record:
        about = {"machine": machine(), "draws": draws}
        put_record("guarantee", {**about, "rows": rows}, table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The record as a Markdown table: broken promises, and cost over the oracle's."""
    names = list(TESTS)
    lines = [
        "| case | images | drop | " + " | ".join(names) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(names),
    ]
    for row in rows:
        cells = [
            f"{100 * row['tests'][name]['broken']:.1f}%, {row['tests'][name]['cost']:.2f}x" for name in names
        ]
        lines.append(
            f"| {row['case']} | {row['images']} | {100 * row['drop']:g} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def compare(
    everyone: ExitScores, cost: list[float], images: int, drop: float, draws: int
) -> dict[str, dict[str, float]]:
    """For each test: share of broken promises, mean true drop, and mean cost over the oracle's."""
    losses = losses_of(everyone, Against.LAST_EXIT)
    every = np.arange(len(everyone))
    truths = {offset: _truth(everyone, losses, offset, every, cost) for offset in OFFSETS}
    path, (true, spent) = path_of(USUAL_OFFSET, everyone.exits), truths[USUAL_OFFSET]
    oracle = min(float(spent[true <= drop].min()) for true, spent in truths.values())
    reached: dict[str, list[tuple[float, float]]] = {name: [] for name in TESTS}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        rows = rng.integers(0, len(everyone), images)
        worse, better = changes(everyone, losses, path, rows)
        for name, proves in TESTS.items():
            test = partial(proves, n=images, alpha=drop, rng=rng)
            step = _last_proven(worse, better, test)
            reached[name].append((true[step], spent[step]) if step >= 0 else (0.0, cost[-1]))
    result = {}
    for name, points in reached.items():
        drops, costs = np.array(points).T
        result[name] = {
            "broken": float((drops > drop).mean()),
            "drop": float(drops.mean()),
            "cost": float(costs.mean() / oracle),
        }
    return result


def _truth(
    everyone: ExitScores, losses: np.ndarray, offset: float, rows: np.ndarray, cost: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The true drop and cost at every step of a path."""
    path = path_of(offset, everyone.exits)
    worse, better = changes(everyone, losses, path, rows)
    return (worse - better) / len(rows), mean_cost(everyone, path, rows, cost)


def _last_proven(worse: np.ndarray, better: np.ndarray, proves: Callable[[int, int], bool]) -> int:
    """The step before the first one that is not proven; the same counts need no second test."""
    proven: dict[tuple[int, int], bool] = {}
    for step, counts in enumerate(zip(worse.astype(int).tolist(), better.astype(int).tolist(), strict=True)):
        if counts not in proven:
            proven[counts] = proves(*counts)
        if not proven[counts]:
            return step - 1
    return len(worse) - 1


# --- tests of "the mean loss is above α", for so many losses of 1 and of -1 among n ------------------------


def exact(worse: int, better: int, n: int, alpha: float, rng: np.random.Generator) -> bool:
    """The test of the package."""
    return bool(ExactTest(images=n, alpha=alpha, delta=DELTA, paired=True).proves(worse, better))


def normal(worse: int, better: int, n: int, alpha: float, rng: np.random.Generator) -> bool:
    """Mean + 1.645 standard errors below α."""
    mean = (worse - better) / n
    variance = (worse + better) / n - mean**2
    return mean + 1.6449 * math.sqrt(variance / n) <= alpha


def bernstein(worse: int, better: int, n: int, alpha: float, rng: np.random.Generator) -> bool:
    """Mean + sqrt(2 · V · ln(2/δ) / n) + 7 · range · ln(2/δ) / (3 · (n - 1)) below α; the range is 2."""
    mean = (worse - better) / n
    variance = ((worse + better) - n * mean**2) / (n - 1)
    log = math.log(2 / DELTA)
    return mean + math.sqrt(2 * variance * log / n) + 14 * log / (3 * (n - 1)) <= alpha


def bentkus(worse: int, better: int, n: int, alpha: float, rng: np.random.Generator) -> bool:
    """The smaller of two p-values for losses moved to [0, 1]."""
    mean, limit = ((worse - better) / n + 1) / 2, (alpha + 1) / 2
    if mean >= limit:
        return False
    divergence = mean * math.log(mean / limit) + (1 - mean) * math.log((1 - mean) / (1 - limit))
    hoeffding = math.exp(-n * divergence)
    return min(hoeffding, math.e * binomial_cdf(math.ceil(n * mean), n, limit)) <= DELTA


def betting(worse: int, better: int, n: int, alpha: float, rng: np.random.Generator) -> bool:
    """Capital of bets against the mean, sized by the spread seen so far; proven once it is 1/δ."""
    if normal(worse, better, n, alpha, rng) is False:
        return False  # betting is never sharper; this spares the random order of those that fail anyway
    losses = np.zeros(n)
    losses[:worse], losses[worse : worse + better] = 1.0, -1.0
    scaled = (rng.permutation(losses) + 1) / 2
    limit = (alpha + 1) / 2
    count = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(scaled)) / (1 + count)
    spread = (0.25 + np.cumsum((scaled - mean) ** 2)) / (1 + count)
    before = np.concatenate([[0.25], spread[:-1]])
    bets = np.minimum(np.sqrt(2 * math.log(1 / DELTA) / (n * before)), 0.75 / (1 - limit))
    return bool(np.cumsum(np.log1p(bets * (limit - scaled))).max() >= math.log(1 / DELTA))


TESTS: dict[str, Proves] = {
    "exact": exact,
    "normal": normal,
    "betting": betting,
    "bernstein": bernstein,
    "bentkus": bentkus,
}


def synthetic(count: int) -> ExitScores:
    """Scores with a known truth: the surer an exit, the more often it is right; hard is hard for all."""
    generator = np.random.default_rng(0)
    hard = generator.uniform(size=count)
    truth = generator.integers(0, 10, count)
    label, confidence = [], []
    for k, skill in enumerate((0.80, 0.88, 0.93)):
        sure = 1 - hard ** (1 + k) * generator.uniform(0.6, 1.0, count)
        chance = np.clip(skill + 1.2 * (sure - sure.mean()), 0.02, 0.995)
        right = generator.uniform(size=count) < chance
        label.append(np.where(right, truth, (truth + 1 + k) % 10))
        confidence.append(sure)
    return ExitScores(label=np.array(label), confidence=np.array(confidence, np.float32), truth=truth)


if __name__ == "__main__":
    main()
