"""A measurement as one HTML page with plots, which needs nothing but itself: no script, no network.

Place in the flow: `Report` ──▶ text. A view of the record; what it shows is `summary`'s.
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from s2dnas_deploy.bench.report import Example, Report, Run
from s2dnas_deploy.bench.spread import Estimate
from s2dnas_deploy.bench.summary import QUANTILES, Summary, arrays, mean_of, rows_of
from s2dnas_deploy.bench.words import (
    ANSWERS,
    LOSSES,
    UNKNOWN,
    answer_rows,
    speed_in_words,
    verdict,
)
from s2dnas_deploy.bench.workers.subjects import CASCADE, STATIC, YARDSTICKS, exit_name
from s2dnas_deploy.bundle.entries import percent
from s2dnas_deploy.quoting import number_of, shortened
from s2dnas_deploy.runtime.charts import Bar, Line, bars, lines, stacked

_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_PARTS = {"macs": "its share of the static network's MACs", "bare": "its stages", **LOSSES}
_CURVE_POINTS, _LONGEST_CLASS = 120, 24
_WRONG = ' class="wrong"'


def page_of(report: Report, summaries: Sequence[Summary]) -> str:
    """The page."""
    name, machine = report.measured.name, report.environment.machine.processor
    pairs = zip(report.runs, summaries, strict=True)
    sections = [section for run, summary in pairs for section in _run(run, summary, report)]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(name)} on {escape(machine)}</title>",
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{escape(name)}</h1>",
            f'<p class="note">{escape(f"{report.measured.precision}, on {machine}, {report.date}")}</p>',
            _facts(report, summaries[0]),
            *sections,
            "<h2>What all images are answered</h2>",
            _table(ANSWERS, answer_rows(report)),
            _examples(report),
            _frontier(report),
            "<h2>Cold start</h2>",
            _cold(report),
            "<h2>Measured on</h2>",
            _environment(report),
            "</body></html>",
            "",
        ]
    )


def _facts(report: Report, summary: Summary) -> str:
    """The few numbers that decide, of the first configuration."""
    answers = report.answers
    facts = [(f"{summary.subjects[CASCADE].mean.value:.3f} ms", "the cascade, on average")]
    if summary.speed_up is not None:
        facts.append((f"{summary.speed_up.realised.value:.2f}x", "as fast as the static network"))
    if answers.cascade_accuracy is not None:
        facts.append((percent(answers.cascade_accuracy), f"right, of {number_of(answers.images, 'image')}"))
    if answers.static_accuracy is not None:
        facts.append((percent(answers.static_accuracy), "right, the static network"))
    if answers.counts[0]:
        facts.append((f"{100 * answers.shares[0]:.1f}%", "exit at the first stage"))
    return (
        '<div class="facts">'
        + "".join(f"<div><b>{b}</b>{escape(text)}</div>" for b, text in facts)
        + "</div>"
    )


def _run(run: Run, summary: Summary, report: Report) -> Iterable[str]:
    """A configuration: latencies, their distribution, and where the time goes."""
    realised = summary.speed_up
    speed = "no static network was measured" if realised is None else speed_in_words(realised)
    unit = "ms of an image" if run.batch == 1 else f"ms of a batch of {run.batch}"
    yield f"<h2>{escape(run.in_words)}</h2>"
    yield '<div class="plots">'
    rows = [
        Bar(
            name=name,
            value=each.mean.value,
            low=each.mean.low,
            high=each.mean.high,
            marks=tuple(
                q.value for key, q in each.quantiles.items() if q is not None and key in ("p50", "p99")
            ),
        )
        for name, each in summary.subjects.items()
        if name not in YARDSTICKS
    ]
    yield _figure("Latency", bars(rows, unit), "mean with its 95% interval; ticks are the median and p99")
    yield _figure(
        "How soon answers are there", lines(_distributions(run), unit, "% answered"), "of the timings taken"
    )
    yield _figure("Where the cascade's time goes", stacked(_parts(summary), "ms"), speed)
    yield "</div>"
    for sentence in verdict(realised, report) if realised is not None else ():
        yield f"<p>{escape(sentence)}</p>"
    cells = [
        [name, *(_estimate(one) for one in each.estimates.values())]
        for name, each in rows_of(summary).items()
    ]
    yield _table(["ms, with 95% intervals", "mean", *QUANTILES], cells)
    told = (
        f"{name} {1e3 * each.joules / each.images:.3f} mJ by {each.source}"
        for name, each in (run.energy or {}).items()
    )
    counted = "not counted on this device" if run.energy is None else ", ".join(told)
    yield f'<p class="note">Energy of an image: {escape(counted)}</p>'


def _estimate(one: Estimate | None) -> str:
    return UNKNOWN if one is None else f"{one.value:.4f} ({one.low:.4f} – {one.high:.4f})"


def _distributions(run: Run) -> list[Line]:
    """The share of timings up to each, of the cascade and the static network, but for the last percent."""
    found = []
    for name in (CASCADE, STATIC):
        if name in run.subjects:
            every = np.concatenate([each.ravel() for each in arrays(run.subjects[name])])
            shares = np.linspace(0, 0.99, _CURVE_POINTS)
            points = zip(np.quantile(every, shares).tolist(), (100 * shares).tolist(), strict=True)
            found.append(Line(name=name, points=tuple(points)))
    return found


def _parts(summary: Summary) -> list[tuple[str, float]]:
    """What adds up to the cascade's mean."""
    losses = dict(summary.losses)
    first = ("bare", summary.bare_ms)
    if "kernels" in losses:
        first = ("macs", summary.bare_ms - losses["kernels"])
    return [(_PARTS[name], value) for name, value in (first, *losses.items())]


