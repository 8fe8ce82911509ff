"""The summary of a run in words: where images left, how many were right, and what that cost."""

from collections.abc import Sequence
from itertools import accumulate

from s2dnas_deploy.quoting import named_in_line, number_of, shortened
from s2dnas_deploy.runtime.answers.job import ExitTally, Failure, Summary

_NAMED_REASONS = 3
_LONGEST_REASON = 300


def summary_in_words(summary: Summary) -> str:
    """A table with a row per exit and one for all; of a chain, what every stage on every image would cost."""
    lines = _of_chain(summary) if summary.names is None else _of_ways(summary, summary.names)
    rate = (summary.answered + summary.failed - summary.resumed) / max(summary.seconds, 1e-9)
    lines += _why_some_failed(summary.failures, summary.failed)
    ending = f"{number_of(summary.answered, 'image')}, {summary.failed} failed, {summary.seconds:.1f} s"
    ending += f", {rate:.0f} images/s, on {summary.provider}"
    if summary.resumed:
        ending += f"; {summary.resumed} were there already"
    return "\n".join([*lines, ending])


def _why_some_failed(failures: Sequence[Failure], failed: int) -> list[str]:
    """The reasons of most, with what to do; the output has the reason of each."""
    if not failed:
        return []
    named = failures[:_NAMED_REASONS]
    others = failed - sum(failure.images for failure in named)
    lines = [f"{number_of(failed, 'image')} got no answer:", *map(_in_a_line, named)]
    if others:
        lines.append(f"  and {others} for other reasons, told in the output beside each")
    return lines


def _in_a_line(failure: Failure) -> str:
    first = named_in_line(failure.first)
    whose = first if failure.images == 1 else f"{number_of(failure.images, 'image')}, as {first}"
    return f"  {whose}: {shortened(failure.reason, _LONGEST_REASON)}"


def _of_chain(summary: Summary) -> list[str]:
    macs = list(accumulate(summary.stage_macs))
    times = list(_cumulated(summary.stage_ms))
    lines = [_head("exit", 12, "MACs/image", "ms/image")]
    for k, tally in enumerate(summary.exits):
        lines.append(_row(f"{k:>12}", tally, summary.answered, macs[k], times[k]))
    if not summary.answered:
        return lines
    shares = [tally.images / summary.answered for tally in summary.exits]
    mean_macs = sum(share * cost for share, cost in zip(shares, macs, strict=True))
    known = [(share, ms) for share, ms in zip(shares, times, strict=True) if share]
    mean_ms = None if any(ms is None for _, ms in known) else sum(s * ms for s, ms in known if ms)
    lines.append(_row(f"{'all':>12}", _everyone(summary), summary.answered, mean_macs, mean_ms))
    if len(macs) > 1:
        full = _against("MACs", macs[-1], mean_macs)
        if times[-1] is not None and mean_ms:
            full += ", " + _against("time in the stages", times[-1], mean_ms)
        lines.append(f"every stage on every image would take {full}")
    return lines


def _of_ways(summary: Summary, names: Sequence[str]) -> list[str]:
    """What a stage takes is told of each by itself: which came before it, the ways say."""
    width = max(12, *map(len, names))
    lines = [_head("answered by", width, "MACs", "ms")]
    stages = zip(names, summary.exits, summary.stage_macs, summary.stage_ms, strict=True)
    lines += [_row(f"{name:>{width}}", tally, summary.answered, macs, ms) for name, tally, macs, ms in stages]
    mean_macs = mean_ms = None
    if summary.answered and not summary.resumed:  # what stages had to do before is not known
        shares = [samples / summary.answered for samples in summary.stage_samples]
        mean_macs = sum(share * each for share, each in zip(shares, summary.stage_macs, strict=True))
        mean_ms = sum(share * (each or 0.0) for share, each in zip(shares, summary.stage_ms, strict=True))
    if summary.answered:
        lines.append(_row(f"{'all':>{width}}", _everyone(summary), summary.answered, mean_macs, mean_ms))
    return lines


def _everyone(summary: Summary) -> ExitTally:
    return ExitTally(
        images=summary.answered,
        labelled=sum(tally.labelled for tally in summary.exits),
        right=sum(tally.right for tally in summary.exits),
    )


def _head(whose: str, width: int, macs: str, ms: str) -> str:
    return f"{whose:>{width}} {'images':>8} {'share':>7} {'accuracy':>9} {macs:>11} {ms:>9}"


def _row(name: str, tally: ExitTally, total: int, macs: float | None, ms: float | None) -> str:
    share = f"{100 * tally.images / total:.1f}%" if total else "–"
    accuracy = f"{100 * tally.right / tally.labelled:.2f}%" if tally.labelled else "–"
    time = "–" if ms is None else f"{ms:.3f}"
    cost = "–" if macs is None else f"{macs / 1e6:.2f} M"
    return f"{name} {tally.images:>8} {share:>7} {accuracy:>9} {cost:>11} {time:>9}"


def _against(what: str, full: float, mean: float) -> str:
    return f"{full / mean:.2f}x the {what}"


def _cumulated(times: tuple[float | None, ...]) -> list[float | None]:
    """Time until each exit; unknown after a stage that did not run."""
    total: float | None = 0.0
    result = []
    for ms in times:
        total = None if total is None or ms is None else total + ms
        result.append(total)
    return result
