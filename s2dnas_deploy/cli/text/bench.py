"""A measurement or a comparison as a table for a person, and as CSV for a spreadsheet."""

import csv
import io
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from s2dnas_deploy.bench.compare import Comparison
from s2dnas_deploy.bench.report import Report, Run
from s2dnas_deploy.bench.spread import Estimate
from s2dnas_deploy.bench.summary import QUANTILES, Summary, rows_of
from s2dnas_deploy.bench.words import ANSWERS, LOSSES, UNKNOWN, answer_rows, speed_in_words, verdict
from s2dnas_deploy.bench.workers.subjects import CASCADE

if TYPE_CHECKING:
    from s2dnas_deploy.bench.loadgen import LoadResult

_COLUMNS = ("provider", "threads", "batch", "subject", "batches")


def report_text(report: Report, summaries: Sequence[Summary]) -> str:
    """All of a report, a table for each configuration."""
    return "\n".join([*_head(report), *_answers(report), *_cold(report), *_runs(report, summaries)])


def comparison_text(comparison: Comparison, limit: float) -> str:
    """What changed, a line a subject; beyond noise, or not."""
    lines = [f"note: {each}" for each in comparison.differences]
    shown, first = "", max([12, *(len(change.subject) for change in comparison.changes)])
    for change in comparison.changes:
        if change.configuration != shown:
            shown = change.configuration
            lines += [shown, f"{'':>{first}}{'before ms':>11}{'after ms':>11}{'change':>9}   99.9% interval"]
        told = (
            "faster" if change.is_faster else "slower" if change.is_slower else "no difference beyond noise"
        )
        if change in comparison.regressions(limit):
            told += f", by more than {100 * limit:g}%"
        by = change.by
        interval = f"{100 * by.low:+.1f} to {100 * by.high:+.1f}%"
        lines.append(
            f"{change.subject:>{first}}{change.before_ms:>11.4f}{change.after_ms:>11.4f}"
            f"{100 * by.value:>+8.1f}%   {interval:<18}{told}"
        )
    lines.append(
        "changes are relative to yardsticks that were timed along, so the machine's mood is taken out"
    )
    return "\n".join(lines)


def load_text(result: "LoadResult") -> str:
    """LoadGen's figure for a scenario, and whether the run is valid."""
    mean = "" if result.mean_ms is None else f", mean {result.mean_ms:.4f} ms"
    valid = "valid" if result.is_valid else "INVALID"
    return f"{result.scenario:>13}  {result.figure:>12.4f} {result.unit:<18}{mean}  {valid}  {result.log}"


def report_csv(report: Report, summaries: Sequence[Summary]) -> str:
    """A row for everything that has a latency, in each configuration."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{name}{part}_ms" for name in ("mean", *QUANTILES) for part in ("", "_low", "_high")]
    writer.writerow([*_COLUMNS, *names])
    for run, summary in zip(report.runs, summaries, strict=True):
        for name, each in rows_of(summary).items():
            numbers = [number for one in each.estimates.values() for number in _csv_cells(one)]
            writer.writerow([run.provider, run.threads, run.batch, name, each.batches, *numbers])
    return text.getvalue()


def _csv_cells(one: Estimate | None) -> tuple[str, ...]:
    return ("", "", "") if one is None else tuple(f"{x:.5f}" for x in (one.value, one.low, one.high))


def _head(report: Report) -> Iterator[str]:
    machine, state = report.environment.machine, report.environment.state
    load = "" if state.load is None else f", load {state.load:.1f}"
    governor = "" if state.governor is None else f", governor {state.governor}"
    celsius = "" if state.celsius is None else f", {state.celsius:.0f} °C"
    versions = ", ".join(f"{name} {version}" for name, version in report.environment.versions.items())
    what = f"{report.measured.name} ({report.measured.precision})"
    yield f"{what} on {machine.processor}{load}{governor}{celsius}"
    yield versions
    read = "" if report.decode_ms is None else f"; reading a file takes {report.decode_ms:.3f} ms more"
    yield f"time: {report.boundary}{read}"


def _answers(report: Report) -> Iterator[str]:
    yield ""
    for name, images, share, right, macs in (ANSWERS, *answer_rows(report)):
        yield f"{name:>14}{images:>9}{share:>8}{right:>17}{macs:>13}"


def _cold(report: Report) -> Iterator[str]:
    """Medians over the starts."""
    yield ""
    yield f"{'cold start':>12}{'libraries':>11}{'network':>10}{'1st answer':>12}{'2nd':>9}{'peak memory':>13}"
    for name, cold in report.cold.items():
        times = (median(each) for each in (cold.libraries, cold.network, cold.first, cold.second))
        libraries, network, first, second = times
        peak = median(cold.peak_bytes)
        memory = f"{peak / 2**20:.0f} MiB" if peak else "unknown"
        yield (
            f"{name:>12}{libraries:>8.0f} ms{network:>7.1f} ms{first:>9.2f} ms{second:>6.2f} ms{memory:>13}"
        )


def _runs(report: Report, summaries: Sequence[Summary]) -> Iterator[str]:
    for run, summary in zip(report.runs, summaries, strict=True):
        yield ""
        what = "an image" if run.batch == 1 else "a batch"
        yield f"{run.in_words}: milliseconds of {what}, and between which they lie (95%)"
        rows = {name: latency.estimates for name, latency in rows_of(summary).items()}
        known = [name for name in ("mean", *QUANTILES) if any(row[name] for row in rows.values())]
        lines = [("", known)]
        for name, row in rows.items():
            lines += _latency_lines(name, [row[column] for column in known])
        first, width = max(12, *map(len, rows)), max(len(cell) for _, cells in lines for cell in cells) + 2
        yield from (
            f"{name:>{first}}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in lines
        )
        yield from _speed(run, summary, report)


def _latency_lines(name: str, known: Sequence[Estimate | None]) -> Iterator[tuple[str, list[str]]]:
    """A line of values, and one of what they lie between."""
    yield name, [UNKNOWN if one is None else f"{one.value:.4f}" for one in known]
    yield "", ["" if one is None else f"{one.low:.4f}–{one.high:.4f}" for one in known]


def _speed(run: Run, summary: Summary, report: Report) -> Iterator[str]:
    if summary.speed_up is not None:
        yield speed_in_words(summary.speed_up)
        yield from verdict(summary.speed_up, report)
    mean = summary.subjects[CASCADE].mean.value
    for name, ms in summary.losses.items():
        yield f"{ms:>12.4f} ms {100 * ms / mean:>5.1f}%  {LOSSES[name]}"
    if run.energy is None:
        yield "energy: not counted on this device"
    for name, energy in (run.energy or {}).items():
        yield f"{1e3 * energy.joules / energy.images:>12.4f} mJ an image, {name} (by {energy.source})"
