"""`s2dnas-bench`: measure a bundle on this device, compare two measurements, or time a search's probes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from s2dnas_deploy.cli.command import Command, GuardedGroup
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.bundle import PROVIDERS, trust_option
from s2dnas_deploy.cli.options.kinds import Counts, Share
from s2dnas_deploy.errors import BundleError, DataError
from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.run.limits import MOST_BATCH, MOST_PROCESSES, MOST_THREADS

if TYPE_CHECKING:
    from s2dnas_deploy.run.bench.report import Report

_MEASURE = "measure"
Function = TypeVar("Function", bound=Callable[..., Any])


class _Bench(GuardedGroup):
    """A group whose first word may be left out: `s2dnas-bench BUNDLE` measures it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What is neither a command nor an option of the group is the folder to measure."""
        if args and args[0] not in (*self.commands, "-h", "--help", "--version"):
            args = [_MEASURE, *args]
        return super().parse_args(ctx, args)


class _OnImages(Command):
    """A command on a bundle, and on images that an option names."""

    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Images that are named as arguments, or by a pattern that the shell has expanded, are a mistake."""
        rest = super().parse_args(ctx, args)
        if rest:
            raise click.UsageError(
                f"expected one bundle, got also {shown(rest[0])}: images are named by --data, a folder or a "
                f"pattern in quotes, as in --data {rest[0]}",
                ctx,
            )
        return rest


@click.group(cls=_Bench, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="s2dnas-deploy", prog_name="s2dnas_deploy")
def bench() -> None:
    """Measure a bundle on this device. `s2dnas-bench BUNDLE …` is short for `s2dnas-bench measure BUNDLE …`.

    \b
    s2dnas-bench bundle/ --data images/ --out bench.json --html bench.html
    s2dnas-bench compare before.json after.json --fail-above 5%
    s2dnas-bench show bench.json
    s2dnas-bench probes/ --out device.json
    """  # noqa: D301


def _out(*names: str, what: str) -> Callable[[Function], Function]:
    return click.option(*names, type=click.Path(dir_okay=False, path_type=Path), help=what)


def _images(*, required: bool) -> Callable[[Function], Function]:
    what = "Images, named as for s2dnas-run; may be repeated."
    return click.option("--data", "places", multiple=True, required=required, metavar="IMAGES", help=what)


_STATIC = click.option(
    "--static",
    type=click.Path(path_type=Path),
    help="The static network as ONNX, to compare with. [default: BUNDLE.static.onnx, if export wrote it]",
)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NOISE = click.option("--noise", is_flag=True, help="Accept images that look like random noise.")


@bench.command(_MEASURE, cls=_OnImages)
@click.argument("folder", metavar="[BUNDLE]", required=False, type=_FOLDER)
@click.option(
    "--bundle",
    type=_FOLDER,
    help="The same, as the other commands take it. [default: $S2DNAS_BUNDLE, else the current folder]",
)
@trust_option
@_images(required=False)
@_out("--out", what="Keep the measurement, every timing of it, in this JSON file.")
@_out("--html", what="Write a page with plots.")
@_out("--csv", what="Write a row for each network and setting.")
@_STATIC
@click.option(
    "--provider",
    "providers",
    type=click.Choice(PROVIDERS),
    multiple=True,
    default=("auto",),
    help="What runs the graphs; may be repeated. [default: auto]",
)
@click.option(
    "--threads",
    type=Counts(most=MOST_THREADS),
    help="Cores per stage, or several, as 1,2. [default: all; 1 for probes]",
)
@click.option(
    "--batch",
    "batches",
    type=Counts(most=MOST_BATCH),
    default="1",
    show_default=True,
    help="Or several, as 1,8,32.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="For each setting.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, MOST_PROCESSES),
    default=5,
    show_default=True,
    help="Fresh processes that share them.",
)
@_NOISE
@click.option("--quiet", is_flag=True, help="No messages and no progress, only the result.")
def measure(**options: Any) -> None:
    """Time a BUNDLE on this device, with real images, against the static network.

    The cascade, each exit as a network of its own and the static network take turns on the same images, in
    several processes; cold starts are timed apart. A folder of probes that s2dnas-search --write-probes wrote
    is timed for a search, into --out.

    \b
    s2dnas-bench bundle/ --data images/ --out bench.json --html bench.html
    s2dnas-bench bundle/ --data held-out/test.npz --threads 1,2 --batch 1,8,32
    s2dnas-bench probes/ --out device.json
    """  # noqa: D301
    from s2dnas_deploy.bundle.bundle import MANIFEST
    from s2dnas_deploy.run.profile import PROBES

    options["folder"] = _named(options["folder"], options.pop("bundle"))
    if (options["folder"] / PROBES).is_file():
        _time_probes(options)
        return
    if not (options["folder"] / MANIFEST).is_file():
        raise DataError(
            f"{options['folder']}: expected a bundle that s2dnas-export wrote, or a folder of probes that "
            "s2dnas-search --write-probes wrote; name it first, by --bundle, or in S2DNAS_BUNDLE"
        )
    if not options["places"]:
        raise click.UsageError("name the images to measure with: --data images/")
    from s2dnas_deploy.run.bench.measure import MeasureRequest
    from s2dnas_deploy.run.bench.measure import measure as measure_bundle

    silence_pillow()
    _check_writable(options, "out", "html", "csv")
    request = MeasureRequest(
        bundle=options["folder"],
        threads=options["threads"] or (),
        **{
            key: options[key]
            for key in ("places", "static", "providers", "batches", "processes", "seconds", "noise", "trust")
        },
    )
    report = None
    try:
        with Console(quiet=options["quiet"]) as console:
            for report in measure_bundle(request, console):  # noqa: B007 - the last one has all of it
                pass
    finally:  # of a sweep that was interrupted, what is finished
        if report is not None:
            _show(report, options)


