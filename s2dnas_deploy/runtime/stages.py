"""The stages of a bundle, loaded: one onnxruntime session each, run on memory that is bound beforehand.

Place in the flow: `Bundle` ──▶ `Stages` (shared by threads), which run on a `Buffers` of the caller's own.

All runs go through IOBinding. Feeds and fetches by name would allocate every feature anew; bound buffers cost
nothing, and on a GPU the features never leave it. Answers come to the host, and what rules look at.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.flow import ANSWERS, IMAGE, LABEL, PROBABILITIES
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.errors import BundleError, ProviderError
from s2dnas_deploy.quoting import in_a_line, number_of, shortened
from s2dnas_deploy.sessions.providers import CPU, Provider, is_of_memory, make_session

if TYPE_CHECKING:
    from s2dnas_deploy.bundle.bundle import Bundle

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Element type of a tensor, and its shape without the batch."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def kinds_of(manifest: Manifest) -> dict[str, Kind]:
    """Every tensor that goes into a stage or comes out of one, by name."""
    kinds = {
        name: Kind(dtype=np.dtype(tensor.type), shape=tensor.shape)
        for name, tensor in manifest.tensors.items()
    }
    kinds[IMAGE] = Kind(dtype=np.dtype(manifest.image_type), shape=manifest.image_shape)
    kinds[LABEL] = Kind(dtype=np.dtype(np.int64), shape=())
    kinds[CONFIDENCE] = Kind(dtype=np.dtype(np.float32), shape=())
    kinds[PROBABILITIES] = Kind(dtype=np.dtype(np.float32), shape=(len(manifest.labels),))
    return kinds


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where things lie in a `Buffers`: what is in each place, and where each stage puts what it gives.

    Places are called as the tensors are, where one is enough; others have a line's end in their names, as no
    tensor's has. `renewed` are those of each stage that it
    both reads and gives: they are given in a place of their own.
    """

    kinds: Mapping[str, Kind]
    given: Sequence[Mapping[str, str]]
    renewed: Sequence[Mapping[str, str]]


class Buffers:
    """Memory for tensors of at most `capacity` samples: the host's, or for `resident` ones the device's.

    Memory that is never written to is never there, so a place that is not used costs nothing.
    """

    def __init__(
        self, layout: Layout, capacity: int, *, device: str = "cpu", resident: Iterable[str] = ()
    ) -> None:
        self.layout, self.capacity = layout, capacity
        kinds = layout.kinds
        there = frozenset(resident) & kinds.keys()
        self.arrays: dict[str, Array] = {
            name: _on_a_line((capacity, *kind.shape), kind.dtype)
            for name, kind in kinds.items()
            if name not in there
        }
        self._resident = {
            name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [capacity, *kinds[name].shape], kinds[name].dtype.type, device, 0
            )
            for name in there
        }
        # A class below 0 is one far above all others here: one comparison finds both.
        self.labels = self.arrays[LABEL].view(np.uint64)
        self._bindings: dict[tuple[int, int], Any] = {}
        self._device = device

    def place(self, name: str) -> tuple[str, int]:
        """The device that a tensor is on, and its address there."""
        if name in self._resident:
            return self._device, self._resident[name].data_ptr()
        return "cpu", self.arrays[name].ctypes.data

    def binding(self, stage: int, count: int) -> Any:
        """A binding that was kept, or None."""
        return self._bindings.get((stage, count))

    def keep(self, stage: int, count: int, binding: Any) -> None:
        """Keep a binding for the next batch of the same size; the oldest goes when there are many."""
        if len(self._bindings) >= _MOST_BINDINGS:
            self._bindings.pop(next(iter(self._bindings)))
        self._bindings[stage, count] = binding


