"""CIFAR-10 and CIFAR-100 as their authors publish them ("python version"): pickles, read but never run."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.inert_pickle import InertUnpickler, StandIn
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.images.pixels import InputFormat, Pixels
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.workshop.data.arrays import array_images
from s2dnas_deploy.workshop.data.splits import Index, UnreadImages, UnreadSplits

_LARGEST_BYTES = 2**30  # the largest of these files has 155 MB
_REMEDY = "Unpack the archive from https://www.cs.toronto.edu/~kriz/cifar.html anew."


@dataclass(frozen=True, kw_only=True)
class _Edition:
    """The file names and keys of one of the two data sets."""

    train_files: tuple[str, ...]
    test_file: str
    names_file: str
    labels_key: str
    names_key: str

    def missing_from(self, folder: Path) -> list[str]:
        wanted = (*self.train_files, self.test_file, self.names_file)
        return [name for name in wanted if not (folder / name).is_file()]


_CIFAR10 = _Edition(
    train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_file="test_batch",
    names_file="batches.meta",
    labels_key="labels",
    names_key="label_names",
)
_CIFAR100 = _Edition(
    train_files=("train",),
    test_file="test",
    names_file="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
)


def cifar_folder(root: Path) -> Path | None:
    """Return the CIFAR folder at or directly below `root`, or None if there is none."""
    below = [root / "cifar-10-batches-py", root / "cifar-100-python"]
    found = [folder for folder in (root, *below) if _edition_of(folder) is not None]
    if len(found) > 1:
        raise DataError(
            f"{root}: expected one CIFAR data set, got {', '.join(map(str, found))}. Name one of them."
        )
    return found[0] if found else None


def find_cifar(folder: Path, wanted: InputFormat) -> UnreadSplits:
    """Return the images of a folder that `cifar_folder` found."""
    edition = _edition_of(folder)
    if edition is None:
        raise DataError(f"{folder}: expected a CIFAR python folder, got other files. {_REMEDY}")
    missing = edition.missing_from(folder)
    if missing:
        raise DataError(
            f"{folder}: expected a complete CIFAR folder, got none of {', '.join(missing)}. {_REMEDY}"
        )
    names = _strings(_read(folder / edition.names_file), edition.names_key, where=folder / edition.names_file)
    train = [_batch(folder / name, edition, len(names)) for name in edition.train_files]
    test = _batch(folder / edition.test_file, edition, len(names))
    return UnreadSplits(
        train=_joined(train, wanted, where=str(folder)),
        val=None,
        test=_joined([test], wanted, where=str(folder)),
        class_names=names,
        where=str(folder),
    )


def _edition_of(folder: Path) -> _Edition | None:
    """Tell by the files; the data set of a half-unpacked folder is known as well, to say what is missing."""
    if (folder / _CIFAR10.names_file).is_file() or (folder / _CIFAR10.train_files[0]).is_file():
        return _CIFAR10
    if (folder / "train").is_file() and not _CIFAR100.missing_from(folder):
        return _CIFAR100
    return None


def _joined(batches: list[tuple[Pixels, Index]], wanted: InputFormat, *, where: str) -> UnreadImages:
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return array_images(images, labels, wanted, where=where)


def _batch(path: Path, edition: _Edition, classes: int) -> tuple[Pixels, Index]:
    """Return the images [N, 3, 32, 32] and labels [N] of one file."""
    content = _read(path)
    data, labels = content.get("data"), content.get(edition.labels_key)
    if not isinstance(data, _Array) or data.pixels.ndim != 2 or data.pixels.shape[1] != 3072:
        raise DataError(f"{path}: expected 'data' as uint8 [N, 3072], got something else. {_REMEDY}")
    numbers = labels if isinstance(labels, list) else []
    if len(numbers) != len(data.pixels) or not all(type(n) is int and 0 <= n < classes for n in numbers):
        raise DataError(
            f"{path}: expected {edition.labels_key!r} as {len(data.pixels)} numbers from 0 to {classes - 1},"
            f" got something else. {_REMEDY}"
        )
    return data.pixels.reshape(-1, 3, 32, 32), np.asarray(numbers, dtype=np.int64)


def _strings(content: dict[str, Any], key: str, *, where: Path) -> tuple[str, ...]:
    values = content.get(key)
    if not isinstance(values, list) or not all(isinstance(value, bytes | str) for value in values):
        raise DataError(f"{where}: expected {key!r} as a list of names, got something else. {_REMEDY}")
    return tuple(value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values)


def _read(path: Path) -> dict[str, Any]:
    """Return the dictionary that a pickle holds, its keys as text."""
    try:
        content = _CifarUnpickler(io.BytesIO(read_file(path, _LARGEST_BYTES)), encoding="bytes").load()
    except DataError as refusal:
        raise DataError(f"{path}: {refusal}") from refusal
    except OSError as problem:
        raise DataError(f"{path}: {problem.strerror or in_a_line(problem)}. {_REMEDY}") from problem
    except Exception as problem:  # Damaged opcodes end in almost any exception, and all mean the same here.
        raise DataError(f"{path}: expected a CIFAR pickle, got: {in_a_line(problem)}. {_REMEDY}") from problem
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a dictionary, got {type(content).__name__}. {_REMEDY}")
    return {
        key.decode("utf-8", "replace") if isinstance(key, bytes) else key: value
        for key, value in content.items()
        if isinstance(key, bytes | str)
    }


class _Dtype(StandIn):
    """Stands for `numpy.dtype`, and can only ever be uint8."""

    __slots__ = ()

    def __init__(self, code: object, *_: object) -> None:
        if code not in (b"u1", "u1"):
            raise DataError(f"expected an array of uint8 ('u1'), got the type {shown(code)}. {_REMEDY}")


class _Array(StandIn):
    """Stands for `numpy.ndarray` and for the function that makes an empty one."""

    __slots__ = ("pixels",)

    def __init__(self, *_: object) -> None:
        self.pixels: Pixels = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Take numpy's own state: version, shape, dtype, whether in Fortran order, bytes."""
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype):
            raise DataError(f"expected an array of uint8, got one of {type(dtype).__name__}. {_REMEDY}")
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _Encoded(bytes, StandIn):
    """Stands for `_codecs.encode`, by which old pickle protocols write bytes: always as latin-1."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str = "latin1") -> "_Encoded":
        if encoding not in ("latin1", b"latin1"):
            raise DataError(f"expected bytes written as latin1, got {shown(encoding)}. {_REMEDY}")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> NoReturn:
        raise DataError(f"expected plain bytes, got bytes with a state. {_REMEDY}")


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encoded,
}


class _CifarUnpickler(InertUnpickler):
    """Reads containers, numbers, text and uint8 arrays; nothing that a file names is ever imported or called.

    Stand-ins, not numpy's own: numpy trusts a pickled dtype's flags, by which a file can pass off its own
    bytes as pointers.
    """

    def find_class(self, module: str, name: str) -> type:
        """Return the stand-in for what numpy arrays need; refuse all else."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise DataError(
                f"expected a pickle of uint8 arrays and plain values, got one that asks for"
                f" {shown(f'{module}.{name}')}:"
                f" it is damaged or hostile, and nothing in it was run. {_REMEDY}"
            ) from None
