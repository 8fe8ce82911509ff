"""NumPy's own files as plain arrays, from anyone's hands: nothing in them is run, and no claim is believed.

Place in the flow: a path ──▶ arrays. numpy makes room for what a file says of itself; here, what it says is
checked against the size of the file first. The rules:

- A `.npy` holds exactly the numbers or the text (no Python objects, no records) that its header claims.
- An `.npz` holds `.npy` members only, stored or deflated, each name once, at most 1,000 of them. One that
  holds other things than numbers or text is not read, and is an error to whoever asks for it.
- An archive may unpack to 64 MiB, and beyond that to 100 times its own size: images hardly get below a
  twentieth, what unpacks to more is a bomb. Neither kind may hold more than 16 GiB.
- Numbers of more than 256 MiB that are not packed stay in the file. They are read once, for what a checksum
  says, and then row by row, as somebody asks for them.
"""

import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from s2dnas_deploy.files.plain_file import open_file
from s2dnas_deploy.files.zip_archive import ArchiveError, opened_archive
from s2dnas_deploy.quoting import in_a_line, shown

MOST_BYTES = 16 * 2**30
ALWAYS_BYTES = 64 * 2**20
MOST_TIMES = 100
MOST_MEMBERS = 1000
MOST_IN_MEMORY_BYTES = 256 * 2**20

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_LONGEST_HEADER = 10_000  # as numpy has it
_CHUNK_BYTES = 2**18
_MEMBER_HEADER = 30
# By the format's definition a literal of Python; without white space, this much of one is what numpy writes.
_FIELD = re.compile(
    r"""['"](?:descr['"]:['"](?P<descr>[<>|=]?[biufcSU]\d{1,9})['"]|fortran_order['"]:(?P<order>True|False)"""
    r"""|shape['"]:\((?P<shape>(?:\d{1,19}L?,)*(?:\d{1,19}L?)?)\))(?:,|(?=\}))""",
    re.ASCII,
)


class ArrayFileError(ValueError):
    """A file that is none of NumPy's plain ones, or must not be read; one line that says why, not where."""


class NotPlainError(ArrayFileError):
    """An array of objects, dates or records."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRows:
    """The rows of a large array [N, …] that stay in their file; can be handed to another process."""

    path: str
    start: int
    """The first byte of the numbers."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    state: tuple[int, int]
    """Of the file: bytes, and when it was changed last."""

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | NDArray[np.int64]) -> NDArray[Any]:
        """Read one row, or some, which come with an axis of their own; raises an `ArrayFileError`."""
        if isinstance(rows, int):
            row: NDArray[Any] = self[np.array([rows])][0]
            return row
        places = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        found = np.empty((len(places), *self.shape[1:]), self.dtype)
        flat = found.reshape(len(places), -1).view(np.uint8)
        each = math.prod(self.shape[1:]) * self.dtype.itemsize
        with open_file(self.path) as file:
            if _state_of(file) != self.state:
                raise ArrayFileError("a file that was changed since it was opened")
            for row, place in zip(flat, places.tolist(), strict=True):
                file.seek(self.start + place * each)
                _read_into(file, row.data, "the file")
        return found


def _state_of(file: IO[bytes]) -> tuple[int, int]:
    about = os.fstat(file.fileno())
    return about.st_size, about.st_mtime_ns


Numbers = NDArray[Any] | StoredRows
Held = TypeVar("Held", bound=Numbers)


class Arrays(Mapping[str, Held]):
    """The arrays of an `.npz` by their names; to ask for one that is not plain is an `ArrayFileError`."""

    def __init__(self, members: Mapping[str, Held | str]) -> None:
        self._members = members  # or why there is none

    def __getitem__(self, name: str) -> Held:
        found = self._members[name]
        if isinstance(found, str):
            raise NotPlainError(found)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def arrays_in(path: Path | str) -> NDArray[Any] | Arrays[NDArray[Any]]:
    """The array of a `.npy`, or those of an `.npz` by their names; raises nothing but `ArrayFileError`."""
    found = _read(path, stored=False)
    assert not isinstance(found, StoredRows), "nothing was to be left in the file"
    return cast("NDArray[Any] | Arrays[NDArray[Any]]", found)


