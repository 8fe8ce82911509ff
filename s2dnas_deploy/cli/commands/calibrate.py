"""`s2dnas-calibrate`: thresholds for a bundle, from images, with a promise that they prove."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from s2dnas_deploy.cli.command import Command
from s2dnas_deploy.cli.console import Console, print_result, say, silence_pillow
from s2dnas_deploy.cli.options.bundle import (
    HOW_TO_RUN_IT,
    WHICH_BUNDLE,
    BundleOptions,
    batch_option,
    check_bundle_is_named,
    sign_option,
)
from s2dnas_deploy.cli.options.kinds import Macs, Share
from s2dnas_deploy.cli.options.sections import (
    ADVANCED,
    INPUT,
    OUTPUT,
    RUNNING,
    gathered,
    option,
    quiet_option,
    section,
)

if TYPE_CHECKING:
    from s2dnas_deploy.decide.thresholds import Against, Goal
    from s2dnas_deploy.runtime.calibrate.calibration import Budget

_PROMISE = (
    option(
        "--max-drop",
        type=Share(most=0.2),
        help="Accuracy may fall by so much: 0.5% or 0.005 is half a point. [default: 1%]",
    ),
    option(
        "--probability",
        formerly="--confidence",
        type=Share(),
        default="0.95",
        show_default=True,
        help="With which probability, over the draw of the images, the promise holds.",
    ),
    option(
        "--static",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="STATIC.ONNX",
        help="Compare with this static network, such as BUNDLE.static.onnx, in place of the last exit.",
    ),
    option(
        "--static-accuracy",
        type=Share(),
        help="Compare with this accuracy, in place of the last exit's.",
    ),
    option("--unlabelled", is_flag=True, help="Compare with the last exit's answers; needs no true classes."),
    option(
        "--cost",
        type=click.Choice(["macs", "clock"]),
        help="What a promise spares: MACs, or the time that stages take on this device. [default: macs]",
    ),
)
_BUDGET = (
    option("--target-ms", type=click.FloatRange(0, min_open=True), help="Best within this mean time."),
    option("--target-macs", type=Macs(), help="Best within these mean MACs, such as 20M."),
)


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What the thresholds are to reach, as the command line says it: a promise, or a budget."""

    max_drop: float | None
    probability: float
    static: Path | None
    static_accuracy: float | None
    unlabelled: bool
    cost: Literal["macs", "clock"] | None
    target_ms: float | None
    target_macs: float | None

    def __post_init__(self) -> None:
        targets = self._given("target_ms", "target_macs")
        about_a_promise = self._given("max_drop", "static", "static_accuracy")
        compared = self._given("static", "static_accuracy")
        if len(targets) > 1 or (targets and about_a_promise):
            given = " and ".join((*targets, *about_a_promise))
            raise click.UsageError(f"{given} exclude each other: a budget, or a promise")
        if len(compared) > 1:
            raise click.UsageError("--static and --static-accuracy exclude each other: what to compare with")
        if targets and self.cost is not None:
            raise click.UsageError(f"{targets[0]} says by its unit what is spared: leave --cost out")
        if self.unlabelled and compared:
            raise click.UsageError(f"{compared[0]} needs true classes: leave --unlabelled out")

    def _given(self, *names: str) -> list[str]:
        """Those that were given, as a person writes them."""
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]

    @property
    def budget(self) -> "Budget | None":
        """What an image may cost on average, where that is what is asked for."""
        from s2dnas_deploy.runtime.calibrate.calibration import Budget

        if self.target_ms is not None:
            return Budget(amount=self.target_ms, in_ms=True)
        return None if self.target_macs is None else Budget(amount=self.target_macs, in_ms=False)

    @property
    def goal(self) -> "Goal | None":
        """What is to be proven, where no budget is asked for."""
        from s2dnas_deploy.decide.thresholds import MAX_DROP, Goal

        if self.budget is not None:
            return None
        return Goal(
            drop=MAX_DROP if self.max_drop is None else self.max_drop,
            probability=self.probability,
            against=self._against,
            accuracy=self.static_accuracy,
        )

    @property
    def _against(self) -> "Against":
        """What the cascade is to be compared with."""
        from s2dnas_deploy.decide.thresholds import Against

        if self.unlabelled:
            return Against.ANSWERS
        if self.static is not None:
            return Against.STATIC
        return Against.LAST_EXIT if self.static_accuracy is None else Against.ACCURACY


