"""Files that somebody names, opened only if they are what a file to be read must be: plain, and of a size.

A pipe would keep its reader waiting for ever, and a device may give bytes without end, or do something once
it is opened. Place in the flow: a path ──▶ an open file or its bytes ──▶ whoever knows the format. What is
wrong is an `OSError` with the file's name and the reason in `strerror`, for the caller to put into words.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "expected a file, got a folder"),
    (
        stat.S_ISFIFO,
        errno.ESPIPE,
        "expected a file, got a pipe; of what a shell's <(…) gives, make a file first, and name that",
    ),
    (stat.S_ISSOCK, errno.ESPIPE, "expected a file, got a socket"),
    (stat.S_ISCHR, errno.ENODEV, "expected a file, got a device"),
    (stat.S_ISBLK, errno.ENODEV, "expected a file, got a device"),
)


def open_file(path: Path | str, *, follow_links: bool = True) -> BinaryIO:
    """A plain file, to be read and closed; nothing else is waited for, whatever takes the name meanwhile."""
    _check_plain(path, os.stat(path, follow_symlinks=follow_links))  # a device may mind being opened
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_plain(path, os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def read_file(path: Path | str, largest_bytes: int, *, follow_links: bool = True) -> bytes:
    """All of a plain file of at most so many bytes."""
    with open_file(path, follow_links=follow_links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest_bytes:
            reason = f"expected at most {largest_bytes:,} bytes, got {size:,}"
            raise OSError(errno.EOVERFLOW, reason, str(path))
        try:
            content = file.read(size + 1)
        except OSError as error:  # a disk that fails does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        if len(content) > size:
            raise OSError(errno.EAGAIN, "grew while it was read; wait until it is written", str(path))
        return content


def _check_plain(path: Path | str, found: os.stat_result) -> None:
    for is_kind, number, reason in _KINDS:
        if is_kind(found.st_mode):
            raise OSError(number, reason, str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.ELOOP, "expected a file, got a link, or what is no plain file", str(path))
