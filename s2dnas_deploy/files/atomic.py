"""Atomic files: a reader sees the old content or the new one, never half of either.

Used for everything that must survive `kill -9`: checkpoints, `model.pt`, manifests. Knows nothing of
what it writes. A file is filled under a hidden name beside its own, `.NAME.xxxxxxxx.part`, and is locked
meanwhile; so whoever writes NAME next knows what a killed process has left there, and removes it.
"""

import errno
import fcntl
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.files.plain_file import open_file

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it into place."""
    try:
        _write_atomically(path, write)
    except OSError as error:  # about the file that was asked for, not about one in its place
        raise cannot_be_written(error, path) from error


def cannot_be_written(error: OSError, path: Path | str, what: str = "") -> OSError:
    """The same error, about a file or folder as it was asked for."""
    reason = f"{what} cannot be written: {error.strerror or error}".lstrip()
    return OSError(error.errno, reason, str(path))


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let an error that names no file be about this one: a disk that is full does not say where."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        raise cannot_be_written(error, path) from error


@contextmanager
def passing_folder(prefix: str) -> Iterator[Path]:
    """A folder for files that are needed for a while; errors that name no file are about it."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.filename is not None or isinstance(error, BrokenPipeError):
                raise
            what = "this folder for passing files (TMPDIR names a place for others)"
            raise cannot_be_written(error, name, what) from error


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
        raise OSError(errno.EEXIST, "it is there already and is no plain file")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    part, file = _new_part(path)
    try:
        with io.BufferedWriter(file) as stream:
            write(stream)
            stream.flush()
            os.fsync(file.fileno())
            part.chmod(0o666 & ~_umask())
            part.replace(path)  # before the file is closed: until then it is locked
    except BaseException as error:
        part.unlink(missing_ok=True)
        if file.problem is not None and isinstance(error, Exception):
            raise file.problem from error
        raise
    sync_folder(path.parent)


class _PartFile(io.FileIO):
    """A file that remembers why it could not be written; torch, for one, says something else then."""

    problem: OSError | None = None

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as problem:
            self.problem = problem
            raise


def _new_part(path: Path) -> tuple[Path, _PartFile]:
    """A new file to be filled, locked: without a lock it would be taken for one that is left behind."""
    import tempfile

    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        file = _PartFile(descriptor, "wb")
        with suppress(OSError):  # where there are no locks, others cannot lock it either, and leave it
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return Path(name), file
        file.close()  # somebody who cleans up came between


def remove_unfinished(path: Path) -> None:
    """Remove what killed writers of a file have left beside it; those still writing hold a lock."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")
    for part in [each for each in path.parent.iterdir() if left.fullmatch(each.name)]:
        with suppress(OSError), open_file(part, follow_links=False) as file:  # else it is not ours
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, in UTF-8."""
    write_atomically(path, lambda stream: stream.write(text.encode()))


def check_writable(out: Path, option: str = "--out") -> None:
    """Find out before the work, not after it, that the result can be written."""
    if out.exists() and not (out.is_file() or out.is_dir()):
        raise OptionError(f"cannot write {option} {out}: it is there already, and is no plain file")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"cannot write {option} {out}: {folder} is no folder that can be written to")


def _umask() -> int:
    """What the process masks from new files; reading it means setting it, so it is set back at once."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; `BlockingIOError` if another holds it. Ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            raise BlockingIOError(errno.EAGAIN, "is just being replaced", str(folder))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder and hold it while what is in it is worked on; refused if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(folder))
        except BlockingIOError as problem:
            raise OptionError(
                f"another process is working in {folder}; wait for it or end it, or give another --out"
            ) from problem
        yield


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable (a rename lives in the folder, not in the file)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths swap what they name, in a single step; whether the system can do that."""
    import ctypes  # here, as tempfile is: a command's --help need not wait for them

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):  # an old kernel, or this file system
        return False
    raise OSError(number, os.strerror(number), str(one))


def free_name(path: Path) -> Path:
    """A name like this one that nothing has yet: of `model.pt`, `model-1.pt`."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
    return next(other for other in others if not other.exists())
