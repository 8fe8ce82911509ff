"""How often the watch over a promise cries wolf, and how soon it sees one.

    python benchmarks/watch.py --record

Simulated streams of audited samples. At the bound itself, each sample is answered otherwise than by the last
exit with the probability that was promised: what share of streams ever alarms? Then with more of them, from
the beginning or after as many fine samples (half of the bound): after how many is it found?
"""

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from machine import machine
from pages import check_place, put_record

from s2dnas_deploy.decide.watch import DELTA, Watch

_BOUNDS = (0.01, 0.05)
_TIMES = (1.5, 2.0, 3.0)
_LONGEST, _FINE = 40_000, 20_000


@click.command()
@click.option("--streams", default=2000, show_default=True, help="At the bound.")
@click.option("--samples", default=10_000, show_default=True, help="Of each of these.")
@click.option("--broken", default=100, show_default=True, help="Streams where the promise is broken.")
@click.option("--record", is_flag=True, help="Also write the record and the table.")
def main(streams: int, samples: int, broken: int, *, record: bool) -> None:
    """Print shares of alarms, and samples until there was one."""
    if record:
        check_place("watch")
    rows = [_row(bound, streams, samples, broken) for bound in _BOUNDS]
    click.echo(table(rows))
    if record:
        put_record("watch", {"machine": machine(), "delta": DELTA, "rows": rows}, table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The record as a Markdown table."""
    head = " | ".join(f"{times:g} times: from the start | after {_FINE:,} fine ones" for times in _TIMES)
    lines = [f"| promised at most | alarms, of {rows[0]['streams']:,} streams at it | {head} |"]
    lines.append("| ---: | ---: |" + " ---: | ---: |" * len(_TIMES))
    for row in rows:
        found = " | ".join(
            f"{each[0]:,.0f} (90%: {each[1]:,.0f})" for times in row["found"].values() for each in times
        )
        share = 100 * row["alarms"] / row["streams"]
        lines.append(f"| {100 * row['bound']:g}% | {row['alarms']} ({share:.2f}%) | {found} |")
    return "\n".join(lines) + "\n"


def _row(bound: float, streams: int, samples: int, broken: int) -> dict[str, Any]:
    drawn = np.random.default_rng(0)
    alarms = sum(_alarm(Watch(bound), drawn.random(samples) < bound) is not None for _ in range(streams))
    found = {
        f"{times:g}": [_found(bound, times, fine, broken, drawn) for fine in (0, _FINE)] for times in _TIMES
    }
    return {"bound": bound, "streams": streams, "samples": samples, "alarms": alarms, "found": found}


def _found(
    bound: float, times: float, fine: int, streams: int, drawn: np.random.Generator
) -> tuple[float, float]:
    """Median and 90th percentile of the samples until an alarm; those with none count as the longest."""
    seen = []
    for _ in range(streams):
        watch = Watch(bound)
        _alarm(watch, drawn.random(fine) < bound / 2)
        at = _alarm(watch, drawn.random(_LONGEST) < times * bound)
        seen.append(_LONGEST if at is None else at + 1)
    return float(np.median(seen)), float(np.percentile(seen, 90))


def _alarm(watch: Watch, otherwise: Any) -> int | None:
    """The sample at which there is an alarm, if at any."""
    for number, each in enumerate(otherwise.tolist()):
        if watch.add(each):
            return number
    return None


if __name__ == "__main__":
    main()