class Stages:
    """The sessions of a bundle on one provider. Safe to share between threads; a `Buffers` is not."""

    def __init__(self, bundle: "Bundle", provider: Provider, *, threads: int | None = None) -> None:
        self.manifest, self.provider = bundle.manifest, provider
        self._classes = len(bundle.manifest.labels)
        self.sessions = tuple(make_session(graph, provider, threads=threads) for graph in bundle.graphs)
        entries = bundle.manifest.stages
        self._reads = tuple((*entry.reads, *entry.rows) for entry in entries)
        self._outputs = tuple(tuple(entry.outputs_of.items()) for entry in entries)
        self._answers = tuple(entry.exit is not None for entry in entries)
        self.row_inputs = frozenset(name for entry in entries for name in entry.rows)
        self._together, self._apart = _layouts(bundle.manifest)
        # Features may stay on the device only if the graphs themselves pick the samples that go on.
        stay = provider.own_memory and bundle.manifest.gathers
        looked_at = {IMAGE, *ANSWERS, *self.row_inputs, *bundle.manifest.flow.looked_at}
        self.resident = (
            tuple(name for name in bundle.manifest.tensors if name not in looked_at) if stay else ()
        )

    @property
    def goes_through_host(self) -> bool:
        """Whether features leave the device between stages, though they need not."""
        return self.provider.own_memory and not self.manifest.gathers and len(self.sessions) > 1

    def buffers(self, capacity: int, *, apart: bool = False) -> Buffers:
        """Memory that these stages can run in; `apart`: what different stages give never shares a place."""
        size = self.provider.batch_size(capacity)
        layout = self._apart if apart else self._together
        resident = [each.get(name, name) for each in ({}, *layout.given) for name in self.resident]
        try:
            return Buffers(layout, size, device=self.provider.device, resident=resident)
        except ValueError as error:  # more bytes than a number of them can be
            raise BundleError(
                f"no memory holds the features of {number_of(size, 'image')}: {in_a_line(error)}"
            ) from error

    def run(
        self, stage: int, buffers: Buffers, count: int, brought: Mapping[str, tuple[str, int]] | None = None
    ) -> None:
        """Run a stage on the first `count` rows of `buffers`, in place.

        `brought` says of tensors where they lie, if not under their name, and how many rows there are.
        """
        if brought is None and not self.provider.own_memory:
            binding = buffers.binding(stage, count)
            if binding is None:
                binding = self._bind(stage, buffers, count, {})
                buffers.keep(stage, count, binding)
        else:  # onnxruntime copies an input to the device when it is bound, so it is bound every time
            binding = self._bind(stage, buffers, count, brought or {})
        try:
            self.sessions[stage].run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise self._failure(stage, count, error) from error
        for name, place in buffers.layout.renewed[stage].items():
            buffers.arrays[name][:count] = buffers.arrays[place][:count]
        if self._answers[stage]:
            labels = buffers.labels[:count]
            largest = labels.argmax()  # with the one item there: half of what max() takes on a batch of one
            if labels.item(largest) >= self._classes:
                raise BundleError(
                    f"stage {stage} answers class {buffers.arrays[LABEL][largest]} to an image, "
                    f"expected 0 to {self._classes - 1}"
                )

    def _failure(self, stage: int, count: int, error: Exception) -> BundleError | ProviderError:
        """The CPU runs every graph that gives what it says, as long as there is memory."""
        what = f"stage {stage} failed on {number_of(count, 'image')}, on {self.provider.name}"
        if self.provider.ort_name == CPU.ort_name and not is_of_memory(error):
            reason = shortened(" ".join(str(error).split()), 300)  # which stands at the end of several lines
            return BundleError(f"{what}: it does not compute what the manifest says: {reason}")
        return ProviderError(f"{what}: {in_a_line(error)}; if memory ran out, give less at a time")

    def _bind(self, stage: int, buffers: Buffers, count: int, brought: Mapping[str, tuple[str, int]]) -> Any:
        binding, kinds = self.sessions[stage].io_binding(), buffers.layout.kinds
        rows = self.provider.batch_size(count)
        for name in self._reads[stage]:
            place, size = brought.get(name, (name, rows))
            kind, (device, address) = kinds[place], buffers.place(place)
            binding.bind_input(name, device, 0, kind.dtype.type, (size, *kind.shape), address)
        for name, output in self._outputs[stage]:
            place = buffers.layout.given[stage].get(name, name)
            kind, (device, address) = kinds[place], buffers.place(place)
            binding.bind_output(output, device, 0, kind.dtype.type, (rows, *kind.shape), address)
        return binding


def _on_a_line(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros that begin on a cache line, as NumPy's own do not: stages take 1% less time on them."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def _layouts(manifest: Manifest) -> tuple[Layout, Layout]:
    """Where all samples of a stage lie together, a place for each tensor; and where no place is shared."""
    kinds = kinds_of(manifest)
    numbers = Kind(dtype=np.dtype(np.int64), shape=())
    rows = {name: numbers for entry in manifest.stages for name in entry.rows}
    renewed = [
        {name: f"{name}\nagain" for name in entry.gives if name in entry.reads} for entry in manifest.stages
    ]
    together = Layout(
        kinds={**kinds, **rows, **{place: kinds[n] for each in renewed for n, place in each.items()}},
        given=renewed,
        renewed=renewed,
    )
    times = Counter(name for entry in manifest.stages for name in entry.gives)
    own = [
        {name: f"{name}\n{k}" for name in entry.gives if times[name] > 1}
        for k, entry in enumerate(manifest.stages)
    ]
    apart = Layout(
        kinds={**kinds, **rows, **{place: kinds[n] for each in own for n, place in each.items()}},
        given=own,
        renewed=[{} for _ in own],
    )
    return together, apart


_MOST_BINDINGS = 512
_LINE = 64  # bytes