def rows_in(path: Path | str) -> Numbers | Arrays[Numbers]:
    """The same, of which large arrays stay in the file."""
    return _read(path, stored=True)


def _read(path: Path | str, *, stored: bool) -> Numbers | Arrays[Numbers]:
    try:
        with open_file(path) as file:
            return _arrays(file, os.path.abspath(path) if stored else None)
    except ArrayFileError:
        raise
    except ArchiveError as problem:
        raise ArrayFileError(str(problem)) from problem
    except FileNotFoundError as problem:
        raise ArrayFileError("no such file") from problem
    except MemoryError as problem:
        raise ArrayFileError("arrays that take more memory than there is") from problem
    except Exception as problem:  # zipfile raises almost anything on damaged bytes
        if isinstance(problem, OSError) and problem.filename is not None:
            raise ArrayFileError(problem.strerror or "no file that can be opened") from problem
        raise ArrayFileError(f"a damaged file ({in_a_line(problem)})") from problem


def _arrays(file: BinaryIO, path: str | None) -> Numbers | Arrays[Numbers]:
    """What a file has; what is large stays there, if its path is told."""
    start, state = file.read(len(_MAGIC)), _state_of(file)
    size, _ = state
    file.seek(0)
    if start == _MAGIC:
        return _array(
            file, size, "the file", None if path is None else _Place(path=path, start=0, state=state)
        )
    if start[:2] != b"PK":
        raise ArrayFileError("something else" if start else "an empty file")
    with opened_archive(file, MOST_MEMBERS) as archive:
        _check_members(archive.infolist(), size)
        found: dict[str, Numbers | str] = {}
        for info in archive.infolist():
            place = None
            if path is not None and info.compress_type == zipfile.ZIP_STORED:
                place = _Place(path=path, start=_start_of(file, info), state=state)
            found[info.filename.removesuffix(".npy")] = _member(archive, info, place)
        return Arrays(found)


# --- archives ----------------------------------------------------------------------------------------------


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise unless they can be what `np.savez` wrote, and together of a size that may be unpacked."""
    if len({info.filename for info in members}) < len(members):
        raise ArrayFileError("several members of the same name")
    for info in members:
        if not info.filename.endswith(".npy"):
            raise ArrayFileError(f"a member that is no .npy, {shown(info.filename)}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise ArrayFileError(f"an encrypted or oddly compressed member, {shown(info.filename)}")
    unpacked = sum(info.file_size for info in members)
    most = min(max(ALWAYS_BYTES, MOST_TIMES * size), MOST_BYTES)
    if unpacked > most:
        raise ArrayFileError(
            f"{unpacked:,} bytes packed into {size:,}, expected at most {most:,} (100 times the "
            "file, and at most 16 GiB); save it with np.savez, or in parts"
        )


def _start_of(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the content of a member begins: behind a header of its own, with its name and more."""
    header = os.pread(file.fileno(), _MEMBER_HEADER, info.header_offset)
    lengths = (header[at : at + 2] for at in (_MEMBER_HEADER - 4, _MEMBER_HEADER - 2))
    return info.header_offset + _MEMBER_HEADER + sum(int.from_bytes(each, "little") for each in lengths)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: "_Place | None") -> Numbers | str:
    with archive.open(info) as stream:
        try:
            array = _array(stream, info.file_size, f"its member {shown(info.filename)}", place)
        except NotPlainError as problem:
            return str(problem)
        stream.read(1)  # what a checksum says, zipfile says at the end
        return array


# --- one array ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the bytes of a stream are, as they are."""

    path: str
    start: int
    state: tuple[int, int]


