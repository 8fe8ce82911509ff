"""What is named as a file is read only if it is one, and nothing else keeps a reader waiting."""

import os
import socket

import pytest

from s2dnas_deploy.files.plain_file import open_file, read_file


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Names of sockets are short."""
    monkeypatch.chdir(tmp_path)


def test_a_plain_file_is_read_as_it_is(tmp_path):
    (tmp_path / "file").write_bytes(b"\r\n\x00\xff")
    (tmp_path / "link").symlink_to("file")
    assert read_file("file", 4) == read_file(tmp_path / "link", 4) == b"\r\n\x00\xff"
    with open_file("file") as file:
        assert file.read() == b"\r\n\x00\xff"


def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo("pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for path, reason in (
            ("pipe", "expected a file, got a pipe; of what a shell's"),
            ("link", "got a pipe"),
            ("socket", "expected a file, got a socket"),
            ("/dev/zero", "expected a file, got a device"),
            (tmp_path, "expected a file, got a folder"),
        ):
            with pytest.raises(OSError, match=reason) as caught:
                read_file(path, 100)
            assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        read_file("missing", 100)


def test_a_pipe_that_takes_the_name_after_the_first_look_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    plain = os.stat("file")
    os.mkfifo("pipe")
    monkeypatch.setattr("s2dnas_deploy.files.plain_file.os.stat", lambda path, follow_symlinks: plain)
    with pytest.raises(OSError, match="got a pipe"):
        open_file("pipe")


def test_a_link_is_refused_where_it_could_lead_elsewhere(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_file("file", 1, follow_links=False) == b"x"
    with pytest.raises(OSError, match="got a link"):
        read_file("link", 1, follow_links=False)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match=r"expected at most 10 bytes, got 1,099,511,627,776"):
        read_file("file", 10)


def test_a_file_that_grows_while_it_is_read_is_told():
    with pytest.raises(OSError, match="grew while it was read"):
        read_file("/proc/self/status", 10)  # says that it is empty, and is not
