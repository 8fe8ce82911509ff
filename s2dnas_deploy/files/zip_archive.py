"""A zip archive from anyone's hands, opened only if its directory is one that may be read.

Place in the flow: an open file ──▶ a `ZipFile` whose members are listed ──▶ who knows what they must be.
zipfile reads a directory of any size in one go, and makes an object of 500 bytes for each member in it. So a
small file that is all directory would take minutes and gigabytes, before anyone could count the members.
What zipfile asks for is checked instead: its own search for the directory is the only one there is.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

LARGEST_DIRECTORY = 16 * 2**20

_LARGEST_END = 2**17  # a comment in it has up to 64 KiB
_MEMBER = b"PK\x01\x02"  # begins what a directory says of each


class ArchiveError(ValueError):
    """An archive that must not be opened; one line that says why, not where."""


@contextmanager
def opened_archive(file: BinaryIO, most_members: int) -> Iterator[zipfile.ZipFile]:
    """The archive in a file, of so many members at the most."""
    with (
        _Guarded(file, most_members) as guarded,
        zipfile.ZipFile(guarded) as archive,
    ):
        guarded.opening = False
        yield archive


class _Guarded(io.BufferedReader):
    """Refuses the directory that zipfile asks for, unread if it is too large, else before it is parsed."""

    opening = True

    def __init__(self, file: BinaryIO, most_members: int) -> None:
        super().__init__(io.FileIO(file.fileno(), closefd=False))
        self._most_members = most_members

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.opening:
            return super().read(size)
        if size is None or size < 0:  # the end of the file, where the directory is said to be
            return super().read(_LARGEST_END)
        if size > LARGEST_DIRECTORY:
            raise ArchiveError("an archive whose directory is larger than 16 MiB")
        content = super().read(size)
        members = content.count(_MEMBER)
        if members > self._most_members:
            raise ArchiveError(f"{members:,} members, expected at most {self._most_members:,}")
        return content
