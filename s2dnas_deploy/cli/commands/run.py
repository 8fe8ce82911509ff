"""`s2dnas-run`: images through a bundle, later stages only for those that need them."""

import signal
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s2dnas_deploy.cli.command import INTERRUPTED, Command
from s2dnas_deploy.cli.console import Console, say, silence_pillow
from s2dnas_deploy.cli.options.bundle import (
    HOW_TO_RUN_IT,
    WHICH_BUNDLE,
    BundleOptions,
    batch_option,
    check_bundle_is_named,
)
from s2dnas_deploy.cli.options.kinds import Numbers, Setting
from s2dnas_deploy.cli.options.sections import INPUT, OUTPUT, RUNNING, gathered, option, section
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.sessions.limits import MOST_WORKERS

if TYPE_CHECKING:
    from s2dnas_deploy.bundle.bundle import Bundle
    from s2dnas_deploy.runtime.answers.inputs import Item
    from s2dnas_deploy.runtime.answers.job import RunRequest
    from s2dnas_deploy.runtime.answers.records import Format
    from s2dnas_deploy.serve.ray.bulk import Cluster

SOME_FAILED = 6


class _Run(Command):
    when_full = "make room; a run with --out goes on when the same command is given with --resume"


@click.command(cls=_Run)
@click.argument("images", nargs=-1, required=True)
@section(INPUT, *WHICH_BUNDLE)
@section(
    "Which stages run",
    option(
        "--setting",
        "settings",
        type=Setting(),
        multiple=True,
        help="What the bundle lets you choose, such as width=half; may be repeated.",
    ),
    option(
        "--budget-ms",
        type=click.FloatRange(0, min_open=True),
        help="Choose the bundle's setting: the best with which an image takes no longer on this device.",
    ),
    option(
        "--threshold",
        "thresholds",
        type=Numbers(),
        help="Exit at this confidence, one per exit but the last. [default: the bundle's]",
    ),
    option("--last-stage", type=click.IntRange(0), help="Run no stage after this one."),
)
@section(
    OUTPUT,
    option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write to this file, .jsonl, .csv or .parquet. [default: stdout]",
    ),
    option(
        "--format",
        "form",
        type=click.Choice(["jsonl", "csv", "parquet"]),
        help="Form of the output. [default: as --out ends; jsonl on stdout]",
    ),
    option("--probabilities", is_flag=True, help="Also write the probability of every class."),
    option("--resume", is_flag=True, help="Go on with the interrupted run that wrote --out."),
)
@section(
    RUNNING,
    *HOW_TO_RUN_IT,
    batch_option,
    option(
        "--workers",
        type=click.IntRange(1, MOST_WORKERS),
        help="Threads that decode images. [default: one per core]",
    ),
    option(
        "--ray",
        metavar="HOST:PORT",
        help="The machines of a Ray cluster answer, which see bundle and images under the same names (auto: "
        "of the one that this machine is in).",
    ),
    option("--quiet", is_flag=True, help="Print the answers only: no messages, progress and summary."),
)
@gathered("given", BundleOptions)
def run(
    *,
    images: tuple[str, ...],
    given: BundleOptions,
    settings: tuple[tuple[str, str], ...],
    budget_ms: float | None,
    thresholds: Sequence[float] | None,
    last_stage: int | None,
    out: Path | None,
    form: "Format | None",
    probabilities: bool,
    resume: bool,
    batch: int,
    workers: int | None,
    ray: str | None,
    quiet: bool,
) -> None:
    """Classify IMAGES: folders (with those below), files, 'patterns/*.jpg', .npy and .npz archives, or -.

    - reads the names of files and folders from stdin, one a line. One line is written per image, in order:
    its class, how sure the cascade is, and the exit where it left; or why it could not be read, and then the
    exit code is 6. Images in folders named after the bundle's classes count as labelled, and the summary
    tells how many are right.

    \b
    s2dnas-run --bundle bundle/ images/ --out answers.csv
    s2dnas-run --bundle bundle/ --provider cuda --batch 256 images/
    s2dnas-run --bundle bundle/ --ray auto images/ --out answers.parquet
    find images -name '*.jpg' | s2dnas-run --bundle bundle/ -
    """  # noqa: D301
    check_bundle_is_named(given.bundle, images)
    from s2dnas_deploy.cli.text.run import summary_in_words
    from s2dnas_deploy.runtime.answers.inputs import listed_on
    from s2dnas_deploy.runtime.answers.job import RunRequest, run_job
    from s2dnas_deploy.runtime.bulk import BulkOptions

    request = RunRequest(
        bundle=given.bundle,
        trust=given.trust,
        places=images,
        listed=listed_on(sys.stdin.buffer) if "-" in images else (),
        provider=given.provider,
        allow_fallback=given.allow_fallback,
        threads=given.threads,
        bulk=BulkOptions(
            batch=batch,
            thresholds=thresholds,
            last_stage=last_stage,
            settings=_by_name(settings),
            probabilities=probabilities,
            workers=workers,
        ),
        out=out,
        form=form,
        resume=resume,
        budget_ms=budget_ms,
    )
    silence_pillow()
    with Console(quiet=quiet) as console, _Stop() as stop:
        elsewhere = None if ray is None else partial(_on_a_cluster, ray, console)
        summary = run_job(request, sys.stdout.buffer, console, stop, elsewhere=elsewhere)
        console.say(summary_in_words(summary))
    if summary.interrupted:
        if request.out is not None:
            which = (
                "the same command" if budget_ms is None else "the same with that --setting, no --budget-ms,"
            )
            say(f"interrupted: {which} with --resume goes on with {request.out}")
        sys.exit(INTERRUPTED)
    if summary.failed:
        sys.exit(SOME_FAILED)


def _on_a_cluster(
    address: str, console: Console, request: "RunRequest", bundle: "Bundle", items: "Sequence[Item]"
) -> "Cluster":
    from s2dnas_deploy.serve.ray.bulk import Cluster

    cluster = Cluster(address, request, bundle, items)
    console.say(f"{address}: windows of images are answered, {cluster.at_once} at a time")
    return cluster


def _by_name(settings: Sequence[tuple[str, str]]) -> dict[str, str] | None:
    """The choices by their settings' names; a setting that is given twice has two meanings."""
    names = sorted(name for name, _ in settings)
    for name, following in pairwise(names):
        if name == following:
            raise click.UsageError(f"--setting {shown(name)} is given twice: give each setting once")
    return dict(settings) or None


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
