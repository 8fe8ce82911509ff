"""The cascade under MLPerf LoadGen: loads as the benchmark defines them, judged by its own rules and log.

Place in the flow: what `s2dnas-bench load` does. LoadGen asks queries of samples by number; the cascade
answers each query as one batch, or a server that has the bundle does. A query that LoadGen has coalesced or
asks at once (Offline: all) is answered in batches of `batch`. What is measured and whether a run is valid is
LoadGen's to say; here its summary is only read. A server is asked by several threads, for it answers many at
once.

    SingleStream   the next query comes when the last is answered     90th percentile of the latency
    MultiStream    the same, eight samples a query                    99th percentile of the latency
    Offline        all samples at once                                samples a second
    Server         queries come at random, so many a second           valid if the 99th percentile is in time
"""

import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bench.answers import image_bytes, pixels_of, refuse_noise
from s2dnas_deploy.bench.remote import Remote
from s2dnas_deploy.errors import DataError, S2dnasError
from s2dnas_deploy.files.atomic import check_writable
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.runtime.answers.inputs import announced, evenly, find_items
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.sessions.limits import (
    LEAST_SECONDS,
    MOST_BATCH,
    MOST_CLIENTS,
    MOST_SECONDS,
    finite_number,
    whole_number,
)

_SUMMARY, _DETAIL = "mlperf_log_summary.txt", "mlperf_log_detail.txt"
_RESULTS = {
    "SingleStream": r"90(?:\.0)?th percentile latency \(ns\)\s*:\s*([\d.]+)",
    "MultiStream": r"99(?:\.0)?th percentile latency \(ns\)\s*:\s*([\d.]+)",
    "Offline": r"Samples per second\s*:\s*([\d.]+)",
    "Server": r"(?:Completed|Scheduled) samples per second\s*:\s*([\d.]+)",
}
# For a percentile to be believed, by LoadGen's rule of early stopping.
_FEWEST_QUERIES = {"SingleStream": 64, "MultiStream": 662, "Offline": 1, "Server": 662}
_PILOT = 20  # batches
_QUERIES_PER_SECOND, _WITHIN_MS = (1e-3, 10**6), (1e-3, 10**6)
_MORE = 2.0  # queries than by the time that a few have taken
_MOST_BYTES = 2**26  # of images in memory
_MEAN = r"Mean latency \(ns\)\s*:\s*([\d.]+)"


