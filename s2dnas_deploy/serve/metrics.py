"""What Prometheus is told: the counts of every service, in its text format.

Place in the flow: `House` ──counts──▶ text. The format is simple and the counts are kept anyway, so nothing
of a client library would be used but its names.
"""

from collections.abc import Iterator, Mapping

from s2dnas_deploy.serve.counts import Counts, Histogram
from s2dnas_deploy.serve.house import House

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HELP = {
    "exits_total": ("counter", "answers by the exit that they come from"),
    "stage_batch": ("histogram", "samples that a stage ran at once"),
    "stage_seconds_total": ("counter", "seconds in a stage"),
    "queue_wait_seconds": ("histogram", "how long samples waited for the first stage"),
    "request_seconds": ("histogram", "how long requests took, from their last byte to their answers"),
    "queue_samples": ("gauge", "samples that wait for the first stage"),
    "pixels_bytes": ("gauge", "pixels of all that was accepted and is not answered yet"),
    "audited_total": ("counter", "samples whose answer was compared with the last exit's"),
    "audited_otherwise_total": ("counter", "of these, those that the last exit answers otherwise"),
    "promise_evidence": ("gauge", "evidence that the promise is broken: it is shown at 20"),
    "promise_broken_total": ("counter", "how often the promise was shown to be broken"),
    "refused_total": ("counter", "requests that were refused because too much was waiting"),
    "failed_total": ("counter", "requests that ended in an error"),
}


def metrics(house: House, refused: Mapping[str, int], failed: Mapping[str, int]) -> str:
    """The text; `refused` and `failed` are requests by model."""
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    for service, resident in house.loaded():
        of = {"model": resident.name, "version": resident.version}
        names, queue = service.cascade.names, service.queue
        for name, line in _of_counts(service.counts, names, of):
            samples[name].append(line)
        samples["queue_samples"].append(_line("queue_samples", of, queue.samples))
        samples["pixels_bytes"].append(_line("pixels_bytes", of, queue.held_bytes))
        audit = service.audit
        for name, value in () if audit is None else audit.told.items():
            samples[name].append(_line(name, of, value))
    for name, counted in (("refused_total", refused), ("failed_total", failed)):
        samples[name] += [_line(name, {"model": model}, count) for model, count in sorted(counted.items())]
    lines: list[str] = []
    for name, (kind, told) in _HELP.items():
        lines += [f"# HELP s2dnas_{name} {told}", f"# TYPE s2dnas_{name} {kind}", *samples[name]]
    return "\n".join(lines) + "\n"


def _of_counts(counts: Counts, names: tuple[str, ...], of: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for k, stage in enumerate(names):
        there = {**of, "stage": stage}
        yield "exits_total", _line("exits_total", {**of, "exit": stage}, counts.exits[k])
        yield "stage_seconds_total", _line("stage_seconds_total", there, counts.seconds[k])
        yield from (("stage_batch", line) for line in _histogram("stage_batch", there, counts.fill[k]))
    yield from (("queue_wait_seconds", line) for line in _histogram("queue_wait_seconds", of, counts.waited))
    yield from (("request_seconds", line) for line in _histogram("request_seconds", of, counts.took))


def _histogram(name: str, of: Mapping[str, str], histogram: Histogram) -> Iterator[str]:
    so_far = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        so_far += count
        yield _line(f"{name}_bucket", {**of, "le": "+Inf" if bound == float("inf") else f"{bound:g}"}, so_far)
    yield _line(f"{name}_sum", of, histogram.sum)
    yield _line(f"{name}_count", of, so_far)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return (
        f"s2dnas_{name}{{{told}}} {value:g}"
        if isinstance(value, float)
        else f"s2dnas_{name}{{{told}}} {value}"
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
