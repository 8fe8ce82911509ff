"""How a command talks while it works: messages and progress bars on stderr, bars only for a terminal."""

import sys
import time
from collections.abc import Callable

import click


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
            click.echo(message, err=True)

    def phase(self, name: str) -> Callable[[int, int, str], None]:
        """Begin a phase. Nothing shows until it has lasted a second."""
        if not self.bars:
            return _Lines(name, self).update
        if self._bar is not None:
            self._bar.close()
        self._bar = _Bar(name)
        return self._bar.update


class _Bar:
    """A bar that draws itself once the phase proves long, and closes itself at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start = time.monotonic()
        self.note = ""
        self.bar: click._termui_impl.ProgressBar[int] | None = None

    def update(self, done: int, total: int, note: str) -> None:
        """Move to `done` of `total`."""
        if self.bar is None:
            if time.monotonic() - self.start < 1 or done >= total:
                return
            self.bar = click.progressbar(
                length=total,
                label=self.name,
                file=sys.stderr,
                show_eta=True,
                item_show_func=lambda _: self.note,
            )
            self.bar.__enter__()
            self.bar.update(done)
        self.note = note
        self.bar.update(done - self.bar.pos)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leave the terminal as it was: click hides the cursor while a bar is drawn."""
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
            self.bar = None


class _Lines:
    """A line now and then, sooner if the note has changed, and one at the end: enough for a log file."""

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console = name, console
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
            self.console.say(f"{self.name}: {done}/{total}, {self._times(now, done, total)}{told}")

    def _times(self, now: float, done: int, total: int) -> str:
        """Time since the start, and what is left at this pace."""
        elapsed, here = now - self.start, done - (self.before or 0)
        left = f", {elapsed * (total - done) / here:.0f} s left" if done < total else ""
        return f"{elapsed:.0f} s{left}"


_SECONDS_BETWEEN_LINES, _SECONDS_WITHOUT_NEWS = 5.0, 60.0
