"""What all commands share: errors as one message and an exit code."""

import errno
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from s2dnas_deploy import __version__
from s2dnas_deploy.cli.console import lost_where_nobody_reads, open_closed_streams, readable, say, silence
from s2dnas_deploy.cli.options.sections import write_sections
from s2dnas_deploy.errors import S2dnasError

INTERRUPTED = 130
DEBUG = "s2dnas_deploy.debug"
"""In the context's `meta`: whether the traceback of an error is wanted."""


class Guarded(click.Command):
    """A command, or a group of some, whatever its streams are and whatever it is asked."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse and run, with streams that are there."""
        open_closed_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # of click's own output, help and the version
            silence(sys.stdout)
            _end(f"error: stdout: cannot be written: {error.strerror or error}", 1)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse; what is wrong is told in what a terminal may be shown."""
        with _readable_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; what is wrong with the options is told in what a terminal may be shown."""
        with _readable_errors():
            return super().invoke(ctx)


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        error.show = lost_where_nobody_reads()(error.show)  # type: ignore[method-assign]
        error.message = readable(error.message)  # type: ignore[misc]  # final in new releases of click only
        raise


class GuardedGroup(Guarded, click.Group):
    """A group of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a person needs them."""
        return list(self.commands)


class Command(Guarded):
    """A command that ends with the exit code of the error it met; `--debug` shows the traceback."""

    interrupted = "interrupted"
    """What is said after Ctrl-C."""
    when_full = "make room, and give the same command again"
    """What is said when a disk is full."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault(
            "context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        )
        super().__init__(*args, **kwargs)
        click.version_option(__version__, prog_name="s2dnas_deploy")(self)
        self.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options in their sections."""
        write_sections(self.get_params(ctx), ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what it raises into a message and an exit code."""
        debug = ctx.meta[DEBUG] = ctx.params.pop("debug", False)
        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except S2dnasError as error:
            if debug:
                raise
            _end(f"error: {error}", error.exit_code)
        except ModuleNotFoundError as error:
            if debug or (error.name or "").partition(".")[0] not in _BUILD_ONLY:
                raise
            _end(
                f"error: this command needs {error.name}, which is not installed; "
                "install s2dnas-deploy with its extra [build]: in its checkout, pip install -e '.[build]'",
                1,
            )
        except BrokenPipeError:
            # Whoever read the output has had enough; nothing may be written there at the end either.
            silence(sys.stdout)
            sys.exit(1)
        except OSError as error:
            silence(sys.stdout)
            if debug:
                raise
            full = f"; {self.when_full}" if error.errno in _FULL else ""
            _end(f"error: {_of_system(error)}{full}", 1)
        except (MemoryError, RuntimeError) as error:
            if debug or not _is_of_memory(error):
                raise
            _end(f"error: out of memory: {error}; a smaller batch takes less", 1)
        except KeyboardInterrupt:
            _end(self.interrupted, INTERRUPTED)


class ResumableCommand(Command):
    """One that goes on where it was."""

    interrupted = "interrupted: the same command, without --restart, goes on where this one was"
    when_full = "make room, and the same command, without --restart, goes on where this one was"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """`kill`, `timeout` and a system that shuts down let a command finish what Ctrl-C lets it finish."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears of signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_BUILD_ONLY = frozenset(
    {"torch", "onnx", "onnxsim", "safetensors", "sklearn", "matplotlib", "tomli", "optuna", "scipy"}
)


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so in ways of its own."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or of_torch


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _of_system(error: OSError) -> str:
    """The operating system's error: which file, and what of it; of a copy, the one that was to be written."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename2 or error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"


def _end(message: str, code: int) -> NoReturn:
    say(message)
    sys.exit(code)
