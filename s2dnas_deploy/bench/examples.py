"""A few of the images that exit at each stage, small enough to be kept in a record.

Place in the flow: images, and what they are answered ──▶ `Example`s, which the page shows.
"""

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from s2dnas_deploy.bench.answers import Answered, pixels_of, representative
from s2dnas_deploy.bench.report import LONGEST_JPEG, Example
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.quoting import spelled_out
from s2dnas_deploy.runtime.answers.inputs import Item
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array

_MOST, _MOST_OF_EACH = 24, 6
_SIDE, _QUALITIES = 64, (85, 70, 50, 30, 15)


def examples_of(cascade: Cascade, items: Sequence[Item], answered: Answered) -> tuple[Example, ...]:
    """Of each exit some images, drawn at random; none of images that are no pictures."""
    channels = cascade.manifest.preprocessing.input_shape[0]
    return tuple(_drawn(cascade, items, answered)) if channels in (1, 3) else ()


def _drawn(cascade: Cascade, items: Sequence[Item], answered: Answered) -> Iterator[Example]:
    order = representative(answered.exits)
    taken = np.unique(answered.exits)
    of_each = max(1, min(_MOST_OF_EACH, _MOST // len(taken)))
    for exit_ in taken.tolist():
        for number in order[answered.exits[order] == exit_][:of_each].tolist():
            (pixels,) = pixels_of(cascade, [items[number]])
            jpeg, truth = _as_jpeg(pixels, cascade.manifest), items[number].truth
            if jpeg is not None:
                yield Example(
                    exit=exit_,
                    truth=None if truth is None else spelled_out(truth),
                    answer=spelled_out(cascade.labels[answered.labels[number]]),
                    jpeg=jpeg,
                )


def _as_jpeg(pixels: Array, manifest: Manifest) -> str | None:
    """A thumbnail of what the graphs take, in base64, as good as there is room for; None if there is not."""
    if manifest.image_type != "uint8":
        p = manifest.preprocessing
        mean, std = (np.asarray(values).reshape(-1, 1, 1) for values in (p.mean, p.std))
        pixels = np.clip(255 * (pixels * std + mean), 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((_SIDE, _SIDE))
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
        jpeg = base64.b64encode(buffer.getvalue()).decode()
        if len(jpeg) <= LONGEST_JPEG:
            return jpeg
    return None
