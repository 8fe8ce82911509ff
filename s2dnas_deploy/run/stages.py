"""The stages of a bundle, loaded: one onnxruntime session each, run on memory that is bound beforehand.

Place in the flow: `Bundle` ──▶ `Stages` (shared by threads), which run on a `Buffers` of the caller's own.

All runs go through IOBinding. Feeds and fetches by name would allocate every feature anew; bound buffers cost
nothing, and on a GPU the features never leave it. What comes to the host is label, confidence, probabilities.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from s2dnas_deploy.bundle.manifest import ANSWERS, CONFIDENCE, IMAGE, LABEL, PROBABILITIES, Manifest
from s2dnas_deploy.errors import BundleError, ProviderError
from s2dnas_deploy.quoting import in_a_line, shortened
from s2dnas_deploy.run.providers import CPU, Provider, is_of_memory, make_session

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
        spec.name: Kind(dtype=np.dtype(spec.type), shape=spec.shape)
        for stage in manifest.stages
        for spec in stage.gives
    }
    kinds[IMAGE] = Kind(dtype=np.dtype(manifest.image_type), shape=manifest.image_shape)
    kinds[LABEL] = Kind(dtype=np.dtype(np.int64), shape=())
    kinds[CONFIDENCE] = Kind(dtype=np.dtype(np.float32), shape=())
    kinds[PROBABILITIES] = Kind(dtype=np.dtype(np.float32), shape=(len(manifest.labels),))
    for stage in range(len(manifest.stages)):
        kinds |= dict.fromkeys(manifest.row_inputs(stage), Kind(dtype=np.dtype(np.int64), shape=()))
    return kinds


def features_read_after(manifest: Manifest, stage: int) -> tuple[str, ...]:
    """What exists once `stage` has run and a later one reads: features by name, and the image."""
    later = manifest.stages[stage + 1 :]
    read = {spec.name for entry in later for spec in entry.reads}
    given = [spec.name for entry in manifest.stages[: stage + 1] for spec in entry.gives]
    image = (IMAGE,) if any(entry.reads_image for entry in later) else ()
    return (*image, *(name for name in given if name in read))


class Buffers:
    """Memory for tensors of at most `capacity` samples: the host's, or for `resident` ones the device's."""

    def __init__(
        self, kinds: Mapping[str, Kind], capacity: int, *, device: str = "cpu", resident: Iterable[str] = ()
    ) -> None:
        self.kinds, self.capacity = kinds, capacity
        there = frozenset(resident) & kinds.keys()
        self.arrays: dict[str, Array] = {
            name: np.zeros((capacity, *kind.shape), dtype=kind.dtype)
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
        self.kinds = kinds_of(bundle.manifest)
        self._classes = len(bundle.manifest.labels)
        self.sessions = tuple(make_session(graph, provider, threads=threads) for graph in bundle.graphs)
        self._inputs = tuple(tuple(v.name for v in session.get_inputs()) for session in self.sessions)
        self._outputs = tuple(tuple(v.name for v in session.get_outputs()) for session in self.sessions)
        self.rows = tuple(bundle.manifest.row_inputs(k) for k in range(len(self.sessions)))
        # Features may stay on the device only if the graphs themselves pick the samples that go on.
        stay = provider.own_memory and bundle.manifest.gathers
        self.resident = tuple(name for name in self.kinds if self._is_feature(name)) if stay else ()

    @property
    def goes_through_host(self) -> bool:
        """Whether features leave the device between stages, though they need not."""
        return self.provider.own_memory and not self.manifest.gathers and len(self.sessions) > 1

    def __len__(self) -> int:
        return len(self.sessions)

    def _is_feature(self, name: str) -> bool:
        return name not in (IMAGE, *ANSWERS) and not any(name in rows for rows in self.rows)

    def buffers(self, capacity: int, names: Iterable[str] | None = None) -> Buffers:
        """Memory that a chain of these stages can run in; for all tensors, or for some."""
        kinds = self.kinds if names is None else {name: self.kinds[name] for name in names}
        size = self.provider.batch_size(capacity)
        try:
            return Buffers(kinds, size, device=self.provider.device, resident=self.resident)
        except ValueError as error:  # more bytes than a number of them can be
            raise BundleError(f"no memory holds the features of {size} images: {in_a_line(error)}") from error

    def run(self, stage: int, buffers: Buffers, count: int, sizes: Mapping[str, int] | None = None) -> None:
        """Run a stage on the first `count` rows of `buffers`, in place.

        `sizes` are the rows of those inputs that have more: features of samples some of which have left.
        """
        if sizes is None and not self.provider.own_memory:
            binding = buffers.binding(stage, count)
            if binding is None:
                binding = self._bind(stage, buffers, count, {})
                buffers.keep(stage, count, binding)
        else:  # onnxruntime copies an input to the device when it is bound, so it is bound every time
            binding = self._bind(stage, buffers, count, sizes or {})
        try:
            self.sessions[stage].run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise self._failure(stage, count, error) from error
        labels = buffers.labels[:count]
        largest = labels.argmax()  # with the one item there: half of what max() takes on a batch of one
        if labels.item(largest) >= self._classes:
            raise BundleError(
                f"stage {stage} answers class {buffers.arrays[LABEL][largest]} to an image, "
                f"expected 0 to {self._classes - 1}"
            )

    def _failure(self, stage: int, count: int, error: Exception) -> BundleError | ProviderError:
        """The CPU runs every graph that gives what it says, as long as there is memory."""
        what = f"stage {stage} failed on {count} images, on {self.provider.name}"
        if self.provider.ort_name == CPU.ort_name and not is_of_memory(error):
            reason = shortened(" ".join(str(error).split()), 300)  # which stands at the end of several lines
            return BundleError(f"{what}: it does not compute what the manifest says: {reason}")
        return ProviderError(f"{what}: {in_a_line(error)}; if memory ran out, give less at a time")

    def _bind(self, stage: int, buffers: Buffers, count: int, sizes: Mapping[str, int]) -> Any:
        binding = self.sessions[stage].io_binding()
        rows = self.provider.batch_size(count)
        for name in self._inputs[stage]:
            kind, (device, address) = buffers.kinds[name], buffers.place(name)
            shape = (sizes.get(name, rows), *kind.shape)
            binding.bind_input(name, device, 0, kind.dtype.type, shape, address)
        for name in self._outputs[stage]:
            kind, (device, address) = buffers.kinds[name], buffers.place(name)
            binding.bind_output(name, device, 0, kind.dtype.type, (rows, *kind.shape), address)
        return binding


_MOST_BINDINGS = 512
