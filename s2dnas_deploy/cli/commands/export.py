"""`s2dnas-export`: a trained multi-stage network becomes a verified bundle."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.bundle.exits import RULES
from s2dnas_deploy.cli.command import Command
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.bundle import sign_option
from s2dnas_deploy.cli.options.kinds import Numbers
from s2dnas_deploy.cli.options.network import network_options, spelled

if TYPE_CHECKING:
    from s2dnas_deploy.build.export.session import ExportRequest
    from s2dnas_deploy.bundle.manifest import Manifest


@click.command(cls=Command)
@click.argument("path", metavar="[MODEL.PT]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the bundle; a bundle there is replaced.",
)
@click.option("--data", help="Labelled images, as for s2dnas-train: verify on them, and record the accuracy.")
@click.option(
    "--held-out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the data's validation and test images into this folder, for s2dnas-calibrate and s2dnas-run.",
)
@click.option("--limit", type=click.IntRange(1), help="Use at most so many images per part, for a quick try.")
@click.option(
    "--confidence",
    "rule",
    type=click.Choice(RULES),
    default="max_prob",
    show_default=True,
    help="How an exit tells how sure it is.",
)
@click.option(
    "--temperature",
    "temperatures",
    type=Numbers(),
    default=(),
    help="Divides the logits; one, or one per exit. [default: 1]",
)
@click.option(
    "--threshold",
    "thresholds",
    type=Numbers(),
    default=(),
    help="Leave at this confidence; one, or one per exit but the last. [default: 0.9]",
)
@click.option("--int8", is_flag=True, help="Quantise to INT8; needs --data.")
@click.option("--fp16", is_flag=True, help="Weights and features in float16, for GPUs.")
@click.option("--float-input", is_flag=True, help="Graphs take normalised float32 [N, C, H, W], not bytes.")
@click.option(
    "--gather", is_flag=True, help="Later stages pick the images that go on themselves (inputs `rows_J`)."
)
@click.option(
    "--single-file", is_flag=True, help="Also write cascade.onnx, all stages in one graph, batch 1."
)
@click.option(
    "--join",
    type=click.Choice(["sum", "concat"]),
    help="How later stages read earlier features. [default: sum; concat with --int8]",
)
@click.option(
    "--static",
    type=click.Path(path_type=Path),
    metavar="STATIC.PT",
    help="Also write the static network, as OUT.static.onnx, for s2dnas-bench to compare with.",
)
@click.option("--opset", type=int, default=17, show_default=True, help="ONNX operator set, 13 to 20.")
@sign_option
@click.option("--name", help="Name in the manifest. [default: the file's]")
@network_options
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --model: class names, one a line.",
)
@click.option(
    "--normalize",
    default="imagenet",
    show_default=True,
    help="With --model: cifar10, cifar100, unit, none or M,M,M/S,S,S.",
)
@click.option(
    "--resize",
    type=click.Choice(["crop", "stretch"]),
    help="On the device, fit images of another size. [default: as in training]",
)
@click.option("--quiet", is_flag=True, help="No messages and no progress, only the result.")
def export(**options: Any) -> None:
    """Write a bundle for MODEL.PT: one ONNX graph per stage, a manifest, and a report that they answer alike.

    \b
    s2dnas-export model.pt --out bundle/ --data images/ --held-out held-out/
    s2dnas-export model.pt --out bundle-int8/ --data images/ --int8
    s2dnas-export --model net.py:make --weights net.pth --input 3x32x32 --labels labels.txt --out bundle/
    """  # noqa: D301
    request = _request(options)
    from s2dnas_deploy.build.export.session import export_model

    silence_pillow()
    with Console(quiet=options["quiet"]) as console, redirect_stdout(sys.stderr):
        manifest = export_model(request, console)
    print_result(_summary(manifest, request.out))


def _request(options: dict[str, Any]) -> "ExportRequest":
    if (options["path"] is None) == (options["model"] is None):
        raise click.UsageError("give either a MODEL.PT or --model FILE.py:FACTORY")
    if options["int8"] and options["fp16"]:
        raise click.UsageError("--int8 and --fp16 exclude each other")
    if options["path"] is not None:
        given = [name for name in ("input_shape", "weights", "weights_key", "labels") if options[name]]
        if given:
            raise click.UsageError(f"{options['path']} holds its own network: leave {spelled(given[0])} out")
    from s2dnas_deploy.build.export.options import ExportOptions
    from s2dnas_deploy.build.export.session import ExportRequest, OwnNetwork

    own = OwnNetwork(
        model=options["model"] or "",
        model_arguments=options["model_args"],
        **{
            key: options[key]
            for key in ("input_shape", "weights", "weights_key", "labels", "normalize", "resize")
        },
    )
    return ExportRequest(
        network=options["path"] or own,
        data=options["data"],
        held_out=options["held_out"],
        limit=options["limit"],
        name=options["name"],
        resize=options["resize"],
        static=options["static"],
        sign=options["sign"],
        split=(options["join"] or ("concat" if options["int8"] else "sum")) == "sum",
        options=ExportOptions(
            precision="int8" if options["int8"] else "float16" if options["fp16"] else "float32",
            **{
                key: options[key]
                for key in (
                    "rule",
                    "temperatures",
                    "thresholds",
                    "float_input",
                    "gather",
                    "single_file",
                    "opset",
                )
            },
        ),
        out=options["out"],
    )


def _summary(manifest: "Manifest", out: Path) -> str:
    """The stages, a line each, and what to expect of them."""
    lines = [f"{'stage':>5} {'size':>10} {'MACs':>10} {'features in':>12} {'out':>4}"]
    for k, stage in enumerate(manifest.stages):
        lines.append(
            f"{k:>5} {stage.graph.size_bytes / 1e6:>7.2f} MB {stage.macs / 1e6:>8.2f} M "
            f"{len(stage.reads):>12} {len(stage.gives):>4}"
        )
    if manifest.expected is not None:
        e = manifest.expected
        shares = " / ".join(f"{100 * share:.1f}%" for share in e.exit_share)
        accuracies = " / ".join(f"{100 * accuracy:.2f}%" for accuracy in e.exit_accuracy)
        lines += [
            f"accuracy of each exit on {e.images} validation images: {accuracies}",
            f"with these thresholds: {100 * e.cascade_accuracy:.2f}%, leaving {shares}",
        ]
    return "\n".join([*lines, f"bundle: {out}"])
