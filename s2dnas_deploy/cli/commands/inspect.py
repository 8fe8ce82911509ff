"""`s2dnas-inspect`: a static network, a plan, a `model.pt` or a bundle in words, as JSON and as a picture."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.command import Command
from s2dnas_deploy.cli.console import Console, print_result, say
from s2dnas_deploy.cli.options.bundle import trust_option
from s2dnas_deploy.cli.options.network import NETWORK, NetworkOptions
from s2dnas_deploy.cli.options.plan import align_option, check_cost, check_plan, cost_option, plan_option
from s2dnas_deploy.cli.options.sections import INPUT, OUTPUT, gathered, option, section
from s2dnas_deploy.cli.text.inspection import in_words
from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
from s2dnas_deploy.files.plain_file import open_file
from s2dnas_deploy.quoting import number_of

if TYPE_CHECKING:
    from s2dnas_deploy.workshop.forecast.forecast import Forecast
    from s2dnas_deploy.workshop.network.network import MultiStageNetwork
    from s2dnas_deploy.workshop.network.static_network import StaticNetwork


def _picture_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() not in (".svg", ".png"):
        raise click.BadParameter(f"{value} ends in neither .svg nor .png", ctx, param)
    return value


@dataclass(frozen=True, kw_only=True)
class _Division:
    """How a network is to be divided, as the command line says it."""

    plan: str | None
    align: int
    seed: int
    cost: str
    forecast: bool


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """In what form it is shown."""

    as_json: bool
    picture: Path | None
    write_plan: Path | None


@click.command(cls=Command)
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@section(INPUT, *NETWORK)
@section(
    "Stages",
    plan_option(default=None),
    align_option,
    option(
        "--forecast",
        is_flag=True,
        help="Time the stages of --plan (of auto, if none is given) and tell what it can gain here.",
    ),
    cost_option,
    option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        default=0,
        show_default=True,
        help="Another seed draws another random plan.",
    ),
)
@section(
    "A bundle",
    option("--verify", is_flag=True, help="Check that every file of a bundle is as it was exported."),
    trust_option,
)
@section(
    OUTPUT,
    option("--json", "as_json", is_flag=True, help="Print everything, exact, as JSON."),
    option(
        "--picture",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_picture_file,
        help="Draw who owns what into a .svg or .png file.",
    ),
    option(
        "--write-plan",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the plan as JSON, to be edited and given back as --plan.",
    ),
)
@gathered("network", NetworkOptions)
@gathered("division", _Division)
@gathered("form", _Shown)
def inspect(
    *,
    path: Path | None,
    network: NetworkOptions,
    division: _Division,
    form: _Shown,
    verify: bool,
    trust: Path | None,
) -> None:
    """Show what PATH holds: a bundle, a model.pt, or a plan for the network that --model names.

    Without PATH and --plan it shows the network itself, and what of it can be divided. With --forecast it
    tells, before anything is trained, how many times as fast a plan can make it on this machine.

    \b
    s2dnas-inspect bundle/ --verify
    s2dnas-inspect model.pt --picture who-owns-what.svg
    s2dnas-inspect --model net.py:make --input 3x32x32
    s2dnas-inspect --model net.py:make --input 3x32x32 --forecast
    s2dnas-inspect --model net.py:make --input 3x32x32 --plan uniform:0.25,0.25,0.5 --write-plan plan.json
    s2dnas-inspect plan.json --model net.py:make --input 3x32x32
    """  # noqa: D301
    check_cost(division.cost)
    written = {"--picture": form.picture, "--write-plan": form.write_plan}
    if path is not None and path.is_dir():
        elsewhere = {"--plan": division.plan, **written}
        given = [*network.given, *(name for name, value in elsewhere.items() if value is not None)]
        if given:
            raise click.UsageError(f"{path} is a folder, so a bundle: leave {given[0]} out")
        _show_bundle(path, trust, verify=verify, as_json=form.as_json)
        return
    if verify:
        raise click.UsageError("--verify is for a bundle: give its folder")
    source = click.get_current_context().get_parameter_source("trust")
    if source is click.core.ParameterSource.COMMANDLINE:  # and not in the environment, for all bundles there
        raise click.UsageError("--trust is for a bundle: give its folder")
    for name, file in written.items():
        if file is not None:
            check_writable(file, name)
    if division.plan is not None:
        check_plan(division.plan, learns=False)
    _show(_subject(path, network, division), form)


def _show_bundle(folder: Path, trust: Path | None, *, verify: bool, as_json: bool) -> None:
    from s2dnas_deploy.bundle.bundle import load_bundle, verify_bundle
    from s2dnas_deploy.cli.text.bundle import bundle_in_words

    bundle = (verify_bundle if verify else load_bundle)(folder, trust)
    if as_json:
        print_result(bundle.manifest.to_json(), exactly=True)
    else:
        print_result(bundle_in_words(bundle))
    if verify:
        say("verified: every file is as it was written")
    if bundle.trust is not None:
        say(f"signed by the owner of {trust}: every file is as it was signed")


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is inspected, and its description."""

    network: "MultiStageNetwork"
    document: dict[str, Any]
    forecast: "Forecast | None" = None


