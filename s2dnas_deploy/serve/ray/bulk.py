"""A run over the machines of a Ray cluster: Ray Data hands out windows of images, by number.

Place in the flow: what `s2dnas-run --ray` does; to a run it is who answers, in place of this process.

A window's answers depend on its images alone, so they are the same to the bit wherever it is answered: the
output is that of one machine, begun here and resumed there if need be. Each process has one cascade, finds
the same images under the same names, as machines with a common file system do, and answers one window at a
time. A machine that dies takes nothing with it: Ray has its windows answered elsewhere. Windows are tasks,
because what an actor has answered could be answered again only by this actor, for which there may be no room.
"""

import logging
import os
import pickle
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy import __version__
from s2dnas_deploy.bundle.bundle import Bundle
from s2dnas_deploy.errors import BundleError, DataError, OptionError
from s2dnas_deploy.ray_cluster import Connection, Needs, check_same_version
from s2dnas_deploy.runtime.answers.inputs import Item, find_items
from s2dnas_deploy.runtime.answers.job import RunRequest
from s2dnas_deploy.runtime.bulk import Answer, Bulk, BulkOptions
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions.providers import ON_GPU, choose_provider, is_choice, usable_cores


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a machine must know to answer any window of a run."""

    version: str
    folder: str
    """Where relative names begin."""
    bundle: Path
    digest: str
    trust: Path | None
    provider: str
    threads: int
    places: tuple[str, ...]
    listed: tuple[str, ...]
    images: str
    """The images' names in order, as one hash."""
    options: BulkOptions


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """What comes back of a window."""

    answers: list[Answer]
    stage_samples: tuple[int, ...]
    stage_seconds: tuple[float, ...]


class Cluster(Connection):
    """Who answers in a run, until it is closed: see `Answering`."""

    def __init__(self, address: str, request: RunRequest, bundle: Bundle, items: Sequence[Item]) -> None:
        """Connect to the cluster, whose machines will see the bundle and the images as this one does."""
        if address.startswith("ray://"):
            raise OptionError(
                f"--ray {address}: Ray Data does not work from outside of a cluster; log in to one of its "
                "machines, and give --ray auto there"
            )
        if request.budget_ms is not None:
            raise OptionError("--budget-ms times this machine: name the --setting for a cluster")
        if request.allow_fallback:
            raise OptionError(
                "--allow-fallback would let machines of a cluster differ: name the --provider that all have"
            )
        self.options, self._items = request.bulk, items
        # All must take the same: who asks for the best there is gets the best of this machine.
        best = is_choice(request.provider)
        self.provider = choose_provider(request.provider).name if best else request.provider
        threads = request.threads or usable_cores()
        last = request.bulk.last_stage
        stages = len(bundle.manifest.stages) if last is None else last + 1
        self.stage_samples, self.stage_seconds = [0] * stages, [0.0] * stages
        self._work = _Work(
            version=__version__,
            folder=os.getcwd(),
            bundle=request.bundle,
            digest=bundle.digest,
            trust=request.trust,
            provider=self.provider,
            threads=threads,
            places=request.places,
            listed=request.listed,
            images=_hash(items),
            options=replace(request.bulk, workers=threads),
        )
        needs = Needs(
            what="a cascade",
            cores=threads,
            cores_by="--threads",
            gpus=int(self.provider in ON_GPU),
            extra="ray",
        )
        super().__init__(address, needs)

    def answers_from(self, first: int, stop: Callable[[], bool]) -> Generator[Answer]:
        """As `Answering`: the answers from image `first` on, with which a window starts."""
        skipped, windows = first // self.options.window, -(-len(self._items) // self.options.window)
        if windows <= skipped:
            return
        for answered in self._windows(skipped, windows - skipped):
            for stage, samples in enumerate(answered.stage_samples):
                self.stage_samples[stage] += samples
                self.stage_seconds[stage] += answered.stage_seconds[stage]
            yield from answered.answers
            if stop():
                return

    def _windows(self, skipped: int, count: int) -> Generator[_Answered]:
        """Windows, answered, in order."""
        data = _ray_data()
        dataset = data.range(count, override_num_blocks=count).map_batches(
            _answered,
            fn_kwargs={"work": pickle.dumps(self._work), "skipped": skipped},
            batch_size=1,
            num_cpus=self.needs.cores,
            num_gpus=self.needs.gpus,
        )
        try:
            for row in dataset.iter_rows():
                yield pickle.loads(row["answered"])  # noqa: S301 - the cluster's own, as all that Ray sends
        except self.ray.exceptions.RayError as error:
            self.fail(error, "what was answered before is kept: go on with --resume")


def _answered(batch: dict[str, Any], work: bytes, skipped: int) -> dict[str, Any]:
    """Runs on a machine of the cluster: the answers of the window of a number."""
    items, bulk = _opened(work)
    start = (skipped + int(batch["id"][0])) * bulk.options.window
    samples, seconds = tuple(bulk.stage_samples), tuple(bulk.stage_seconds)
    answers = list(bulk.answers(item.source for item in items[start : start + bulk.options.window]))
    answered = _Answered(
        answers=answers,
        stage_samples=tuple(np.subtract(bulk.stage_samples, samples).tolist()),
        stage_seconds=tuple(np.subtract(bulk.stage_seconds, seconds).tolist()),
    )
    told = np.empty(1, object)
    told[0] = pickle.dumps(answered)
    return {"answered": told}


@lru_cache(1)  # a process answers one window after the other
def _opened(packed: bytes) -> tuple[Sequence[Item], Bulk]:
    """The images of the run, and a cascade for them: one in each process."""
    work: _Work = pickle.loads(packed)  # noqa: S301 - the cluster's own, as all that Ray sends
    check_same_version(work.version)
    try:
        os.chdir(work.folder)
    except OSError as problem:
        raise DataError(f"a machine of the cluster has no folder {work.folder}: {_ALIKE}") from problem
    cascade = Cascade.load(work.bundle, provider=work.provider, threads=work.threads, trust=work.trust)
    if cascade.digest != work.digest:
        raise BundleError(f"{work.bundle} is another bundle on a machine of the cluster: {_ALIKE}")
    items = find_items(work.places, cascade.labels, work.listed).images
    if _hash(items) != work.images:
        raise DataError(f"a machine of the cluster finds other images than this one: {_ALIKE}")
    return items, cascade.bulk(work.options)


_ALIKE = "all machines must see the bundle and the images under the same names, as on a common file system"


def _hash(items: Sequence[Item]) -> str:
    """Of the names of images, in order."""
    names = sha256()
    for item in items:
        names.update(item.name.encode("utf-8", "surrogateescape") + b"\0")
    return names.hexdigest()


def _ray_data() -> Any:
    """Ray Data, saying nothing, and giving results in order."""
    try:
        from ray import data
    except ImportError as error:
        raise OptionError(f"--ray needs Ray Data ({error}): pip install 's2dnas-deploy[ray]'") from error
    context = data.DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    context.execution_options.preserve_order = True
    for handler in logging.getLogger("ray.data").handlers:
        handler.setLevel(logging.ERROR)
    return data
