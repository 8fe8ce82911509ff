"""How a command talks: results on stdout; messages and progress bars on stderr, bars only for a terminal.

Names of files, labels and bundles come from anyone, and a terminal obeys what is written to it; so whatever
is for a person goes through `readable`.
"""

import ctypes
import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import click

from s2dnas_deploy.files.atomic import naming
from s2dnas_deploy.quoting import shortened, spelled_out

_LONGEST_LINE = 999


def readable(text: str) -> str:
    """A text as a terminal may get it: nothing in it that it would obey, and no endless lines."""
    return "\n".join(_bounded(spelled_out(line, but="\t")) for line in text.split("\n"))


def _bounded(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    note = f" [cut, of {len(line):,} characters]"
    return shortened(line, _LONGEST_LINE - len(note)) + note


def say(message: str) -> None:
    """A message for a person, on stderr; where nobody can read it, it is lost."""
    with lost_where_nobody_reads():
        click.echo(readable(message), err=True)


@contextmanager
def lost_where_nobody_reads() -> Iterator[None]:
    """Let the work go on where stderr is full, or a terminal that has been closed."""
    try:
        yield
    except OSError:
        silence(sys.stderr)


def print_result(text: str, *, exactly: bool = False) -> None:
    """A result, on stdout: for a person, or exactly as it is for a program."""
    with naming("stdout"):
        click.echo(text if exactly else readable(text))


def silence(stream: TextIO) -> None:
    """Let a stream that takes nothing more take all, or the end of the process would write there again."""
    try:
        number = stream.fileno()
    except io.UnsupportedOperation:  # it is none of the system's
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Open what of stdin, stdout and stderr is closed: else the next file that is opened takes its place.

    What is read there is empty, what is written to stdout is an error, and messages are lost.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is this one
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    # A stream that was closed when Python began is None.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know few letters
        sys.stdout.reconfigure(errors="backslashreplace")


def silence_pillow() -> None:
    """Keep what pillow says of odd files from the terminal; what cannot be read is reported as an answer."""
    from PIL import _imaging

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with suppress(AttributeError, OSError):  # where libtiff is a part of pillow, or is not there
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


class Console:
    """Messages, and one bar per phase with the time left; without a terminal a phase is one line."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bars = sys.stderr.isatty() and not quiet
        self._bar: _Bar | None = None

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, message: str) -> None:
        """A line for a person."""
        if not self.quiet:
            say(message)

    def phase(self, name: str, counted: str = "images") -> Callable[[int, int, str], None]:
        """Begin a phase, in which something is counted. Nothing shows until it has lasted a second."""
        if not self.bars:
            return _Lines(name, counted, self).update
        if self._bar is not None:
            self._bar.close()
        self._bar = _Bar(name, counted)
        return self._bar.update


class _Bar:
    """A bar that draws itself once the phase proves long, and closes itself at the end."""

    def __init__(self, name: str, counted: str) -> None:
        self.name, self.counted = name, counted
        self.start = time.monotonic()
        self.told = ""
        self.bar: click._termui_impl.ProgressBar[int] | None = None

    def update(self, done: int, total: int, note: str) -> None:
        """Move to `done` of `total`."""
        with lost_where_nobody_reads():
            self._move(done, total, note)

    def _move(self, done: int, total: int, note: str) -> None:
        self.told = f"{done}/{total} {self.counted}" + (f", {note}" if note else "")
        if self.bar is None:
            if time.monotonic() - self.start < 1 or done >= total:
                return
            self.bar = click.progressbar(
                length=total,
                label=self.name,
                file=sys.stderr,
                show_eta=True,
                item_show_func=lambda _: self.told,
            )
            self.bar.__enter__()
        self.bar.length = total  # of which there may be fewer than was thought
        self.bar.update(done - self.bar.pos)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leave the terminal as it was: click hides the cursor while a bar is drawn."""
        if self.bar is not None:
            with lost_where_nobody_reads():
                self.bar.__exit__(None, None, None)
            self.bar = None


class _Lines:
    """A line now and then, sooner if the note has changed, and one at the end: enough for a log file."""

    def __init__(self, name: str, counted: str, console: Console) -> None:
        self.name, self.counted, self.console = name, counted, console
        self.start = time.monotonic()
        self.before: int | None = None  # what was done before this process
        self.last = ""
        self.said_at = self.start

    def update(self, done: int, total: int, note: str) -> None:
        """Say where it stands, if there is news that is not too fresh, or if it is done."""
        now = time.monotonic()
        self.before = done - 1 if self.before is None else self.before
        wait = _SECONDS_BETWEEN_LINES if note != self.last else _SECONDS_WITHOUT_NEWS
        ended = done == total and (note or now - self.start > 1)
        if ended or now - self.said_at > wait:
            self.last, self.said_at = note, now
            told = f", {note}" if note else ""
            self.console.say(
                f"{self.name}: {done}/{total} {self.counted}, {self._times(now, done, total)}{told}"
            )

    def _times(self, now: float, done: int, total: int) -> str:
        """Time since the start, and what is left at this pace."""
        elapsed, here = now - self.start, done - (self.before or 0)
        left = f", {elapsed * (total - done) / here:.0f} s left" if done < total else ""
        return f"{elapsed:.0f} s{left}"


_SECONDS_BETWEEN_LINES, _SECONDS_WITHOUT_NEWS = 5.0, 60.0
