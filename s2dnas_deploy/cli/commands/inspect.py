"""`s2dnas-inspect`: a static network, a plan, a `model.pt` or a bundle in words, as JSON and as a picture."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.command import Command
from s2dnas_deploy.cli.console import print_result, say
from s2dnas_deploy.cli.options.bundle import trust_option
from s2dnas_deploy.cli.options.network import network_options, spelled
from s2dnas_deploy.cli.text.inspection import in_words
from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
from s2dnas_deploy.files.plain_file import open_file

if TYPE_CHECKING:
    from s2dnas_deploy.build.network import MultiStageNetwork
    from s2dnas_deploy.build.static_network import StaticNetwork


def _picture_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() not in (".svg", ".png"):
        raise click.BadParameter(f"{value} ends in neither .svg nor .png", ctx, param)
    return value


@click.command(cls=Command)
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@network_options
@click.option("--plan", help="A JSON file, static, uniform:0.25,0.25,0.5, depth:NODE,NODE or random:STAGES.")
@click.option(
    "--align",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Round plans to this many channels.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="For random plans."
)
@click.option("--verify", is_flag=True, help="Check that every file of a bundle is as it was exported.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Everything, exact, as JSON.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_picture_file,
    help="Draw who owns what into a .svg or .png file.",
)
@click.option(
    "--write-plan",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the plan as JSON, to be edited and given back as --plan.",
)
def inspect(**options: Any) -> None:
    """Show what PATH holds: a bundle, a model.pt, or a plan for the network that --model names.

    Without PATH and --plan it shows the network itself, and what of it can be divided.

    \b
    s2dnas-inspect bundle/ --verify
    s2dnas-inspect model.pt --picture who-owns-what.svg
    s2dnas-inspect --model net.py:make --input 3x32x32
    s2dnas-inspect --model net.py:make --input 3x32x32 --plan uniform:0.25,0.25,0.5 --write-plan plan.json
    s2dnas-inspect plan.json --model net.py:make --input 3x32x32
    """  # noqa: D301
    if options["path"] is not None and options["path"].is_dir():
        _show_bundle(options)
        return
    if options["verify"]:
        raise click.UsageError("--verify is for a bundle: give its folder")
    given = click.get_current_context().get_parameter_source("trust")
    if given is click.core.ParameterSource.COMMANDLINE:  # and not in the environment, for all bundles there
        raise click.UsageError("--trust is for a bundle: give its folder")
    for key in ("picture", "write_plan"):
        if options[key] is not None:
            check_writable(options[key], spelled(key))
    subject = _subject(options)
    if options["as_json"]:
        print_result(json.dumps(subject.document, indent=1), exactly=True)
    else:
        print_result(in_words(subject.document))
    if options["picture"] is not None:
        from s2dnas_deploy.build.picture import save_picture

        save_picture(subject.network, options["picture"], title=subject.document["name"])
        say(f"wrote {options['picture']}")
    if options["write_plan"] is not None:
        write_text_atomically(options["write_plan"], subject.network.division.plan.to_json())
        say(f"wrote {options['write_plan']}")


def _show_bundle(options: dict[str, Any]) -> None:
    from s2dnas_deploy.bundle.bundle import load_bundle, verify_bundle
    from s2dnas_deploy.cli.text.bundle import bundle_in_words

    elsewhere = ("model", "input_shape", "weights", "weights_key", "plan", "picture", "write_plan")
    given = [name for name in elsewhere if options[name] is not None]
    if given:
        raise click.UsageError(f"{options['path']} is a folder, so a bundle: leave {spelled(given[0])} out")
    bundle = (verify_bundle if options["verify"] else load_bundle)(options["path"], options["trust"])
    if options["as_json"]:
        print_result(bundle.manifest.to_json(), exactly=True)
    else:
        print_result(bundle_in_words(bundle))
    if options["verify"]:
        say("verified: every file is as it was written")
    if bundle.trust is not None:
        say(f"signed by the owner of {options['trust']}: every file is as it was signed")


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is inspected, and its description."""

    network: "MultiStageNetwork"
    document: dict[str, Any]


def _subject(options: dict[str, Any]) -> _Subject:
    """What PATH and the options are about."""
    path: Path | None = options["path"]
    kind = None if path is None else _kind_of(path)
    if path is not None and kind == "model":
        return _of_model(path, options)
    if kind == "plan" and options["plan"] is not None:
        raise click.UsageError(f"two plans were given, {path} and --plan {options['plan']}; leave one out")
    return _of_network(options, str(path) if kind == "plan" else options["plan"])


def _kind_of(path: Path) -> str:
    """What a file says it is, by its name and its first bytes."""
    expected = (
        "expected a bundle (s2dnas-export writes one), a model.pt (s2dnas-train) or a plan as JSON "
        "(--write-plan)"
    )
    try:
        with open_file(path) as stream:
            start = stream.read(512)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}; {expected}") from error
    if path.suffix == ".pt" or start.startswith(b"PK"):
        return "model"
    if path.suffix == ".json" or start.lstrip().startswith(b"{"):
        return "plan"
    raise click.UsageError(f"{path} is neither a model.pt nor a plan; {expected}")


def _of_model(path: Path, options: dict[str, Any]) -> _Subject:
    from s2dnas_deploy.build.describe import describe_model
    from s2dnas_deploy.build.model_file import load_model
    from s2dnas_deploy.build.network import as_static

    given = [name for name in ("model", "input_shape", "weights", "weights_key") if options[name] is not None]
    if given:
        raise click.UsageError(
            f"{path} is a model.pt, which holds its own network: leave {spelled(given[0])} out"
        )
    model = load_model(path)
    if options["plan"] is None:
        return _Subject(network=model.network, document=describe_model(model, path))
    if model.network.stages != 1:
        raise click.UsageError(
            f"{path} has {model.network.stages} stages and holds its own plan: leave --plan out "
            "(only a model.pt of one stage can be divided by another plan)"
        )
    return _divided(as_static(model.network), options["plan"], path.name, options)


def _of_network(options: dict[str, Any], plan: str | None) -> _Subject:
    if options["model"] is None and options["weights"] is None:
        what = "a plan says nothing without its network" if plan else "nothing to inspect"
        raise click.UsageError(
            f"{what}: give a model.pt, or --model FILE.py:FACTORY and --input CHANNELSxHEIGHTxWIDTH"
        )
    if options["model"] is not None and options["input_shape"] is None:
        raise click.UsageError("--model needs the shape of the images: give --input, for example 3x32x32")
    from s2dnas_deploy.build.static_source import StaticSource, read_source

    source = StaticSource(
        model=options["model"],
        model_arguments=options["model_args"],
        input_shape=options["input_shape"],
        weights=options["weights"],
        weights_key=options["weights_key"],
        seed=options["seed"],
    )
    name = (options["model"] or options["weights"].name).rpartition(":")[2]
    with redirect_stdout(sys.stderr):  # what the user's own code prints is no result
        static, _ = read_source(source)
    return _divided(static, plan, name, options)


def _divided(static: "StaticNetwork", plan: str | None, name: str, options: dict[str, Any]) -> _Subject:
    from s2dnas_deploy.build.describe import describe
    from s2dnas_deploy.build.network import carry_over
    from s2dnas_deploy.build.static_source import read_plan

    chosen = read_plan(plan or "static", static, align=options["align"], seed=options["seed"])
    network = carry_over(static, chosen)
    return _Subject(network=network, document=describe(network, name=name))
