"""Commands that are killed, `kill -9`, at the n-th thing they do to a file: what is left, and what goes on.

Run as a script, this is a process that has imported the commands, and forks for each that it is asked to run:
so a kill costs what the command itself does, not what it imports. A point is whatever changes the watched
folder: opening to write, each write (killed with half of it written), fsync, truncate, rename, remove and so
on.
"""

import builtins
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_RUNNING = ("onnxruntime", "s2dnas_deploy.runtime.calibrate.calibration", "s2dnas_deploy.runtime.answers.job")
_BUILDING = (
    "matplotlib.backends.backend_svg",
    "onnxsim",
    "s2dnas_deploy.workshop.export.request",
    "s2dnas_deploy.workshop.training.run",
    "sklearn.datasets",
    "torch._dynamo",
)
_LONGEST_SECONDS = 120
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Commands:
    """A process that runs commands of this package, each in a folder, killed at a point or not."""

    def __init__(self, *, build: bool = False) -> None:
        """Begin; what commands import that build is imported only if such are to come."""
        words = [sys.executable, __file__, *_RUNNING, *(_BUILDING if build else ())]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Commands":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, folder: Path, words: Sequence[object], kill_at: int = 0) -> tuple[int, list[str], str]:
        """The exit code (-9 if it was killed, -14 if it hung), the points on its way, and what it said."""
        request = {"folder": str(folder), "words": [str(word) for word in words], "kill_at": kill_at}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], answer["points"], answer["said"]


def contents(folder: Path, but: Iterable[str] = ()) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def evenly(total: int, most: int | None) -> list[int]:
    """At most so many of the points 1 … total, the first and the last among them."""
    if most is None or total <= most:
        return list(range(1, total + 1))
    return sorted({1 + round(k * (total - 1) / (most - 1)) for k in range(most)})


# --- in the process that is killed -------------------------------------------------------------------------


class _Points:
    """Counts what is done to files of a folder, once `begin` was called; kills at the point that is due."""

    def __init__(self) -> None:
        self.folder = ""
        self.kill_at = 0
        self.log = -1

    def begin(self, folder: str, kill_at: int, log: int) -> None:
        self.folder, self.kill_at, self.count, self.log = folder, kill_at, 0, log

    def reached(self, what: str, path: Any) -> bool:
        """Whether this is the point where the process ends."""
        if not self.folder:
            return False
        name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)
        if not os.path.abspath(name).startswith(self.folder):
            return False
        self.count += 1
        os.write(self.log, f"{what} {name.removeprefix(self.folder)}\n".encode())
        return self.count == self.kill_at

    def pass_by(self, what: str, path: Any) -> None:
        if self.reached(what, path):
            end()


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


POINTS = _Points()


class _CountedFile(io.FileIO):
    def write(self, content: Any, /) -> int:
        if POINTS.reached("write", self.fileno()):
            super().write(memoryview(content)[: len(content) // 2])
            end()
        return super().write(content)

    def truncate(self, size: int | None = None, /) -> int:
        POINTS.pass_by("truncate", self.fileno())
        return super().truncate(size)


def _counted_open(file: Any, mode: str = "r", buffering: int = -1, *others: Any, **named: Any) -> Any:
    if "b" not in mode or not set(mode) & set("wax+") or buffering != -1:
        return _open(file, mode, buffering, *others, **named)
    raw = _CountedFile(file, mode.replace("b", ""), closefd=named.get("closefd", True))
    return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)


def _counted_fsync(file: Any) -> None:
    POINTS.pass_by("fsync", file if isinstance(file, int) else file.fileno())
    _fsync(file)


_open, _fsync = io.open, os.fsync


def _audited(event: str, arguments: tuple[Any, ...]) -> None:
    if not POINTS.folder:
        return
    if event == "open" and arguments[2] & _WRITES and not isinstance(arguments[0], int):
        POINTS.pass_by("open", arguments[0])
    elif event == "os.rename":
        POINTS.pass_by("rename", arguments[1])
    elif event in ("os.remove", "os.rmdir"):
        POINTS.pass_by(event, _with_folder(arguments[0], arguments[1]))
    elif event in ("os.mkdir", "os.chmod"):
        POINTS.pass_by(event, _with_folder(arguments[0], arguments[2]))
    elif event == "ctypes.dlsym" and arguments[1] == "renameat2":
        POINTS.pass_by("exchange", POINTS.folder)


def _with_folder(name: Any, folder: int) -> Any:
    """A path that may be relative to an open folder."""
    return name if folder < 0 or isinstance(name, int) else f"/proc/self/fd/{folder}/{os.fsdecode(name)}"


def _serve() -> None:
    """Fork for each request on stdin, and answer on stdout."""
    builtins.open = io.open = _counted_open
    io.FileIO = _CountedFile
    os.fsync = _counted_fsync
    sys.addaudithook(_audited)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from s2dnas_deploy.cli import main

    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request["folder"])
        log = folder.with_name(f"{folder.name}.log")
        said = folder.with_name(f"{folder.name}.said")
        child = os.fork()
        if child == 0:
            signal.alarm(_LONGEST_SECONDS)  # which ends what hangs
            for number, path in ((0, Path(os.devnull)), (1, said), (2, said)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
            os.chdir(folder)
            written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            POINTS.begin(str(folder.resolve()), request["kill_at"], written)
            try:
                main(request["words"], prog_name="s2dnas")
            except SystemExit as ended:
                os._exit(ended.code or 0)
            os._exit(99)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer = {"code": code, "points": log.read_text().splitlines(), "said": said.read_text()}
        log.unlink()
        said.unlink()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
