"""What `torch.save` wrote, from anyone's hands, as plain values and dense tensors.

Place in the flow: weights, `model.pt` and checkpoints of training are all read here, and here alone. Such a
file is a pickle and, beside it, the bytes of the tensors. It is read by stand-ins for what a pickle may name:
nothing is imported or run, and no tensor is made before it is known that the file holds its values. So a
file takes no more memory than about its own size, whatever it claims. (`torch.load` with `weights_only` runs
nothing either, but lets a kilobyte ask for gigabytes, and hands out memory that was never written.)
"""

import io
import math
import mmap
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files.inert_pickle import InertUnpickler, StandIn, plain_key
from s2dnas_deploy.files.plain_file import open_file
from s2dnas_deploy.files.zip_archive import opened_archive
from s2dnas_deploy.quoting import in_a_line, shown

_ARCHIVE_START, _PICKLE_START = b"PK\x03\x04", b"\x80"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the files that torch wrote before it wrote archives
_MOST_RECORDS = 65_536  # a record is a tensor; large networks have some thousands, with their optimizer's
_MOST_DIMENSIONS = 64
_MOST_SHARED, _SHARED_BYTES = 4, 2**20
"""Tensors may read values more than once: so many times the file's size and this many bytes."""


def read_torch_file(path: Path) -> Any:
    """The file's document: dictionaries, lists, text, numbers, and tensors on the CPU."""
    try:
        with open_file(path) as file:
            start = file.read(len(_ARCHIVE_START))
            if start == _ARCHIVE_START:
                return _read_archive(file, path)
            if start.startswith(_PICKLE_START):
                return _read_pickles(file)
    except CheckpointError:
        raise
    except _ForeignError as error:
        raise CheckpointError(f"{path} {error}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"no file {path}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or in_a_line(error)}") from error
    except Exception as error:  # damaged bytes end in almost any exception, and all mean the same here
        raise CheckpointError(
            f"{path} is no torch file, or is damaged: {type(error).__name__}: {in_a_line(error)}; get or "
            "write it anew"
        ) from error
    raise CheckpointError(f"{path} is no torch file: expected one that torch.save or s2dnas-train wrote")


class _ForeignError(Exception):
    """The file names what is neither a plain value nor a dense tensor."""

    def __init__(self, module: str, name: str) -> None:
        named = shown(f"{module}.{name}")
        if module.startswith("torch.") and name.startswith("_rebuild"):
            super().__init__(
                f"holds a tensor that is no plain one (torch makes it by {named}): expected dense tensors; "
                "sparse, quantised and nested ones, and those without values, have to be converted first"
            )
        else:
            super().__init__(
                f"holds more than tensors ({named}), and was not loaded, because loading it would run code. "
                "Save the weights alone: torch.save(network.state_dict(), path). Of a checkpoint that you "
                "trust: c = torch.load(path, weights_only=False), then torch.save(c['state_dict'], "
                "other_path), or c.state_dict() if c is the network itself"
            )


# --- archives, and the pickles that came before them --------------------------------------------------------

_Take = Callable[[str, torch.dtype, int], Tensor]
"""The values of a storage by its key, data type and number of values."""


