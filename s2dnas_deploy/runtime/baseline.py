"""The static network as one ONNX file, of this package's making or another's: what a cascade is held against.

Place in the flow: `s2dnas-bench` times it beside the cascade, `s2dnas-calibrate` compares answers with it.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.bundle import MACS
from s2dnas_deploy.decide.flow import ANSWERS, LABEL
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.errors import BundleError, OptionError, ProviderError
from s2dnas_deploy.files.onnx_file import LARGEST_GRAPH_BYTES, read_signature
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.runtime.answers.inputs import Item
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.sessions.providers import Provider, is_of_memory, make_session

_BATCH = 32
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


class Baseline:
    """A network in one ONNX file, of this package's making or another's, that answers with classes.

    It is given what the bundle is given. One that takes floats has them normalised here, for somebody has to;
    the bundle's own graphs do it inside.
    """

    def __init__(
        self,
        path: Path,
        provider: Provider,
        *,
        threads: int | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.path = path
        self._mean, self._std = (np.asarray(each, np.float32).reshape(-1, 1, 1) for each in (mean, std))
        try:
            graph = read_file(path, LARGEST_GRAPH_BYTES)
            read_signature(graph)  # it may come from anyone's hands, as the bundle beside it
            self._session = make_session(graph, provider, threads=threads)
        except BundleError as error:
            raise BundleError(f"{path}: expected the static network as ONNX: {error}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or not inputs[0].shape:
            taken = shown([(value.name, value.shape) for value in inputs])
            raise OptionError(f"{path}: expected a network with one input, a batch of images; it has {taken}")
        self._input = inputs[0]
        names = [output.name for output in self._session.get_outputs()]
        self._outputs = [LABEL, CONFIDENCE] if {LABEL, CONFIDENCE} <= set(names) else names[:1]
        more = sorted(set(names) - set(ANSWERS))
        if len(self._outputs) > 1 and more:
            raise OptionError(
                f"{path}: expected the static network, as s2dnas-export --static-model writes it beside a "
                f"bundle; this is a part of one, for beside its answers it gives {shown(more[0])}"
            )
        size = self._input.shape[0]
        self.fixed_batch = size if isinstance(size, int) else None

    @property
    def macs(self) -> int | None:
        """Its MACs for one image, if the file tells."""
        told = self._session.get_modelmeta().custom_metadata_map.get(MACS, "")
        return int(told) if re.fullmatch(r"[1-9][0-9]{0,17}", told) else None

    def __call__(self, images: Array) -> Array:
        """The class of each image; one call after the other for a graph of a fixed batch size."""
        size = self.fixed_batch or len(images)
        said = [self._answer(images[i : i + size]) for i in range(0, len(images), size)]
        return said[0] if len(said) == 1 else np.concatenate(said)

    def _answer(self, images: Array) -> Array:
        short = (self.fixed_batch or 0) - len(images)
        given = np.concatenate([images, np.repeat(images[-1:], short, axis=0)]) if short > 0 else images
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input.name, np.ascontiguousarray(self.taken(given)))
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
            answer: Array = binding.get_outputs()[0].numpy()
        except Exception as error:  # onnxruntime's errors have no base of their own
            kind = ProviderError if is_of_memory(error) else OptionError
            raise kind(f"{self.path} fails on {len(given)} images: {in_a_line(error)}") from error
        label = self._outputs[0] == LABEL
        kinds, ranks = ("i", (1,)) if label else ("f", (2, 3, 4))
        if answer.dtype.kind not in kinds or answer.ndim not in ranks or len(answer) != len(given):
            raise OptionError(
                f"{self.path}: expected {'a class' if label else 'logits'} for each of {len(given)} images, "
                f"got {answer.dtype} {list(answer.shape)}"
            )
        if not label:
            answer = answer.reshape(len(answer), -1).argmax(axis=1)
        return answer[: len(images)]

    def taken(self, pixels: Array) -> Array:
        """What the bundle takes as this network takes it: as it is, or normalised to float [N, C, H, W]."""
        kind, shape = _TYPES.get(self._input.type), tuple(self._input.shape[1:])
        if kind is not None and _fits(shape, pixels.shape[1:]) and pixels.dtype == kind:
            return pixels
        height, width, channels = pixels.shape[1:]
        takes_floats = pixels.dtype == np.uint8 and kind in (np.float32, np.float16)
        if takes_floats and _fits(shape, (channels, height, width)):
            planes = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            normalised: Array = ((planes - self._mean) / self._std).astype(kind)
            return normalised
        raise OptionError(
            f"{self.path}: it takes {self._input.type} {list(self._input.shape)}; expected what the bundle "
            f"takes, {pixels.dtype} [N, {', '.join(map(str, pixels.shape[1:]))}], or for a bundle of bytes "
            f"float [N, {channels}, {height}, {width}], normalised as in training"
        )


def static_answers(
    baseline: Baseline,
    cascade: Cascade,
    items: Sequence[Item],
    progress: Callable[[int, int], None],
    seen: Callable[[Array], None] = lambda images: None,
) -> npt.NDArray[np.int64]:
    """The class that it gives each image, [N], which must be one of the bundle's; `seen` gets the pixels."""
    answers = np.empty(len(items), np.int64)
    for start in range(0, len(items), _BATCH):
        part = items[start : start + _BATCH]
        images = cascade.reader.batch([item.source for item in part])
        seen(images)
        said = baseline(images)
        other = said[(said < 0) | (said >= len(cascade.labels))]
        if len(other):
            raise OptionError(
                f"{baseline.path} answers class {other[0]}; the bundle has {len(cascade.labels)}"
            )
        answers[start : start + len(part)] = said
        progress(start + len(part), len(items))
    return answers


def _fits(declared: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """Whether images of a shape fit what a graph declares; a size without a number may be any."""
    pairs = zip(declared, shape, strict=False)
    return len(declared) == len(shape) and all(not isinstance(d, int) or d == s for d, s in pairs)