def _named(folder: Path | None, bundle: Path | None) -> Path:
    """The bundle, which may be named in either way, or in the environment."""
    if folder is not None and bundle is not None:
        raise click.UsageError(
            f"{folder} and --bundle {bundle}: the bundle is named once, and images by --data {folder}"
        )
    return folder or bundle or Path(os.environ.get("S2DNAS_BUNDLE", "."))


def _time_probes(options: dict[str, Any]) -> None:
    """A device profile for a search."""
    from s2dnas_deploy.run.profile import measure_profile

    if options["trust"] is not None:
        raise BundleError(
            f"{options['folder']} holds probes, which nobody signs; where only signed bundles may run "
            "(--trust, or $S2DNAS_TRUST) they are not timed"
        )
    threads = options["threads"] or (1,)
    if options["out"] is None:
        raise click.UsageError("probes are timed for a search: say where the profile goes, --out device.json")
    check_writable(options["out"])
    if len(threads) > 1 or len(options["providers"]) > 1:
        raise click.UsageError(
            "probes are timed in one setting: give one --provider and one number of --threads"
        )
    with Console(quiet=options["quiet"]) as console:
        profile = measure_profile(
            options["folder"],
            provider=options["providers"][0],
            threads=threads[0],
            progress=console.phase("timing"),
        )
        write_text_atomically(options["out"], profile.to_json())
        console.say(
            f"{len(profile.times)} probes timed on {profile.device['processor']}, "
            f"{profile.device['provider']}: {options['out']}"
        )


@bench.command("load", cls=_OnImages)
@click.argument("bundle", type=_FOLDER)
@trust_option
@_images(required=True)
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(["SingleStream", "MultiStream", "Offline", "Server"]),
    multiple=True,
    default=("SingleStream", "Offline"),
    help="May be repeated. [default: SingleStream, Offline]",
)
@click.option(
    "--log",
    type=click.Path(file_okay=False, path_type=Path),
    default="loadgen",
    show_default=True,
    help="LoadGen's own log goes here, a folder for each scenario.",
)
@click.option(
    "--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True, help="What runs it."
)
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), help="Cores per stage. [default: all]")
@click.option(
    "--batch",
    type=click.IntRange(1, MOST_BATCH),
    default=32,
    show_default=True,
    help="At most so many at once.",
)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Each."
)
@click.option(
    "--queries-per-second",
    type=click.FloatRange(0, min_open=True),
    default=100.0,
    show_default=True,
    help="Of Server.",
)
@click.option(
    "--within-ms",
    type=click.FloatRange(0, min_open=True),
    default=15.0,
    show_default=True,
    help="Of Server: how soon 99% must be answered.",
)
@_NOISE
def load(**options: Any) -> None:
    """Put a BUNDLE under the loads of MLPerf LoadGen, which must be installed (extra [loadgen]).

    \b
    s2dnas-bench load bundle/ --data images/
    s2dnas-bench load bundle/ --data images/ --scenario Server --queries-per-second 500 --within-ms 5
    """  # noqa: D301
    from s2dnas_deploy.run.bench.loadgen import Load, run_loads

    silence_pillow()
    check_writable(options["log"] / "log", "--log")
    loads = [
        Load(
            scenario=name,
            **{key: options[key] for key in ("seconds", "batch", "queries_per_second", "within_ms")},
        )
        for name in options["scenarios"]
    ]
    results = run_loads(
        options["bundle"],
        options["places"],
        loads,
        options["log"],
        provider=options["provider"],
        threads=options["threads"],
        noise=options["noise"],
        trust=options["trust"],
    )
    for result in results:
        mean = "" if result.mean_ms is None else f", mean {result.mean_ms:.4f} ms"
        valid = "valid" if result.is_valid else "INVALID"
        print_result(
            f"{result.scenario:>13}  {result.figure:>12.4f} {result.unit:<18}{mean}  {valid}  {result.log}"
        )
    if not all(result.is_valid for result in results):
        sys.exit(1)


