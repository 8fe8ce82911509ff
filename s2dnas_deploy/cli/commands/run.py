"""`s2dnas-run`: images through a bundle, later stages only for those that need them."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.command import INTERRUPTED, Command
from s2dnas_deploy.cli.console import Console, say, silence_pillow
from s2dnas_deploy.cli.options.bundle import bundle_options, check_bundle_is_named
from s2dnas_deploy.cli.options.kinds import Numbers
from s2dnas_deploy.run.limits import MOST_BATCH, MOST_WORKERS

if TYPE_CHECKING:
    from s2dnas_deploy.run.job import RunRequest

SOME_FAILED = 6


class _Run(Command):
    when_full = "make room; a run with --out goes on when the same command is given with --resume"


@click.command(cls=_Run)
@click.argument("images", nargs=-1, required=True)
@bundle_options
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, .jsonl, .csv or .parquet. [default: stdout]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="[default: as --out ends; jsonl on stdout]",
)
@click.option("--resume", is_flag=True, help="Go on with the interrupted run that wrote --out.")
@click.option(
    "--threshold",
    "thresholds",
    type=Numbers(),
    help="Leave at this confidence, one per exit but the last. [default: the bundle's]",
)
@click.option("--last-stage", type=click.IntRange(0), help="Run no stage after this one.")
@click.option("--probabilities", is_flag=True, help="Also write the probability of every class.")
@click.option(
    "--batch", type=click.IntRange(1, MOST_BATCH), default=32, show_default=True, help="Images per batch."
)
@click.option(
    "--workers", type=click.IntRange(1, MOST_WORKERS), help="Threads that decode. [default: one per core]"
)
@click.option("--quiet", is_flag=True, help="No messages, no progress and no summary.")
def run(**options: Any) -> None:
    """Classify IMAGES: folders (with those below), files, 'patterns/*.jpg', .npy and .npz archives, or -.

    - reads the names of files and folders from stdin, one a line. One line is written per image, in order:
    its class, how sure the cascade is, and the exit where it left; or why it could not be read, and then the
    exit code is 6. Images in folders named after the bundle's classes count as labelled, and the summary
    tells how many are right.

    \b
    s2dnas-run --bundle bundle/ images/ --out answers.csv
    s2dnas-run --bundle bundle/ --provider cuda --batch 256 images/
    find images -name '*.jpg' | s2dnas-run --bundle bundle/ -
    """  # noqa: D301
    check_bundle_is_named(options["bundle"], options["images"])
    request = _request(options)
    from s2dnas_deploy.cli.text.run import summary_in_words
    from s2dnas_deploy.run.job import run_job

    silence_pillow()
    with Console(quiet=options["quiet"]) as console, _Stop() as stop:
        summary = run_job(request, sys.stdout.buffer, console, stop)
        console.say(summary_in_words(summary))
    if summary.interrupted:
        if request.out is not None:
            say(f"interrupted: the same command with --resume goes on with {request.out}")
        sys.exit(INTERRUPTED)
    if summary.failed:
        sys.exit(SOME_FAILED)


def _request(options: dict[str, Any]) -> "RunRequest":
    from s2dnas_deploy.run.bulk import BulkOptions
    from s2dnas_deploy.run.inputs import listed_on
    from s2dnas_deploy.run.job import RunRequest

    places = options["images"]
    bulk = BulkOptions(
        **{key: options[key] for key in ("batch", "thresholds", "last_stage", "probabilities", "workers")}
    )
    return RunRequest(
        places=places,
        listed=listed_on(sys.stdin.buffer) if "-" in places else (),
        bulk=bulk,
        **{
            key: options[key]
            for key in ("bundle", "provider", "allow_fallback", "threads", "out", "form", "resume", "trust")
        },
    )


class _Stop:
    """The first Ctrl-C (or `kill`) asks to stop after the current line; a second one stops at once.

    So does the first before `begin`: while the bundle is read and images are found.
    """

    def __enter__(self) -> "_Stop":
        self._asked, self._begun = False, False
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self) -> None:
        self._begun = True

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: object) -> None:
        if self._asked or not self._begun:
            raise KeyboardInterrupt
        self._asked = True
