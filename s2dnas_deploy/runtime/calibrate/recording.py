"""Running every stage on every image, and writing down what each exit says, and the gate if there is one.

Place in the flow: bundle + images ──all stages──▶ `ExitScores`, from which `decide` chooses thresholds.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.temperature import TemperatureFit, fit_temperature
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.runtime.answers.inputs import Item, truth_of
from s2dnas_deploy.runtime.bulk import BulkOptions, decoded
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array

# Of probabilities, kept to fit temperatures: of all images, or of some, evenly taken.
_MOST_NUMBERS = 2**22


def exit_scores(
    cascade: Cascade,
    items: Sequence[Item],
    options: BulkOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExitScores:
    """Run every stage on every image; an image that cannot be read is an error. Truth if all have one."""
    gated, total = cascade.flow.gate is not None, len(items)
    exits = len(cascade.names) - gated
    gate = np.empty((total, exits), np.float32) if gated else None
    label = np.empty((exits, total), np.int64)
    confidence = np.empty((exits, total), np.float32)
    truth = truth_of(items, cascade.labels)
    every = max(1, -(-total * len(cascade.labels) // _MOST_NUMBERS))
    probabilities: list[Array] = []
    digest = hashlib.sha256()
    done = 0
    for images in _batches(decoded((item.source for item in items), cascade.reader, options), options.batch):
        rows = slice(done, done + len(images))
        if gate is None:
            heard = cascade.all_exits(images)
        else:
            heard, gate[rows] = cascade.all_ways(images)
        label[:, rows], confidence[:, rows] = heard.label, heard.confidence
        if truth is not None:
            probabilities.append(heard.probabilities[:, -done % every :: every].copy())
        digest.update(np.ascontiguousarray(images).data)  # those that came channels first are views
        done += len(images)
        progress(done, total)
    fits: tuple[TemperatureFit, ...] = ()
    if truth is not None:
        fits = tuple(fit_temperature(of, truth[::every]) for of in np.concatenate(probabilities, axis=1))
    return ExitScores(
        label=label,
        confidence=confidence,
        truth=truth,
        graphs=graphs_of(cascade.manifest),
        images=digest.hexdigest(),
        gate=gate,
        temperatures=fits,
    )


def graphs_of(manifest: Manifest) -> tuple[str, ...]:
    """The sha256 of each stage: whose scores these are."""
    return tuple(stage.graph.sha256 for stage in manifest.stages)


def _batches(images: Iterable[Array | DataError], size: int) -> Iterable[Array]:
    batch: list[Array] = []
    for image in images:
        if isinstance(image, DataError):
            raise image
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
