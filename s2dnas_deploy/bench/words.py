"""What a measurement says in words, the same in the table and on the page: answers, speed, losses.

Place in the flow: `Report` and `Summary` ──▶ cells and sentences, which `page` and the command line lay out.
"""

from collections.abc import Iterator, Mapping

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bench.summary import SpeedUp, macs_of, mean_macs
from s2dnas_deploy.bench.workers.subjects import CASCADE, STATIC
from s2dnas_deploy.bundle.entries import percent

UNKNOWN = "–"
LOSSES: Mapping[str, str] = {
    "kernels": "stages beyond their share of MACs (narrow kernels, hand-over)",
    "copying": "images copied in",
    "moving": "deciding, and survivors moved together",
    "overhead": "Python and session calls",
}
_LITTLE = 0.5  # points
_HARDLY = 1.1
_REMEDY = "see docs/troubleshooting.md, It runs, but it is not faster"
ANSWERS = ("", "images", "share", "accuracy of all", "MACs/image")


def answer_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Under the heads of `ANSWERS`: each exit, the cascade, and the static network if it was measured."""
    answers, each = report.answers, report.measured.stage_macs
    upto = [macs_of([way for way in answers.all_ways if way.exit == k], each) for k in range(len(each))]
    every = answers.exit_accuracy or [None] * len(answers.counts)
    rows = [
        (f"exit {k}", str(count), f"{100 * count / answers.images:.1f}%", percent(right), millions(macs))
        for k, (count, right, macs) in enumerate(zip(answers.counts, every, upto, strict=True))
    ]
    right = percent(answers.cascade_accuracy)
    rows.append((CASCADE, str(answers.images), "", right, millions(mean_macs(report))))
    if report.measured.static is not None:
        right = percent(answers.static_accuracy)
        rows.append((STATIC, "", "", right, millions(report.measured.static_macs)))
    return rows


def speed_in_words(speed: SpeedUp) -> str:
    """How much faster than the static network, and how much it could be."""
    by_macs = "" if speed.by_macs is None else f", by MACs {speed.by_macs:.2f}x"
    return (
        f"{speed.realised.value:.2f}x as fast as the static network ({speed.realised.low:.2f} to "
        f"{speed.realised.high:.2f}); by its stages alone {speed.ideal:.2f}x{by_macs}"
    )


def verdict(speed: SpeedUp, report: Report) -> Iterator[str]:
    """A sentence where the cascade is not worth it."""
    static, cascade = report.answers.static_accuracy, report.answers.cascade_accuracy
    lost = 0.0 if static is None or cascade is None else 100 * (static - cascade)
    also = f", and {lost:.1f} points less accurate" if lost > _LITTLE else ""
    if speed.realised.high < 1:
        yield f"The cascade is slower than the static network here{also}: {_REMEDY}."
    elif speed.realised.high < _HARDLY:
        yield f"The cascade is hardly faster than the static network here{also}: {_REMEDY}."
    elif speed.realised.low <= 1:
        yield "Whether the cascade is faster is not certain: more --seconds or --processes would tell."


def millions(macs: float | None) -> str:
    """MACs as a person writes them."""
    return UNKNOWN if macs is None else f"{macs / 1e6:.2f} M"