def _array(stream: IO[bytes], size: int, what: str, place: _Place | None) -> Numbers:
    """What a stream of so many bytes holds, which is one array and nothing else."""
    dtype, shape, fortran, start = _header(stream, what)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size - start:
        raise ArrayFileError(
            f"{what}, whose header claims {_listed(shape)} of {dtype}, {shown(claimed)} bytes, "
            f"and which has {size - start:,}: it is truncated or damaged"
        )
    if claimed > MOST_BYTES:
        raise ArrayFileError(f"{claimed:,} bytes of numbers, expected at most 16 GiB; save it in parts")
    if place is not None and claimed > MOST_IN_MEMORY_BYTES and shape and not fortran and dtype.kind != "U":
        passed = bytearray(_CHUNK_BYTES)
        for begin in range(0, claimed, _CHUNK_BYTES):
            _read_into(stream, memoryview(passed)[: claimed - begin], what)
        return StoredRows(
            path=place.path, start=place.start + start, dtype=dtype, shape=shape, state=place.state
        )
    content = np.empty(claimed, np.uint8)
    for begin in range(0, claimed, _CHUNK_BYTES):
        _read_into(stream, content.data[begin : begin + _CHUNK_BYTES], what)
    array: NDArray[Any] = content.view(dtype)
    _check_text(array, what)
    return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def _header(stream: IO[bytes], what: str) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Type, shape, whether the first index runs fastest, and how many bytes the header has."""
    start = stream.read(len(_MAGIC) + 2)
    version = tuple(start[len(_MAGIC) :])
    if start[: len(_MAGIC)] != _MAGIC or version not in _LENGTH_BYTES:
        raise ArrayFileError(f"{what}, which is no .npy of version 1, 2 or 3")
    length_bytes = _LENGTH_BYTES[version]
    length = int.from_bytes(stream.read(length_bytes), "little")
    text = stream.read(min(length, _LONGEST_HEADER)).decode("latin-1")
    if len(text) < length:
        raise ArrayFileError(f"{what}, whose header is cut off, or longer than {_LONGEST_HEADER:,} bytes")
    fields = _fields(text)
    if fields is None:
        raise NotPlainError(
            f"{what}, which holds no plain numbers or text; the header is {shown(text.strip())}"
        )
    try:
        dtype = np.dtype(fields["descr"])
    except (TypeError, ValueError) as problem:
        raise NotPlainError(f"{what}, which holds numbers of an unknown type {fields['descr']}") from problem
    shape = tuple(int(length) for length in re.findall("[0-9]+", fields["shape"]))
    if not dtype.itemsize or len(shape) > 32 or max(shape, default=0) > 2**62:
        raise ArrayFileError(
            f"{what}, whose header claims {_listed(shape)} of {dtype}, which no array can be"
        )
    return dtype, shape, fields["order"] == "True", len(start) + length_bytes + length


def _fields(header: str) -> dict[str, str] | None:
    """Type, order and shape as the header spells them; None if it says anything else."""
    text = "".join(header.split())
    found: dict[str, str] = {}
    at = 1
    while field := _FIELD.match(text, at):
        found |= {key: value for key, value in field.groupdict().items() if value is not None}
        at = field.end()
    return found if len(found) == _FIELD.groups and (text[:1], text[at:]) == ("{", "}") else None


def _read_into(stream: IO[bytes], chunk: memoryview, what: str) -> None:
    while len(chunk):
        count = stream.readinto(chunk)  # type: ignore[attr-defined]  # both kinds of stream have it
        if not count:
            raise ArrayFileError(f"{what}, which ends in the middle: it is truncated or damaged")
        chunk = chunk[count:]


def _check_text(array: NDArray[Any], what: str) -> None:
    """Raise for numbers in a text that are no characters: Python fails on them wherever they are used."""
    if array.dtype.kind != "U":
        return
    for part in np.array_split(array, max(1, array.nbytes // _CHUNK_BYTES)):
        codes = part.view(part.dtype.byteorder.replace("=", "") + "u4")
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
            raise ArrayFileError(f"{what}, whose text has characters that are none")


def _listed(shape: tuple[int, ...]) -> str:
    return shown(list(shape))
