"""Zip archives whose directory is too much are refused before it is read, or before it is taken apart."""

import io
import struct
import zipfile

import pytest

from s2dnas_deploy.files import zip_archive
from s2dnas_deploy.files.zip_archive import ArchiveError, opened_archive

MEBIBYTE = 2**20


def sparse_archive(path, size, *, in_64_bits):
    """An archive that is nothing but a directory of so many bytes, which take no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        if in_64_bits:
            file.write(struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, size, 0))
            file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1))
        said = 0xFFFFFFFF if in_64_bits else size
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, said, 0, 0))
    return path


def archive_of(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(members):
            archive.writestr(f"{number}", b"text")
    return stream.getvalue()


@pytest.mark.parametrize("in_64_bits", [False, True])
def test_a_directory_that_is_too_large_is_refused_unread(tmp_path, monkeypatch, in_64_bits):
    read = []

    class Counted(io.FileIO):
        def readinto(self, buffer):
            count = super().readinto(buffer)
            read.append(count)
            return count

        def readall(self):
            content = super().readall()
            read.append(len(content))
            return content

    monkeypatch.setattr(zip_archive.io, "FileIO", Counted)
    size = 300 * MEBIBYTE
    path = sparse_archive(tmp_path / "x.zip", size, in_64_bits=in_64_bits)
    with (
        path.open("rb") as file,
        pytest.raises(ArchiveError, match="directory is larger than 16 MiB"),
        opened_archive(file, 1000),
    ):
        pass
    assert 0 < sum(read) < MEBIBYTE


def test_members_beyond_the_bound_are_counted_and_not_taken_apart(tmp_path, monkeypatch):
    path = tmp_path / "x.zip"
    path.write_bytes(archive_of(11))
    with path.open("rb") as file, opened_archive(file, 11) as archive:
        assert archive.read("10") == b"text"
    monkeypatch.setattr(zipfile, "ZipInfo", None)  # of which there is one for each member
    with (
        path.open("rb") as file,
        pytest.raises(ArchiveError, match="11 members, expected at most 10"),
        opened_archive(file, 10),
    ):
        pass


def test_a_member_may_be_larger_than_a_directory(tmp_path):
    content = bytes(zip_archive.LARGEST_DIRECTORY + 1)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x", content)
    with (tmp_path / "x.zip").open("rb") as file, opened_archive(file, 1) as archive:
        assert archive.read("x") == content