@click.command(cls=Command)
@click.argument("images", nargs=-1)
@section(INPUT, *WHICH_BUNDLE)
@section("A promise to prove", *_PROMISE)
@section("Or a budget to keep", *_BUDGET)
@section(
    OUTPUT,
    option("--dry-run", is_flag=True, help="Choose and print, but leave the bundle as it is."),
    sign_option,
    option(
        "--plot",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Draw accuracy against cost, with the chosen point, into this .svg file.",
    ),
    option(
        "--scores",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Keep what the exits say in this file; if it is there, read no images.",
    ),
)
@section(RUNNING, *HOW_TO_RUN_IT, batch_option, quiet_option)
@section(
    ADVANCED,
    option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Another seed splits the images in another way.",
    ),
)
@gathered("given", BundleOptions)
@gathered("wish", _Wish)
def calibrate(
    *,
    images: tuple[str, ...],
    given: BundleOptions,
    wish: _Wish,
    dry_run: bool,
    sign: Path | None,
    plot: Path | None,
    scores: Path | None,
    batch: int,
    quiet: bool,
    seed: int,
) -> None:
    """Choose the thresholds of a bundle from IMAGES it has not been trained on, and write them into it.

    IMAGES are named as for s2dnas-run; labelled ones lie in folders named after the classes. Images leave as
    early as can be while, with the stated probability, accuracy falls by at most --max-drop below the last
    exit's, or with --static below the static network's. With --target-ms or --target-macs: the best accuracy
    within that average cost, nothing proven.

    \b
    s2dnas-calibrate --bundle bundle/ held-out.npz --max-drop 0.5% --plot curve.svg
    s2dnas-calibrate --bundle bundle/ held-out.npz --static bundle.static.onnx --max-drop 1%
    s2dnas-calibrate --bundle bundle/ held-out.npz --static-accuracy 0.88 --max-drop 1%
    s2dnas-calibrate --bundle bundle/ camera-roll/ --unlabelled --max-drop 2%
    s2dnas-calibrate --bundle bundle/ held-out.npz --target-macs 20M
    """  # noqa: D301
    check_bundle_is_named(given.bundle, images)
    if plot is not None and plot.suffix.lower() != ".svg":
        raise click.UsageError(f"--plot {plot} does not end in .svg")
    if dry_run and sign is not None:
        raise click.UsageError("--dry-run writes nothing that could be signed: leave --sign out")
    from s2dnas_deploy.cli.text.calibration import calibration_in_words
    from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
    from s2dnas_deploy.runtime.answers.inputs import listed_on
    from s2dnas_deploy.runtime.bulk import BulkOptions
    from s2dnas_deploy.runtime.calibrate.calibration import CalibrationRequest
    from s2dnas_deploy.runtime.calibrate.calibration import calibrate as run_calibration
    from s2dnas_deploy.runtime.calibrate.plot import calibration_svg

    request = CalibrationRequest(
        bundle=given.bundle,
        trust=given.trust,
        places=images,
        listed=listed_on(sys.stdin.buffer) if "-" in images else (),
        goal=wish.goal,
        budget=wish.budget,
        unlabelled=wish.unlabelled,
        static=wish.static,
        by_clock=wish.cost == "clock",
        provider=given.provider,
        allow_fallback=given.allow_fallback,
        threads=given.threads,
        bulk=BulkOptions(batch=batch),
        scores=scores,
        seed=seed,
        write=not dry_run,
        sign=sign,
    )
    silence_pillow()
    if plot is not None:
        check_writable(plot, "--plot")
    with Console(quiet=quiet) as console:
        calibration = run_calibration(request, console)
        if plot is not None:
            write_text_atomically(plot, calibration_svg(calibration))
            console.say(f"wrote {plot}")
        if request.write and calibration.manifest.single_file is not None:
            console.say(
                f"{calibration.manifest.single_file.file} has its thresholds inside and keeps the old ones: "
                "export again with --threshold "
                + ",".join(f"{t:.9g}" for t in calibration.choice.point.thresholds)
            )
    print_result(calibration_in_words(calibration))
    if request.write:
        gone = ", which is no longer signed: --sign signs it" if calibration.unsigned else ""
        say(f"written to {request.bundle}{gone}")
