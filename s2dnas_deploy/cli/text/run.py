"""The summary of a run in words: where images left, how many were right, and what that cost."""

from itertools import accumulate

from s2dnas_deploy.runtime.answers.job import ExitTally, Summary


def summary_in_words(summary: Summary) -> str:
    """A table with a row per exit, one for all, and one for what every stage on every image would cost."""
    macs = list(accumulate(summary.stage_macs))
    times = list(_cumulated(summary.stage_ms))
    lines = [f"{'exit':>12} {'images':>8} {'share':>7} {'accuracy':>9} {'MACs/image':>11} {'ms/image':>9}"]
    for k, tally in enumerate(summary.exits):
        lines.append(_row(str(k), tally, summary.answered, macs[k], times[k]))
    if summary.answered:
        everyone = ExitTally(
            images=summary.answered,
            labelled=sum(tally.labelled for tally in summary.exits),
            right=sum(tally.right for tally in summary.exits),
        )
        shares = [tally.images / summary.answered for tally in summary.exits]
        mean_macs = sum(share * cost for share, cost in zip(shares, macs, strict=True))
        known = [(share, ms) for share, ms in zip(shares, times, strict=True) if share]
        mean_ms = None if any(ms is None for _, ms in known) else sum(s * ms for s, ms in known if ms)
        lines.append(_row("all", everyone, summary.answered, mean_macs, mean_ms))
        if len(macs) > 1:
            full = _against("MACs", macs[-1], mean_macs)
            if times[-1] is not None and mean_ms:
                full += ", " + _against("time in the stages", times[-1], mean_ms)
            lines.append(f"every stage on every image would take {full}")
    rate = (summary.answered + summary.failed - summary.resumed) / max(summary.seconds, 1e-9)
    ending = f"{summary.answered} images, {summary.failed} failed, {summary.seconds:.1f} s, {rate:.0f}/s"
    ending += f", on {summary.provider}"
    if summary.resumed:
        ending += f"; {summary.resumed} were there already"
    return "\n".join([*lines, ending])


def _row(name: str, tally: ExitTally, total: int, macs: float, ms: float | None) -> str:
    share = f"{100 * tally.images / total:.1f}%" if total else "–"
    accuracy = f"{100 * tally.right / tally.labelled:.2f}%" if tally.labelled else "–"
    time = "–" if ms is None else f"{ms:.3f}"
    return f"{name:>12} {tally.images:>8} {share:>7} {accuracy:>9} {macs / 1e6:>9.2f} M {time:>9}"


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
