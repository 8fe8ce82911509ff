"""What every exit says of every image: the data that thresholds are chosen from.

Place in the flow: bundle + images ──all stages──▶ `ExitScores` ──▶ `thresholds`. Once they are recorded, no
threshold needs another run.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import Array
from s2dnas_deploy.decide.temperature import TemperatureFit
from s2dnas_deploy.errors import RecordError
from s2dnas_deploy.files.atomic import write_atomically
from s2dnas_deploy.files.numpy_file import ArrayFileError, Arrays, arrays_in
from s2dnas_deploy.quoting import shortened, shown


@dataclass(frozen=True, kw_only=True)
class ExitScores:
    """`label` int64 [exits, N] and `confidence` float32 [exits, N]; the true class, int64 [N], if known.

    Where a gate picks one of the exits, `gate` are its numbers, float32 [N, exits]. `graphs` are the sha256
    of the stages that said so, and `images` that of the pixels they were shown, where that is known. `static`
    is what the static network answers, int64 [N], if it was asked. `temperatures` are those of the exits'
    probabilities, where the true classes are known. Any confidence may be there, for `rules`
    says what each of them means; classes that cannot be are refused.
    """

    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64] | None = None
    graphs: tuple[str, ...] = ()
    images: str = ""
    static: npt.NDArray[np.int64] | None = None
    gate: npt.NDArray[np.float32] | None = None
    temperatures: tuple[TemperatureFit, ...] = ()

    def __post_init__(self) -> None:
        if self.label.ndim != 2 or not self.label.size:
            raise RecordError(
                f"expected labels [exits, N] of one exit and one image or more, got {_kind_of(self.label)}"
            )
        if (self.confidence.dtype, self.confidence.shape) != (np.dtype(np.float32), self.label.shape):
            raise RecordError(
                f"expected confidences float32 {list(self.label.shape)}, got {_kind_of(self.confidence)}"
            )
        for name, each in self._classes.items():
            shape = self.label.shape if each is self.label else (len(self),)
            if (each.dtype, each.shape) != (np.dtype(np.int64), shape):
                raise RecordError(f"expected {name} int64 {list(shape)}, got {_kind_of(each)}")
            if each.min() < 0:
                raise RecordError(f"expected {name} of 0 or more, got {each.min()}")
        numbers, wanted = self.gate, (len(self), self.exits)
        if numbers is not None and (numbers.dtype, numbers.shape) != (np.dtype(np.float32), wanted):
            raise RecordError(f"expected a gate's numbers float32 {list(wanted)}, got {_kind_of(numbers)}")
        graphs = self.exits if self.gate is None else self.exits + 1
        if len(self.graphs) not in (0, graphs):
            raise RecordError(f"expected the sha256 of {graphs} graphs, got {len(self.graphs)}")
        if len(self.temperatures) not in (0, self.exits):
            raise RecordError(f"expected {self.exits} temperatures, got {len(self.temperatures)}")

    @property
    def _classes(self) -> dict[str, npt.NDArray[np.int64]]:
        """All that is there in numbers of classes, by what it is."""
        there = {
            "labels": self.label,
            "true classes": self.truth,
            "answers of the static network": self.static,
        }
        return {name: each for name, each in there.items() if each is not None}

    def check_classes(self, count: int) -> None:
        """Refuse scores of more classes than there are."""
        for name, each in self._classes.items():
            if each.max() >= count:
                raise RecordError(f"expected {name} from 0 to {count - 1}, got {each.max()}")

    def __len__(self) -> int:
        return int(self.label.shape[1])

    @property
    def exits(self) -> int:
        """How many exits there are."""
        return len(self.label)

    def of(self, rows: npt.NDArray[np.intp] | slice) -> "ExitScores":
        """The same for some of the images."""
        return ExitScores(
            label=self.label[:, rows],
            confidence=self.confidence[:, rows],
            truth=None if self.truth is None else self.truth[rows],
            graphs=self.graphs,
            static=None if self.static is None else self.static[rows],
            gate=None if self.gate is None else self.gate[rows],
        )

    def save(self, path: Path) -> None:
        """Keep them as a NumPy archive."""
        arrays: dict[str, Any] = {"label": self.label, "confidence": self.confidence}
        if self.graphs:
            arrays["graphs"] = np.array(self.graphs)
        if self.images:
            arrays["images"] = np.array(self.images)
        if self.truth is not None:
            arrays["truth"] = self.truth
        if self.gate is not None:
            arrays["gate"] = self.gate
        if self.temperatures:
            arrays["temperatures"] = np.array([list(vars(fit).values()) for fit in self.temperatures])
        write_atomically(path, lambda stream: np.savez_compressed(stream, **arrays))

    @staticmethod
    def load(path: Path) -> "ExitScores":
        """Read what `save` wrote."""
        try:
            return _scores_in(arrays_in(path))
        except ArrayFileError as problem:
            raise RecordError(
                f"{path}: expected exit scores that --scores has kept, got {problem}"
            ) from problem
        except RecordError as problem:
            raise RecordError(f"{path}: expected exit scores that --scores has kept: {problem}") from problem


_KEYS = ("label", "confidence", "truth", "graphs", "images", "gate", "temperatures")
_SHA256 = re.compile("[0-9a-f]{64}")


def _scores_in(arrays: Array | Arrays[Array]) -> ExitScores:
    """The scores that an archive's arrays are."""
    if isinstance(arrays, np.ndarray) or not {"label", "confidence"} <= set(arrays) <= set(_KEYS):
        keys = "a single array" if isinstance(arrays, np.ndarray) else shown(sorted(arrays))
        raise RecordError(f"expected the arrays {', '.join(_KEYS)}, the first two at least, got {keys}")
    graphs, images = (_digests(arrays[key], key) if key in arrays else () for key in ("graphs", "images"))
    if len(images) > 1:
        raise RecordError(f"expected one sha256 of all images, got {len(images)}")
    return ExitScores(
        label=arrays["label"],
        confidence=arrays["confidence"],
        truth=arrays.get("truth"),
        graphs=graphs,
        images=images[0] if images else "",
        gate=arrays.get("gate"),
        temperatures=_temperatures(arrays["temperatures"]) if "temperatures" in arrays else (),
    )


def _temperatures(array: Array) -> tuple[TemperatureFit, ...]:
    """The fit of each exit, [exits, 3]."""
    names = [field.name for field in fields(TemperatureFit)]
    if array.dtype != np.float64 or array.ndim != 2 or array.shape[1] != len(names):
        raise RecordError(f"expected temperatures float64 [exits, {len(names)}], got {_kind_of(array)}")
    return tuple(TemperatureFit(**dict(zip(names, row, strict=True))) for row in array.tolist())


def _digests(array: Array, key: str) -> tuple[str, ...]:
    """Sums of content, one or several."""
    if array.dtype.kind != "U" or not all(map(_SHA256.fullmatch, array.ravel().tolist())):
        raise RecordError(f"expected {key} as sha256 sums in text, got {_kind_of(array)}")
    return tuple(array.ravel().tolist())


def _kind_of(array: Array) -> str:
    return f"{shortened(str(array.dtype), 50)} {shown(list(array.shape))}"
