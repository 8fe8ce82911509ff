"""`s2dnas-calibrate`: thresholds for a bundle, from images, with a promise that they prove."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.command import Command
from s2dnas_deploy.cli.console import Console, print_result, say, silence_pillow
from s2dnas_deploy.cli.options.bundle import (
    bundle_options,
    check_bundle_is_named,
    sign_option,
)
from s2dnas_deploy.cli.options.kinds import Macs, Share
from s2dnas_deploy.run.limits import MOST_BATCH

if TYPE_CHECKING:
    from s2dnas_deploy.decide.thresholds import Against
    from s2dnas_deploy.run.calibration import Calibration, CalibrationRequest


@click.command(cls=Command)
@click.argument("images", nargs=-1)
@bundle_options
@click.option(
    "--max-drop",
    type=Share(most=0.2),
    help="Accuracy may fall by so much: 0.5% or 0.005 is half a point. [default: 1%]",
)
@click.option(
    "--confidence",
    type=Share(),
    default="0.95",
    show_default=True,
    help="With which probability, over the draw of the images, the promise holds.",
)
@click.option(
    "--static-accuracy", type=Share(), help="Fall below this accuracy, in place of the last exit's."
)
@click.option(
    "--static",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Fall below the accuracy of this network, such as BUNDLE.static.onnx, in place of the last exit's.",
)
@click.option("--target-ms", type=click.FloatRange(0, min_open=True), help="Best within this mean time.")
@click.option("--target-macs", type=Macs(), help="Best within these mean MACs, such as 20M.")
@click.option(
    "--cost",
    type=click.Choice(["macs", "clock"]),
    help="What a promise spares: MACs, or the time that stages take on this device. [default: macs]",
)
@click.option(
    "--unlabelled", is_flag=True, help="Compare with the last exit's answers; needs no true classes."
)
@click.option(
    "--scores",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what the exits say in this file; if it is there, read no images.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw accuracy against cost, with the chosen point, into this .svg file.",
)
@click.option(
    "--batch", type=click.IntRange(1, MOST_BATCH), default=32, show_default=True, help="Images per batch."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split.")
@sign_option
@click.option("--dry-run", is_flag=True, help="Choose and print, but leave the bundle as it is.")
@click.option("--quiet", is_flag=True, help="No messages and no progress, only the result.")
def calibrate(**options: Any) -> None:
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
    check_bundle_is_named(options["bundle"], options["images"])
    request = _request(options)
    from s2dnas_deploy.bundle.saving import check_card_replaceable
    from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
    from s2dnas_deploy.run.calibration import calibrate as run_calibration
    from s2dnas_deploy.run.plot import calibration_svg

    silence_pillow()
    for key in ("plot", "scores"):
        if options[key] is not None:
            check_writable(options[key], f"--{key}")
    if request.write:
        check_writable(request.bundle / "manifest.json", "--bundle")
        check_card_replaceable(request.bundle)
    with Console(quiet=options["quiet"]) as console:
        calibration = run_calibration(request, console)
        if options["plot"] is not None:
            write_text_atomically(options["plot"], calibration_svg(calibration))
            console.say(f"wrote {options['plot']}")
        if request.write and calibration.manifest.single_file is not None:
            console.say(
                f"{calibration.manifest.single_file.file} has its thresholds inside and keeps the old ones: "
                "export again with --threshold "
                + ",".join(f"{t:.9g}" for t in calibration.choice.point.thresholds)
            )
    print_result(_in_words(calibration))
    if request.write:
        gone = ", which is no longer signed: --sign signs it" if calibration.unsigned else ""
        say(f"written to {request.bundle}{gone}")


def _request(options: dict[str, Any]) -> "CalibrationRequest":
    targets = [name for name in ("target_ms", "target_macs") if options[name] is not None]
    about_a_promise = [
        name for name in ("max_drop", "static", "static_accuracy") if options[name] is not None
    ]
    compared = [name for name in about_a_promise if name != "max_drop"]
    if len(targets) > 1 or (targets and about_a_promise):
        given = [f"--{name.replace('_', '-')}" for name in (*targets, *about_a_promise)]
        raise click.UsageError(f"{' and '.join(given)} exclude each other: a budget, or a promise")
    if len(compared) > 1:
        raise click.UsageError("--static and --static-accuracy exclude each other: what to compare with")
    if targets and options["cost"] is not None:
        target = targets[0].replace("_", "-")
        raise click.UsageError(f"--{target} says by its unit what is spared: leave --cost out")
    if options["unlabelled"] and compared:
        option = f"--{compared[0].replace('_', '-')}"
        raise click.UsageError(f"{option} needs true classes: leave --unlabelled out")
    if options["plot"] is not None and options["plot"].suffix.lower() != ".svg":
        raise click.UsageError(f"--plot {options['plot']} does not end in .svg")
    if options["dry_run"] and options["sign"] is not None:
        raise click.UsageError("--dry-run writes nothing that could be signed: leave --sign out")
    from s2dnas_deploy.decide.thresholds import MAX_DROP, Goal
    from s2dnas_deploy.run.bulk import BulkOptions
    from s2dnas_deploy.run.calibration import Budget, CalibrationRequest
    from s2dnas_deploy.run.inputs import listed_on

    goal, budget = None, None
    if targets:
        amount = options["target_ms"] or options["target_macs"]
        budget = Budget(amount=amount, in_ms=options["target_ms"] is not None)
    else:
        goal = Goal(
            drop=MAX_DROP if options["max_drop"] is None else options["max_drop"],
            probability=options["confidence"],
            against=_against(options),
            accuracy=options["static_accuracy"],
        )
    return CalibrationRequest(
        places=options["images"],
        listed=listed_on(sys.stdin.buffer) if "-" in options["images"] else (),
        goal=goal,
        budget=budget,
        by_clock=options["cost"] == "clock",
        bulk=BulkOptions(batch=options["batch"]),
        write=not options["dry_run"],
        **{
            key: options[key]
            for key in (
                "bundle",
                "unlabelled",
                "provider",
                "allow_fallback",
                "threads",
                "scores",
                "static",
                "seed",
                "trust",
                "sign",
            )
        },
    )


def _against(options: dict[str, Any]) -> "Against":
    """What the cascade is to be compared with."""
    from s2dnas_deploy.decide.thresholds import Against

    if options["unlabelled"]:
        return Against.ANSWERS
    if options["static"] is not None:
        return Against.STATIC
    return Against.LAST_EXIT if options["static_accuracy"] is None else Against.ACCURACY


def _in_words(calibration: "Calibration") -> str:
    """The thresholds, where images leave, what that costs, and what is promised."""
    from s2dnas_deploy.decide.thresholds import ALWAYS

    choice = calibration.choice
    lines = [f"{'exit':>4} {'threshold':>10} {'share':>7}"]
    shown = ["never" if t > 1 else "always" if t <= ALWAYS else f"{t:.7g}" for t in choice.point.thresholds]
    for k, (threshold, share) in enumerate(zip([*shown, "–"], choice.point.shares, strict=True)):
        lines.append(f"{k:>4} {threshold:>10} {100 * share:>6.1f}%")
    scale, unit = (1.0, "ms") if calibration.unit == "ms" else (1e-6, "M MACs")
    mean, full = choice.point.cost * scale, choice.full.cost * scale
    lines.append(f"average cost {mean:.4g} {unit}, every stage {full:.4g} {unit}: {full / mean:.2f}x less")
    if choice.point.accuracy is not None and choice.full.accuracy is not None:
        static = calibration.static_accuracy
        lines.append(
            f"accuracy on these images {100 * choice.point.accuracy:.2f}%, "
            f"last exit {100 * choice.full.accuracy:.2f}%"
            + ("" if static is None else f", static network {100 * static:.2f}%")
        )
    if calibration.manifest.promise is not None:
        lines.append(calibration.manifest.promise.statement)
    useful = choice.useful_images
    if choice.point.thresholds[0] <= ALWAYS:
        lines.append("every image leaves at exit 0: the other stages are never used")
    elif useful is not None and choice.proven_on and useful > choice.proven_on:
        lines.append(
            f"with about {useful} images to prove it on, not {choice.proven_on}, more could leave early: "
            "what is really lost could then be half of what is promised"
        )
    return "\n".join(lines)
