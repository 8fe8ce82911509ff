"""A file is written whole or not at all, and what killed writers left is cleared away by the next."""

import errno
import fcntl
import os

import numpy as np
import pytest
from full_disk import files_of_at_most

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.files import atomic
from s2dnas_deploy.files.atomic import check_writable, lock_folder, write_atomically, write_text_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_is_removed_by_the_next_and_nothing_else(tmp_path):
    for name in (".a.txt.abcdefgh.part", ".a.txt.12345_78.part"):
        (tmp_path / name).write_text("half")
    others = [".a.txt.b.abcdefgh.part", ".b.a.txt.abcdefgh.part", ".a.txt.lines.part", ".a.txt.run.json"]
    for name in others:
        (tmp_path / name).write_text("another's")
    (tmp_path / ".a.txt.folder__.part").mkdir()
    os.mkfifo(tmp_path / ".a.txt.pipe____.part")
    write_text_atomically(tmp_path / "a.txt", "new")
    assert names(tmp_path) == sorted([*others, ".a.txt.folder__.part", ".a.txt.pipe____.part", "a.txt"])


def test_what_is_still_being_written_is_left_to_its_writer(tmp_path):
    def write(stream):
        stream.write(b"slow")
        write_text_atomically(tmp_path / "a.txt", "quick")
        assert (tmp_path / "a.txt").read_text() == "quick"

    write_atomically(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "slow"
    assert names(tmp_path) == ["a.txt"]


def test_who_cleans_up_between_creation_and_lock_takes_nothing_away(tmp_path, monkeypatch):
    real, raced = fcntl.flock, []

    def late(file, how):
        if how == fcntl.LOCK_EX and not raced:
            raced.append(names(tmp_path))
            atomic.remove_unfinished(tmp_path / "a.txt")
            assert names(tmp_path) == []
        real(file, how)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    write_text_atomically(tmp_path / "a.txt", "whole")
    assert raced
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]


class Full(atomic._PartFile):
    """A file on a disk that is full."""

    def write(self, content):
        self.problem = OSError(errno.ENOSPC, "No space left on device")
        raise self.problem


def test_a_full_disk_is_told_alike_by_whoever_writes(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(atomic, "_PartFile", Full)
    for write in (
        lambda stream: stream.write(b"x" * 100_000),
        lambda stream: torch.save({"x": torch.zeros(100_000)}, stream),
        lambda stream: np.savez(stream, x=np.zeros(100_000)),
    ):
        with pytest.raises(OSError, match="cannot be written: No space left on device") as caught:
            write_atomically(tmp_path / "a", write)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
        assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_file_that_may_not_grow_is_told_of_torch_too(tmp_path):
    torch = pytest.importorskip("torch")
    with files_of_at_most(10_000), pytest.raises(OSError, match="written: File too large") as caught:
        write_atomically(tmp_path / "a", lambda stream: torch.save(torch.zeros(100_000), stream))
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == []


def test_no_file_takes_the_place_of_a_device_or_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is there already and is no plain file"):
        write_text_atomically(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OptionError, match=r"cannot write --html .*pipe: it is there already, and is no"):
        check_writable(tmp_path / "pipe", "--html")


def test_a_place_below_a_file_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OptionError, match="is no folder that can be written to"):
        check_writable(tmp_path / "file" / "below" / "out.json")


def test_a_folder_that_was_replaced_before_it_was_locked_is_not_held(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    real = fcntl.flock

    def replaced(descriptor, how):
        (tmp_path / "folder").rename(tmp_path / "old")
        (tmp_path / "folder").mkdir()
        real(descriptor, how)

    monkeypatch.setattr(atomic.fcntl, "flock", replaced)
    with pytest.raises(BlockingIOError), lock_folder(tmp_path / "folder"):
        pass