@dataclass(frozen=True, kw_only=True)
class Load:
    """A scenario, and how long it goes on at least; for Server, how many queries a second, and how soon."""

    scenario: str
    seconds: float = 10.0
    batch: int = 32
    queries_per_second: float = 100.0
    """Of Server; how many samples Offline asks for is found out by answering some."""
    within_ms: float = 15.0

    def __post_init__(self) -> None:
        checked = {
            "seconds": finite_number(self.seconds, "--seconds", LEAST_SECONDS, MOST_SECONDS),
            "batch": whole_number(self.batch, "--batch", 1, MOST_BATCH),
            "queries_per_second": finite_number(
                self.queries_per_second, "--queries-per-second", *_QUERIES_PER_SECOND
            ),
            "within_ms": finite_number(self.within_ms, "--within-ms", *_WITHIN_MS),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What a person asks of `s2dnas-bench load`."""

    bundle: Path
    places: tuple[str, ...]
    loads: tuple[Load, ...]
    log: Path
    """A folder; each scenario gets one in it."""
    provider: str = "auto"
    threads: int | None = None
    noise: bool = False
    trust: Path | None = None
    """The public key by whose owner the bundle must be signed."""
    server: str | None = None
    """The address of a server that answers, `http://HOST:PORT`; None: the cascade does, in this process."""
    model: str | None = None
    """What the bundle is called there; None: as its folder."""
    clients: int = 32
    """The connections to it."""

    def __post_init__(self) -> None:
        clients = whole_number(self.clients, "--clients", 1, MOST_CLIENTS)
        object.__setattr__(self, "clients", clients)


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What LoadGen says: its own figure (milliseconds, or samples a second), and whether the run is valid."""

    scenario: str
    is_valid: bool
    figure: float
    unit: str
    mean_ms: float | None
    """Mean latency of a query, which LoadGen tells for all scenarios but Offline."""
    log: Path


Ask = Callable[[Array], npt.NDArray[np.int64]]
"""Who answers: the class of each image of a batch."""


def run_load(ask: Ask, clients: int, images: Array, load: Load, log: Path) -> LoadResult:
    """Let LoadGen ask, so many at once where it does not wait; its log is kept in the folder `log`."""
    lg = _loadgen()
    log.mkdir(parents=True, exist_ok=True)
    for stale in (_SUMMARY, _DETAIL):
        (log / stale).unlink(missing_ok=True)
    answering = _Answering(ask, clients, images, load, lg)
    sut = lg.ConstructSUT(answering.issue, answering.flush)
    qsl = lg.ConstructQSL(len(images), len(images), answering.load, answering.unload)
    kept = lg.LogSettings()
    kept.log_output.outdir, kept.log_output.copy_summary_to_stdout = str(log), False
    kept.enable_trace = False
    try:
        lg.StartTestWithLogSettings(sut, qsl, _settings(load, answering, lg), kept)
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        _close(answering, log)
    return _result(load.scenario, log)


def _close(answering: "_Answering", log: Path) -> None:
    """End the threads; where an answer failed, what LoadGen found is not kept: it knows none that do."""
    try:
        answering.close()
    except Exception:
        (log / _SUMMARY).unlink(missing_ok=True)
        raise


def run_loads(request: LoadRequest, reporter: Reporter) -> list[LoadResult]:
    """One load after the other on the same images; each has a folder in `request.log`."""
    check_writable(request.log / "log", "--log")
    _loadgen()  # before the work
    # Where a server answers, images are read here and no more.
    provider = request.provider if request.server is None else "cpu"
    with Cascade.load(
        request.bundle, provider=provider, threads=request.threads, trust=request.trust
    ) as cascade:
        items = announced(find_items(request.places, cascade.labels), reporter)
        images = pixels_of(cascade, evenly(items, max(_MOST_BYTES // image_bytes(cascade.manifest), 1)))
        if not request.noise:
            refuse_noise(images)
        ask, clients = _who_answers(request, cascade)
        return [run_load(ask, clients, images, load, request.log / load.scenario) for load in request.loads]


def _who_answers(request: LoadRequest, cascade: Cascade) -> tuple[Ask, int]:
    """The cascade, one query after the other; or the server, many at once."""
    if request.server is None:
        return lambda images: cascade.predict(images).label, 1
    remote = Remote(request.server, request.model or request.bundle.resolve().name)
    return remote.labels, request.clients


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as problem:
        raise S2dnasError(
            "load scenarios need MLPerf LoadGen: pip install mlcommons-loadgen, or s2dnas-deploy[loadgen]"
        ) from problem
    return mlperf_loadgen


class _Answering:
    """Answers queries in threads of its own, so that LoadGen is never kept from asking."""

    def __init__(self, ask: Ask, clients: int, images: Array, load: Load, lg: Any) -> None:
        self._ask, self._images, self._lg, self._batch = ask, images, lg, load.batch
        self._asked: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        # One query at a time needs no thread, which would only add the time to wake it.
        count = clients if load.scenario == "Server" or (load.scenario == "Offline" and clients > 1) else 0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for each in self._threads:
            each.start()

    def issue(self, queries: Sequence[Any]) -> None:
        """LoadGen asks."""
        take = self._asked.put if self._threads else self._answer
        for start in range(0, len(queries), self._batch):
            take(queries[start : start + self._batch])

    def flush(self) -> None:
        """LoadGen has asked all it will for now; nothing is held back here."""

    def load(self, samples: Sequence[int]) -> None:
        """Images are in memory from the start."""

    def unload(self, samples: Sequence[int]) -> None:
        """They stay there."""

    def close(self) -> None:
        """End the threads."""
        for _ in self._threads:
            self._asked.put(None)
        for each in self._threads:
            each.join()
        if self._failed is not None:
            raise self._failed

    def seconds(self, batch: int) -> float:
        """How long a batch takes, about: the median of a few."""
        rows = (np.arange(_PILOT * batch) % len(self._images)).reshape(_PILOT, batch)
        taken = []
        for each in [rows[0], *rows]:
            started = time.perf_counter()
            self._ask(self._images[each])
            taken.append(time.perf_counter() - started)
        return float(np.median(taken[1:]))

    def rate(self, batch: int) -> float:
        """How many samples a second are answered in such batches, about."""
        if not self._threads:
            return batch / self.seconds(batch)
        rows = (np.arange(_PILOT * len(self._threads) * batch) % len(self._images)).reshape(-1, batch)
        self._ask(self._images[rows[0]])
        with ThreadPoolExecutor(len(self._threads)) as pool:
            started = time.perf_counter()
            for _ in pool.map(self._ask, (self._images[each] for each in rows)):
                pass
            return float(rows.size / (time.perf_counter() - started))

    def _work(self) -> None:
        while (queries := self._asked.get()) is not None:
            try:
                self._answer(queries)
            except Exception as problem:  # LoadGen would wait forever for whom this thread was to answer
                self._failed = self._failed or problem
                self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(q.id, 0, 0) for q in queries])

    def _answer(self, queries: Sequence[Any]) -> None:
        label = np.ascontiguousarray(self._ask(self._images[[query.index for query in queries]]))
        size = label.itemsize
        places = range(label.ctypes.data, label.ctypes.data + len(queries) * size, size)
        responses = [
            self._lg.QuerySampleResponse(query.id, place, size)
            for query, place in zip(queries, places, strict=True)
        ]
        self._lg.QuerySamplesComplete(responses)


def _settings(load: Load, answering: _Answering, lg: Any) -> Any:
    """LoadGen makes its queries beforehand: too few, and a run is over before its time, and not valid."""
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, load.scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * load.seconds)
    settings.min_query_count = _FEWEST_QUERIES[load.scenario]
    if load.scenario == "Server":
        settings.server_target_qps = load.queries_per_second
        settings.server_target_latency_ns = int(1e6 * load.within_ms)
    if load.scenario == "Offline":
        settings.offline_expected_qps = _MORE * answering.rate(load.batch)
    if load.scenario == "SingleStream":
        settings.single_stream_expected_latency_ns = int(1e9 * answering.seconds(1) / _MORE)
    if load.scenario == "MultiStream":
        size = settings.multi_stream_samples_per_query
        settings.multi_stream_expected_latency_ns = int(1e9 * answering.seconds(size) / _MORE)
    return settings


def _result(scenario: str, log: Path) -> LoadResult:
    path = log / _SUMMARY
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    figure, mean = re.search(_RESULTS[scenario], text), re.search(_MEAN, text)
    valid = re.search(r"Result is\s*:\s*(\w+)", text)
    if figure is None or valid is None:
        raise DataError(f"{path}: expected LoadGen's summary of a {scenario} run, got {text[:200]!r}")
    is_latency = scenario in ("SingleStream", "MultiStream")
    return LoadResult(
        scenario=scenario,
        is_valid=valid[1] == "VALID",
        figure=float(figure[1]) / 1e6 if is_latency else float(figure[1]),
        unit="ms" if is_latency else "samples a second",
        mean_ms=None if mean is None or scenario == "Offline" else float(mean[1]) / 1e6,
        log=log,
    )
