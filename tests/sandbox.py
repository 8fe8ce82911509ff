"""A command in a process of its own, with limits: whatever it is given, it ends in words and in time.

Each call forks, so a case costs milliseconds, cannot harm the next one, and is measured by itself. What
forks is a process with one thread: a fork of one with many, as tests have once torch has run, may wait for
ever on a lock that another thread held.
"""

import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import click
from click.testing import CliRunner
from PIL import Image

import s2dnas_deploy.cli

MOST_SECONDS = 10.0
MOST_BYTES = 500 * 2**20  # more than the process had before
LONGEST_LINE = 1000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended: its exit code (minus a signal's number), what it said, what it took."""

    exit_code: int
    stdout: bytes
    stderr: str
    seconds: float
    peak_bytes: int
    traceback: str = ""

    def wrong(self, codes: Sequence[int]) -> list[str]:
        """What is wrong with it, if it should have ended with one of these codes, and in a line."""
        longest = max(map(len, self.stderr.splitlines()), default=0)
        return [
            problem
            for problem, there in {
                self.traceback: bool(self.traceback),
                f"exit code {self.exit_code}: {self.stderr[-500:]}": self.exit_code not in codes,
                "no word of why": 1 < self.exit_code < 6 and "error" not in self.stderr.lower(),
                f"a line of {longest} characters": longest >= LONGEST_LINE,
                f"{self.seconds:.1f} s": self.seconds > MOST_SECONDS,
                f"{self.peak_bytes / 2**20:.0f} MB": self.peak_bytes > MOST_BYTES,
            }.items()
            if there
        ]


def run(command: click.Command, *arguments: object, stdin: bytes | None = None) -> Outcome:
    """The command with these arguments, in a child of a small process."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    pickle.dump((command.name, [str(each) for each in arguments], stdin), server.stdin)
    server.stdin.flush()
    return Outcome(**pickle.load(server.stdout))  # noqa: S301  # our own child's


@cache
def _server() -> subprocess.Popen[bytes]:
    """This file as a program; it ends with the process that began it, when its input does."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _serve(asked: IO[bytes], told: IO[bytes]) -> None:
    """Answer one request after the other, each in a child."""
    while True:
        try:
            name, arguments, stdin = pickle.load(asked)  # noqa: S301  # our own parent's
        except EOFError:
            return
        pickle.dump(vars(_in_a_child(getattr(s2dnas_deploy.cli, name), arguments, stdin)), told)
        told.flush()


def _in_a_child(command: click.Command, arguments: list[str], stdin: bytes | None) -> Outcome:
    before, begun = _resident(), time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _answer(command, arguments, stdin, writing)
    os.close(writing)
    said = _read(reading, begun + 2 * MOST_SECONDS)
    if said is None:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    seconds, peak = time.monotonic() - begun, max(used.ru_maxrss * 1024 - before, 0)
    if not said:
        code = os.waitstatus_to_exitcode(status)
        return Outcome(exit_code=code, stdout=b"", stderr="", seconds=seconds, peak_bytes=peak)
    return Outcome(**pickle.loads(said), seconds=seconds, peak_bytes=peak)  # noqa: S301  # our own child's


def _resident() -> int:
    """What this process has in memory now, and a child begins with."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _answer(command: click.Command, arguments: list[str], stdin: bytes | None, writing: int) -> None:
    """In the child: run, tell, and be gone without any of the parent's clean-up."""
    result = CliRunner().invoke(command, arguments, input=stdin)
    strange = result.exception is not None and not isinstance(result.exception, SystemExit)
    told = {
        "exit_code": result.exit_code,
        "stdout": result.stdout_bytes,
        "stderr": result.stderr,
        "traceback": repr(result.exception)[:2000] if strange else "",
    }
    with os.fdopen(writing, "wb") as pipe:
        pickle.dump(told, pipe)
    os._exit(0)


def _read(pipe: int, until: float) -> bytes | None:
    """All that comes through a pipe; None if it has not ended by then."""
    parts = []
    with os.fdopen(pipe, "rb", buffering=0) as stream:
        while select.select([stream], [], [], max(until - time.monotonic(), 0))[0]:
            part = stream.read(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return None


if __name__ == "__main__":
    import s2dnas_deploy.cli.text.bundle
    import s2dnas_deploy.cli.text.run
    import s2dnas_deploy.runtime.answers.job  # all here, or each child would import them anew

    Image.init()
    own = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what libraries read and print is not of the talk
    os.dup2(2, 1)
    _serve(*own)