@bench.command("pack", cls=_OnImages)
@click.argument("bundle", type=_FOLDER)
@_images(required=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="kit.zip",
    show_default=True,
    help="The kit.",
)
@click.option("--images", type=click.IntRange(1), default=500, show_default=True, help="At most so many.")
@_STATIC
@click.option(
    "--probes",
    type=_FOLDER,
    help="Also time these, which s2dnas-search --write-probes wrote.",
)
@click.option(
    "--platform",
    type=click.Choice(["linux-aarch64", "linux-x86_64"]),
    help="Put in all packages that such a board needs, which then needs no internet and no pip.",
)
@click.option("--python", default="3.11", show_default=True, help="With --platform: the board's Python.")
@_NOISE
def pack(**options: Any) -> None:
    """Pack an edge kit: a zip from which a board measures BUNDLE by one command, and what to bring back.

    \b
    s2dnas-bench pack bundle/ --data held-out/test.npz --out kit.zip --platform linux-aarch64
    unzip kit.zip && sh kit/run.sh                 on the board
    s2dnas-bench show results/bench.json           after unpacking results.zip
    """  # noqa: D301
    from s2dnas_deploy.run.bench.pack import Kit, write_kit

    silence_pillow()
    _check_writable(options, "out")
    out = options.pop("out")
    count = write_kit(Kit(**options), out)
    print_result(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {count} images; on the board: unzip it, sh kit/run.sh"
    )


_report = click.Path(exists=True, dir_okay=False, path_type=Path)


@bench.command("show", cls=Command)
@click.argument("report", type=_report)
@_out("--html", what="Write a page with plots.")
@_out("--csv", what="Write a row for each network and setting.")
def show(**options: Any) -> None:
    """Show what s2dnas-bench --out has kept in REPORT, as a table, a page or CSV."""
    from s2dnas_deploy.run.bench.report import Report

    _check_writable(options, "html", "csv")
    report = Report.load(options["report"])
    _show(report, options)


@bench.command("compare", cls=Command)
@click.argument("before", type=_report)
@click.argument("after", type=_report)
@click.option(
    "--fail-above",
    "limit",
    type=Share(),
    default="5%",
    show_default=True,
    help="Exit code 1 if anything is slower by more than this, beyond noise.",
)
@click.option("--force", is_flag=True, help="Compare different machines, bundles or images all the same.")
def compare(**options: Any) -> None:
    """Tell whether AFTER is slower than BEFORE, beyond noise; both were written by s2dnas-bench --out."""
    from s2dnas_deploy.cli.text.bench import comparison_text
    from s2dnas_deploy.run.bench.compare import compare as compare_reports
    from s2dnas_deploy.run.bench.report import Report

    before, after = Report.load(options["before"]), Report.load(options["after"])
    comparison = compare_reports(before, after, force=options["force"])
    print_result(comparison_text(comparison, options["limit"]))
    if comparison.regressions(options["limit"]):
        sys.exit(1)


def _check_writable(options: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if options[key] is not None:
            check_writable(options[key], f"--{key}")


def _show(report: "Report", options: dict[str, Any]) -> None:
    """The table, and whatever is to be written: what cannot be shown is kept, and the other way round."""
    from dataclasses import asdict

    from s2dnas_deploy.cli.text.bench import report_csv, report_text
    from s2dnas_deploy.run.bench.page import page_of
    from s2dnas_deploy.run.bench.summary import summarise

    summaries = [summarise(run, report) for run in report.runs]
    try:
        print_result(report_text(report, summaries))
    finally:
        if options.get("out") is not None:
            text = report.to_json(summary=[asdict(each) for each in summaries])
            write_text_atomically(options["out"], text)
        if options["csv"] is not None:
            write_text_atomically(options["csv"], report_csv(report, summaries))
        if options["html"] is not None:
            write_text_atomically(options["html"], page_of(report, summaries))
