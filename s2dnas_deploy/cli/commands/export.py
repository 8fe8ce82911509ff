"""`s2dnas-export`: a trained multi-stage network becomes a verified bundle."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import click

from s2dnas_deploy.bundle.bundle import is_bundle
from s2dnas_deploy.bundle.exits import RULES, USUAL_RULE, ConfidenceRule
from s2dnas_deploy.cli.command import Command
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.bundle import sign_option, trust_option
from s2dnas_deploy.cli.options.kinds import Numbers, Resize
from s2dnas_deploy.cli.options.network import NETWORK, NetworkOptions
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
from s2dnas_deploy.cli.options.training import limit_option

_OWN_EXITS = (
    option(
        "--labels",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="With --model: class names, one a line.",
    ),
    option(
        "--normalize",
        default="imagenet",
        show_default=True,
        help="With --model: cifar10, cifar100, unit, none or M,M,M/S,S,S.",
    ),
)
_EXITS = (
    option(
        "--confidence",
        type=click.Choice(RULES),
        default=USUAL_RULE,
        show_default=True,
        help="The rule by which an exit tells how sure it is.",
    ),
    option(
        "--temperature",
        "temperatures",
        type=Numbers(),
        default=(),
        help="Divides the logits, before an exit tells how sure it is; one, or one per exit. [default: 1]",
    ),
    option(
        "--threshold",
        "thresholds",
        type=Numbers(),
        default=(),
        help="Exit at this confidence; one, or one per exit but the last. [default: 0.9]",
    ),
)
_FORM = (
    option("--int8", is_flag=True, help="Quantise to INT8; needs --data."),
    option("--fp16", is_flag=True, help="Weights and features are float16, for GPUs."),
    option("--float-input", is_flag=True, help="Graphs take normalised float32 [N, C, H, W], not bytes."),
    option(
        "--resize",
        type=Resize(),
        help="Fit images of another size on the device: crop, stretch or crop:0.875, or one with :bicubic. "
        "[default: as in training]",
    ),
    option(
        "--single-file", is_flag=True, help="Also write cascade.onnx: all stages in one graph, for batch 1."
    ),
)
_FORM_IN_DETAIL = (
    option(
        "--gather",
        is_flag=True,
        help="Later stages pick the images that go on themselves (inputs `rows_J`).",
    ),
    option(
        "--join",
        type=click.Choice(["sum", "concat"]),
        default="concat",
        show_default=True,
        help="How later stages read earlier features.",
    ),
    option("--opset", type=int, default=17, show_default=True, help="ONNX operator set, 13 to 20."),
)


@click.command(cls=Command)
@click.argument("path", metavar="[MODEL.PT|BUNDLE]", required=False, type=click.Path(path_type=Path))
@section(
    INPUT,
    *NETWORK,
    *_OWN_EXITS,
    option("--data", help="Labelled images, as for s2dnas-train: verify on them, and record the accuracy."),
    limit_option,
    option(
        "--static-model",
        formerly="--static",
        type=click.Path(path_type=Path),
        metavar="STATIC.PT",
        help="The static network, a model.pt of one stage: write it as OUT.static.onnx, to compare with.",
    ),
)
@section("How sure an exit must be", *_EXITS)
@section(
    OUTPUT,
    option(
        "--out",
        type=click.Path(path_type=Path),
        help="Folder of the bundle; a bundle there is replaced.",
    ),
    option("--name", help="Name in the manifest. [default: the file's]"),
    option(
        "--in-turn",
        metavar="NAME,NAME",
        help="Of nested widths: try these one after the other, as quarter,full, each where the one before is "
        "not sure; none: the caller picks one. [default: as the plan says]",
    ),
    option(
        "--last-exit",
        type=click.Choice(["own", "static"]),
        help="static: what no exit is sure of, the static network answers (give --static-model). [default: "
        "static for widths in turn none of which is all of the network, and where it is clearly right more "
        "often on the data's validation images; else own]",
    ),
    *_FORM,
    sign_option,
    trust_option,
    option(
        "--triton",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="REPO",
        help="Also write models for Triton into this model repository, one for each stage and one that sends "
        "images through them; of a BUNDLE, too.",
    ),
    option(
        "--held-out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Write the data's validation and test images into this folder, for s2dnas-calibrate and "
        "s2dnas-run.",
    ),
)
@section(RUNNING, quiet_option)
@section(ADVANCED, *_FORM_IN_DETAIL)
@gathered("network", NetworkOptions)
def export(
    *,
    path: Path | None,
    network: NetworkOptions,
    labels: Path | None,
    normalize: str,
    data: str | None,
    limit: int | None,
    static_model: Path | None,
    confidence: ConfidenceRule,
    temperatures: Sequence[float],
    thresholds: Sequence[float],
    out: Path | None,
    name: str | None,
    in_turn: str | None,
    last_exit: Literal["own", "static"] | None,
    int8: bool,
    fp16: bool,
    float_input: bool,
    resize: str | None,
    single_file: bool,
    sign: Path | None,
    triton: Path | None,
    held_out: Path | None,
    trust: Path | None,
    quiet: bool,
    gather: bool,
    join: Literal["sum", "concat"],
    opset: int,
) -> None:
    """Write a bundle for MODEL.PT: one ONNX graph per stage, a manifest, and a report that they answer alike.

    \b
    s2dnas-export model.pt --out bundle/ --data images/ --held-out held-out/
    s2dnas-export model.pt --out bundle-int8/ --data images/ --int8
    s2dnas-export bundle/ --triton models/
    s2dnas-export --model net.py:make --weights net.pth --input 3x32x32 --labels labels.txt --out bundle/
    """  # noqa: D301
    if path is not None and is_bundle(path):
        if triton is None:
            raise click.UsageError(f"{path} is a bundle already; --triton REPO writes it for Triton")
        if out is not None:
            raise click.UsageError(f"{path} is a bundle already: leave --out out")
        _write_triton(path, triton, name, trust)
        return
    if out is None:
        if path is not None and not path.exists():
            raise click.UsageError(f"{path}: no such file or folder")
        raise click.UsageError("Missing option '--out': the folder of the bundle")
    named = () if in_turn in (None, "none") else tuple(name.strip() for name in in_turn.split(","))
    turns = None if in_turn is None else named
    if turns is not None and path is None:
        raise click.UsageError(
            "--in-turn is for a MODEL.PT of nested widths; networks with exits say their routes"
        )
    if (path is None) == (network.model is None):
        raise click.UsageError("give either a MODEL.PT or --model FILE.py:FACTORY")
    if int8 and fp16:
        raise click.UsageError("--int8 and --fp16 exclude each other")
    given = [*network.given, *(["--labels"] if labels else [])]
    if path is not None and given:
        raise click.UsageError(f"{path} holds its own network: leave {given[0]} out")
    from s2dnas_deploy.cli.text.export import manifest_in_words
    from s2dnas_deploy.workshop.export.options import ExportOptions
    from s2dnas_deploy.workshop.export.request import ExportRequest, OwnNetwork, export_model

    own = OwnNetwork(
        model=network.model or "",
        model_arguments=network.model_args,
        input_shape=network.input_shape,
        weights=network.weights,
        weights_key=network.weights_key,
        labels=labels,
        normalize=normalize,
        resize=resize,
    )
    request = ExportRequest(
        network=path or own,
        data=data,
        held_out=held_out,
        limit=limit,
        name=name,
        in_turn=turns,
        last_exit=last_exit,
        resize=resize,
        static=static_model,
        sign=sign,
        split=join == "sum",
        options=ExportOptions(
            rule=confidence,
            temperatures=tuple(temperatures),
            thresholds=tuple(thresholds),
            precision="int8" if int8 else "float16" if fp16 else "float32",
            float_input=float_input,
            gather=gather,
            single_file=single_file,
            opset=opset,
        ),
        out=out,
    )
    silence_pillow()
    with Console(quiet=quiet) as console, redirect_stdout(sys.stderr):
        manifest = export_model(request, console)
    print_result(manifest_in_words(manifest, out))
    if triton is not None:
        _write_triton(out, triton, name)


def _write_triton(bundle: Path, repository: Path, name: str | None, trust: Path | None = None) -> None:
    from s2dnas_deploy.serve.triton.repository import write_repository

    model, *stages = write_repository(bundle, repository, name=name, trust=trust)
    print_result(
        f"{repository}: {model}, for Triton, which calls {', '.join(stages)}; see {model}/README.md there"
    )
