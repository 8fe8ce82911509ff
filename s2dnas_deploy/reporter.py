"""Who is told how a long piece of work goes. The work itself never prints; `cli` does, as it sees fit."""

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int, str], None]  # steps done, steps in all, a short note


class Reporter(Protocol):
    """Who is told how it goes: messages, and the progress of a phase that takes a while."""

    def say(self, message: str) -> None:
        """A line for a person."""

    def phase(self, name: str, counted: str = "images") -> Progress:
        """Begin a phase, in which something is counted; the result is called with (done, total, note)."""


class Silent(Reporter):
    """Who wants to hear nothing."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def phase(self, name: str, counted: str = "images") -> Progress:
        """Show nothing."""
        return lambda done, total, note: None


def counted(progress: Progress) -> Callable[[int, int], None]:
    """The same progress for work that has no notes to give."""
    return lambda done, total: progress(done, total, "")