def _show(subject: _Subject, form: _Shown) -> None:
    document = dict(subject.document)
    if subject.forecast is not None:
        document["forecast"] = subject.forecast.to_document()
    if form.as_json:
        print_result(json.dumps(document, indent=1), exactly=True)
    elif subject.forecast is not None:
        from s2dnas_deploy.workshop.forecast.words import in_words as forecast_in_words

        print_result("\n".join(forecast_in_words(subject.forecast)))
    else:
        print_result(in_words(document))
    if form.picture is not None:
        from s2dnas_deploy.workshop.show.picture import save_picture

        save_picture(subject.network, form.picture, title=subject.document["name"])
        say(f"wrote {form.picture}")
    if form.write_plan is not None:
        write_text_atomically(form.write_plan, subject.network.division.plan.to_json())
        say(f"wrote {form.write_plan}")


def _subject(path: Path | None, network: NetworkOptions, division: _Division) -> _Subject:
    """What PATH and the options are about."""
    kind = None if path is None else _kind_of(path)
    if path is not None and kind == "model":
        return _of_model(path, network, division)
    if kind == "plan" and division.plan is not None:
        raise click.UsageError(f"two plans were given, {path} and --plan {division.plan}; leave one out")
    return _of_network(network, str(path) if kind == "plan" else division.plan, division)


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


def _of_model(path: Path, network: NetworkOptions, division: _Division) -> _Subject:
    from s2dnas_deploy.workshop.network.model_file import load_model
    from s2dnas_deploy.workshop.network.network import as_static
    from s2dnas_deploy.workshop.show.describe import describe_model

    if network.given:
        raise click.UsageError(
            f"{path} is a model.pt, which holds its own network: leave {network.given[0]} out"
        )
    model = load_model(path)
    if division.plan is None and not (division.forecast and model.network.stages == 1):
        if division.forecast:
            raise click.UsageError(
                f"{path} is divided and trained: --forecast is for the static network that it came from, "
                "such as static.pt in the folder of its run, with its --plan"
            )
        return _Subject(network=model.network, document=describe_model(model, path))
    if model.network.stages != 1:
        raise click.UsageError(
            f"{path} has {number_of(model.network.stages, 'stage')} and holds its own plan: leave --plan out "
            "(only a model.pt of one stage can be divided by another plan)"
        )
    return _divided(as_static(model.network), division.plan, path.name, division)


def _of_network(network: NetworkOptions, plan: str | None, division: _Division) -> _Subject:
    named = network.model or (None if network.weights is None else network.weights.name)
    if named is None:
        what = "a plan says nothing without its network" if plan else "nothing to inspect"
        raise click.UsageError(
            f"{what}: give a model.pt, or --model FILE.py:FACTORY and --input CHANNELSxHEIGHTxWIDTH"
        )
    if network.model is not None and network.input_shape is None:
        raise click.UsageError("--model needs the shape of the images: give --input, for example 3x32x32")
    from s2dnas_deploy.workshop.reading.static_source import read_source

    source = network.source(seed=division.seed)
    with redirect_stdout(sys.stderr):  # what the user's own code prints is no result
        static, _ = read_source(source)
    return _divided(static, plan, named.rpartition(":")[2], division)


def _divided(static: "StaticNetwork", plan: str | None, name: str, division: _Division) -> _Subject:
    from s2dnas_deploy.plan import AUTO
    from s2dnas_deploy.workshop.network.nested import planned
    from s2dnas_deploy.workshop.reading.static_source import read_plan
    from s2dnas_deploy.workshop.show.describe import describe

    forecast = None
    if division.forecast or plan == AUTO:
        forecast = _forecast(static, plan or AUTO, division)
        chosen = forecast.plan
    else:
        chosen = read_plan(plan or "static", static, align=division.align, seed=division.seed)
    network = planned(static, chosen)
    told = forecast if division.forecast else None
    return _Subject(network=network, document=describe(network, name=name), forecast=told)


def _forecast(static: "StaticNetwork", plan: str, division: _Division) -> "Forecast":
    """What a plan can gain, or of some plans the one that can gain most."""
    from s2dnas_deploy.plan import AUTO
    from s2dnas_deploy.runtime.probing import measure_profile
    from s2dnas_deploy.workshop.forecast.auto import Forecaster
    from s2dnas_deploy.workshop.forecast.prior import unknown_task
    from s2dnas_deploy.workshop.pricing.probes import Probed
    from s2dnas_deploy.workshop.reading.static_source import read_plan

    with TemporaryDirectory(prefix="s2dnas-forecast-") as folder, Console() as console:
        forecaster = Forecaster(
            probed=Probed.made_up(static),
            task=unknown_task(static.graph.classes),
            unlike=None,
            cost=division.cost,
            timer=measure_profile,
            folder=Path(folder),
        )
        if plan == AUTO:
            return forecaster.best(console)
        given = read_plan(plan, static, align=division.align, seed=division.seed)
        return forecaster.of(given, console)