def _read_archive(file: BinaryIO, path: Path) -> Any:
    with opened_archive(file, _MOST_RECORDS) as archive:
        size_bytes = path.stat().st_size
        folder = _folder_in(archive, path, size_bytes)
        taken: dict[str, Tensor] = {}

        def take(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if key not in taken:
                record = archive.getinfo(f"{folder}data/{key}")
                if record.file_size != count * dtype.itemsize:
                    raise ValueError(
                        f"storage {shown(key)} has {record.file_size} bytes for {shown(count)} values"
                    )
                taken[key] = _values(archive.read(record), dtype)
            return taken[key]

        return _TorchUnpickler(io.BytesIO(archive.read(f"{folder}data.pkl")), take, size_bytes).load()


def _folder_in(archive: zipfile.ZipFile, path: Path, size_bytes: int) -> str:
    """Where its records are; the archive holds them as they are and takes no memory beyond its size."""
    records = archive.infolist()
    names = [record.filename for record in records]
    if any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript archive; save the weights alone: "
            "torch.save(torch.jit.load(path).state_dict(), other_path)"
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records are compressed, which torch.save never does")
    if sum(record.file_size for record in records) > size_bytes:
        raise ValueError("its records claim more bytes than the file has")
    if len(set(names)) < len(names):
        raise ValueError("two of its records have one name")
    folders = [name.removesuffix("data.pkl") for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(folders) != 1:
        raise ValueError(f"it has {len(folders)} records 'data.pkl', expected one")
    if f"{folders[0]}byteorder" in names and archive.read(f"{folders[0]}byteorder") != b"little":
        raise ValueError("it was written by a machine of another byte order")
    return folders[0]


def _read_pickles(file: BinaryIO) -> Any:
    """One pickle after another, then each storage: its number of values, and these."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size_bytes = left_bytes = len(content)
        claimed: dict[str, Tensor] = {}

        def take(key: str, dtype: torch.dtype, count: int) -> Tensor:
            nonlocal left_bytes
            if key not in claimed:
                left_bytes -= count * dtype.itemsize
                if left_bytes < 0:
                    raise ValueError("its storages claim more bytes than the file has")
                claimed[key] = torch.empty(count, dtype=dtype)
            return claimed[key]

        def load(storages: _Take = _none) -> Any:
            return _TorchUnpickler(content, storages, size_bytes).load()

        if (load(), load()) != (_MAGIC, _PROTOCOL):
            raise ValueError("expected the numbers that torch.save begins with")
        if load().get("little_endian") is False:
            raise ValueError("it was written by a machine of another byte order")
        document, keys = load(take), load()
        if sorted(keys) != sorted(claimed):
            raise ValueError("expected the values of each storage once")
        for key in keys:
            _fill(claimed[key], content)
        return document


def _none(key: str, dtype: torch.dtype, count: int) -> Tensor:
    raise ValueError("a storage where there is none")


def _fill(storage: Tensor, content: mmap.mmap) -> None:
    count = int.from_bytes(content.read(8), "little")
    values = content.read(storage.nbytes)
    if count != len(storage) or len(values) != storage.nbytes:
        raise ValueError("a storage is cut short, or of another size than said")
    storage.copy_(_values(values, storage.dtype))


def _values(content: bytes, dtype: torch.dtype) -> Tensor:
    """The bytes as numbers, in memory of torch's own, aligned as torch likes it."""
    if not content:
        return torch.empty(0, dtype=dtype)
    if dtype is torch.bool:  # a byte that is neither 0 nor 1 is no truth value
        return torch.frombuffer(bytearray(content), dtype=torch.uint8) != 0
    return torch.frombuffer(bytearray(content), dtype=dtype).clone()


# --- what a pickle of torch's may name ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """Stands for a class of storages."""

    dtype: torch.dtype


class _Plain(StandIn):
    """Stands for `Tensor` and `Parameter`, where a file names the class of a tensor."""

    __slots__ = ()


class _Names(dict[Any, Any], StandIn):
    """Stands for `OrderedDict`, the class of a state dict."""

    __slots__ = ()

    def __init__(self, items: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__((plain_key(key), value) for key, value in items)


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# What checkpoints keep beside weights: options, paths and numbers. Nothing of it is needed, nor made.
_BESIDE = {
    ("argparse", "Namespace"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
    *((module, "scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "Counter"),
    ("torch", "Size"),
    ("torch", "device"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "bytearray", "complex")
    ),
}


@dataclass(frozen=True)
class _Storage:
    """Numbers in a row, which tensors are views of."""

    values: Tensor


class _TorchUnpickler(InertUnpickler):
    """Reads one pickle of torch's; tensors are views of the storages that `take` gives."""

    def __init__(self, stream: Any, take: _Take, size_bytes: int) -> None:
        super().__init__(stream, encoding="utf-8")
        self._take = take
        self._left_bytes = _MOST_SHARED * size_bytes + _SHARED_BYTES
        self._makers: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _Names,
            ("torch", "Tensor"): _Plain,
            ("torch.nn.parameter", "Parameter"): _Plain,
            ("torch.nn.parameter", "Buffer"): _Plain,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_kind,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            ("torch._tensor", "_rebuild_from_type_v2"): self._of_type,
            **dict.fromkeys(_BESIDE, StandIn),
        }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what the file names; refuse all else."""
        made = self._makers.get((module, name))
        if made is not None:
            return made
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
            return _Kind(_STORAGES[name])
        kind = getattr(torch, name, None) if module == "torch" else None
        if isinstance(kind, torch.dtype):
            return kind
        raise _ForeignError(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that ("storage", class, key, device, number of values) names."""
        word, kind, key, _, count, *views = pid
        is_named = word == "storage" and isinstance(kind, _Kind) and isinstance(key, str)
        if not is_named or not _is_count(count) or any(view is not None for view in views):
            raise ValueError("a storage is not named as torch.save names one")
        return _Storage(self._take(key, kind.dtype, count))

    def _tensor(
        self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *others: object
    ) -> Tensor:
        """`others` are whether it is trained, its hooks, and how its values have to be changed."""
        if any(others[2:]):
            raise ValueError("a tensor whose values are conjugated or negated when they are read")
        return self._view(storage.values, offset, size, stride)

    def _tensor_of_kind(self, storage: _Storage, *others: Any) -> Tensor:
        offset, size, stride, is_trained, hooks, dtype, *changes = others
        values = _Storage(storage.values.view(dtype))
        return self._tensor(values, offset, size, stride, is_trained, hooks, *changes)

    def _parameter(self, data: Tensor, *_: object) -> Tensor:
        return data

    def _of_type(
        self, make: Callable[..., Tensor], kind: object, arguments: tuple[Any, ...], _: object
    ) -> Tensor:
        if kind is not _Plain:
            raise ValueError("a tensor of a class of its own")
        return make(*arguments)

    def _view(self, values: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        if len(size) != len(stride) or not all(map(_is_count, (offset, *size, *stride))):
            raise ValueError("a tensor's shape or strides are no numbers of 0 or more")
        if len(size) > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {len(size)} dimensions")
        count = math.prod(size)
        if not count:
            return torch.empty(size, dtype=values.dtype)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= len(values):
            raise ValueError(f"a tensor of shape {shown(size)} claims more values than its storage has")
        self._left_bytes -= count * values.itemsize
        if self._left_bytes < 0:
            raise ValueError("its tensors claim many times more values than the file has")
        return torch.as_strided(values, size, stride, offset)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
