"""Atomic files: a reader sees the old content or the new one, never half of either.

Used for everything that must survive `kill -9`: checkpoints, `model.pt`, manifests. Knows nothing of
what it writes.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO

from s2dnas_deploy.errors import OptionError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it into place."""
    try:
        _write_atomically(path, write)
    except OSError as error:  # about the file that was asked for, not about one in its place
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, in UTF-8."""
    write_atomically(path, lambda stream: stream.write(text.encode()))


def check_writable(out: Path, option: str = "--out") -> None:
    """Find out before the work, not after it, that the result can be written."""
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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def free_name(path: Path) -> Path:
    """A name like this one that nothing has yet: of `model.pt`, `model-1.pt`."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
    return next(other for other in others if not other.exists())