def _examples(report: Report) -> str:
    """Some images of each exit, with what they are and are answered."""
    strips = []
    for k, share in enumerate(report.answers.shares):
        shown = "".join(_example(each) for each in report.examples if each.exit == k)
        if shown:
            title = f"exit {k}, {100 * share:.1f}% of the images"
            strips.append(f'<h3>{escape(title)}</h3><div class="strip">{shown}</div>')
    return "\n".join(["<h2>Some of the images</h2>", *strips]) if strips else ""


def _example(example: Example) -> str:
    answer, is_wrong = shortened(example.answer, _LONGEST_CLASS), example.truth not in (None, example.answer)
    told = f"{shortened(example.truth or '', _LONGEST_CLASS)}, answered {answer}" if is_wrong else answer
    picture = f'<img src="data:image/jpeg;base64,{example.jpeg}" alt="{escape(told)}">'
    return f"<figure{_WRONG if is_wrong else ''}>{picture}<figcaption>{escape(told)}</figcaption></figure>"


def _frontier(report: Report) -> str:
    """Accuracy, or agreement with the last exit, against time."""
    run, answers = report.runs[0], report.answers
    if not report.frontier:
        return ""

    def at(name: str, right: float) -> tuple[float, float]:
        return mean_of(run.subjects[name]) / run.batch, 100 * right

    curve = [(p.cost, 100 * (1 - p.loss if p.accuracy is None else p.accuracy)) for p in report.frontier]
    drawn = [Line(name="other thresholds", points=tuple(sorted(curve)))]
    if answers.cascade_accuracy is not None and answers.exit_accuracy is not None:
        drawn.append(Line(name="the cascade", points=(at(CASCADE, answers.cascade_accuracy),), joined=False))
        exits = (at(exit_name(k), right) for k, right in enumerate(answers.exit_accuracy))
        drawn.append(Line(name="each exit alone", points=tuple(exits), joined=False))
    if answers.static_accuracy is not None:
        drawn.append(Line(name="static network", points=(at(STATIC, answers.static_accuracy),), joined=False))
    what = "% right" if answers.exit_accuracy is not None else "% as the last exit"
    chart = lines(drawn, "mean ms of an image", what)
    note = f"{run.in_words}; by the mean times of the exits"
    return f'<div class="plots">{_figure("What other thresholds would come to", chart, note)}</div>'


def _cold(report: Report) -> str:
    rows = []
    for name, cold in report.cold.items():
        medians = [
            f"{np.median(each):.1f}" for each in (cold.libraries, cold.network, cold.first, cold.second)
        ]
        peak = np.median(cold.peak_bytes)
        rows.append([name, *medians, f"{peak / 2**20:.0f} MiB" if peak else UNKNOWN])
    return _table(["ms until", "libraries", "network", "first answer", "second", "peak memory"], rows)


def _environment(report: Report) -> str:
    environment, measured = report.environment, report.measured
    machine, memory = vars(environment.machine), environment.machine.memory_bytes
    told = {
        **{key: _shown(value) for key, value in machine.items() if key != "memory_bytes"},
        "memory": "not told" if memory is None else f"{memory / 2**30:.1f} GiB",
        **environment.versions,
        **{key: _shown(value) for key, value in vars(environment.state).items()},
        "time is taken": report.boundary,
        "reading a file": UNKNOWN if report.decode_ms is None else f"{report.decode_ms:.3f} ms more",
        "images": measured.images,
        "bundle": measured.digest[:16],
    }
    return _table(["", ""], [[key.replace("_", " "), value] for key, value in told.items()])


def _shown(value: object) -> str:
    if value is None:
        return "not told"
    if isinstance(value, float):
        return f"{value:.2f}"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _figure(title: str, chart: str, note: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{chart}<figcaption>{escape(note)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
