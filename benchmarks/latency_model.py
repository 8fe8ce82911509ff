"""Does a device profile tell how long stages take that it has never timed? One CPU thread, single images.

    python benchmarks/latency_model.py --network STATIC.pt --network OTHER.pt --data DIR

For each network: 20 probes are timed and a model is fitted to them, as s2dnas-search does; then 20 other
plans, drawn from the whole space, are exported and timed, and every stage's time is compared with what the
model says.
"""

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine
from pages import put_record
from scipy.stats import spearmanr

from s2dnas_deploy.bundle.device_profile import STATIC
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.runtime.probing import measure_profile
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.network.network import as_static, carry_over
from s2dnas_deploy.workshop.network.stages import slice_stages
from s2dnas_deploy.workshop.pricing.latency import features_of, fit
from s2dnas_deploy.workshop.pricing.probes import Probed, write_probes
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.space.spanning import probe_plans
from s2dnas_deploy.workshop.training.request import Prepared

UNSEEN = 20


@click.command()
@click.option(
    "--network", "networks", multiple=True, type=click.Path(exists=True, path_type=Path), required=True
)
@click.option("--data", required=True)
@click.option("--stages", default=3, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(networks: tuple[Path, ...], data: str, stages: int, *, record: bool) -> None:
    """Print errors of predicted stage times."""
    rows = [_row(path, data, stages) for path in networks]
    click.echo(table(rows))
    if record:
        put_record("latency_model", {"machine": machine(), "rows": rows}, table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| network | stages timed | median error | nine in ten within | rank correlation | whole chains |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['network']} | {len(row['measured'])} | {100 * row['median']:.1f}% "
            f"| {100 * row['ninth']:.1f}% | {row['correlation']:.3f} | {100 * row['chains']:.1f}% |"
        )
    return "\n".join(lines) + "\n"


def _row(path: Path, data: str, stages: int) -> dict[str, Any]:
    model = load_model(path)
    static = as_static(model.network)
    splits = load_images(data, input_shape=model.preprocessing.input_shape, seed=0, limit=200)
    prepared = Prepared(static=static, is_trained=True, splits=splits, preprocessing=model.preprocessing)
    space = make_space(static.divisible.space, stages=stages)
    probes = probe_plans(space)
    fitted = fit(static, _profile(prepared, probes))
    others = probe_plans(space, len(probes) + UNSEEN, seed=1)
    unseen = [name for name, plan in others.items() if plan not in probes.values()][:UNSEEN]
    profile = _profile(prepared, {name: others[name] for name in (STATIC, *unseen)})
    expected, measured, chains = [], [], []
    for name, times in profile.times.items():
        if name == STATIC:
            continue
        sliced = slice_stages(carry_over(static, profile.plans[name]))
        features = features_of(sliced, static.graph.input_shape)
        said = [fitted.time(each) for each in features]
        took = [ms / times.reference_ms for ms in times.stage_ms]
        expected += said
        measured += took
        chains.append(abs(sum(said) / sum(took) - 1))
    errors = np.abs(np.array(expected) / np.array(measured) - 1)
    return {
        "network": model.provenance["network"].rpartition(":")[2],
        "median": float(np.median(errors)),
        "ninth": float(np.quantile(errors, 0.9)),
        "correlation": float(spearmanr(expected, measured).statistic),
        "chains": float(np.median(chains)),
        "expected": expected,
        "measured": measured,
    }


def _profile(prepared: Prepared, plans: dict[str, Plan]) -> Any:
    def silent(done: int, total: int, note: str) -> None:
        pass

    with tempfile.TemporaryDirectory() as folder:
        write_probes(Probed.of(prepared), plans, Path(folder), silent)
        return measure_profile(Path(folder), provider="cpu", threads=1, progress=silent)


if __name__ == "__main__":
    main()
