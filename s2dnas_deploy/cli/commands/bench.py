"""`s2dnas-bench`: measure a bundle on this device, compare two measurements, or time a search's probes."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from s2dnas_deploy.cli.command import Command, GuardedGroup
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.bundle import (
    PROVIDERS,
    batch_option,
    provider_option,
    static_option,
    threads_option,
    trust_option,
)
from s2dnas_deploy.cli.options.kinds import Counts, Share
from s2dnas_deploy.cli.options.sections import (
    ADVANCED,
    INPUT,
    OUTPUT,
    RUNNING,
    Declared,
    gathered,
    option,
    quiet_option,
    section,
)
from s2dnas_deploy.errors import BundleError, DataError
from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
from s2dnas_deploy.quoting import number_of, shown
from s2dnas_deploy.sessions.limits import MOST_BATCH, MOST_CLIENTS, MOST_PROCESSES, MOST_THREADS

if TYPE_CHECKING:
    from s2dnas_deploy.bench.report import Report

_MEASURE = "measure"


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


def _file(name: str, what: str) -> Declared[Any]:
    return option(name, type=click.Path(dir_okay=False, path_type=Path), help=what)


def _images(*, required: bool) -> Declared[Any]:
    what = "Images, named as for s2dnas-run; may be repeated."
    return option("--data", "places", multiple=True, required=required, metavar="IMAGES", help=what)


def _seconds(default: float, what: str) -> Declared[Any]:
    seconds = click.FloatRange(0, min_open=True)
    return option("--seconds", type=seconds, default=default, show_default=True, help=what)


_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_REPORT = click.Path(exists=True, dir_okay=False, path_type=Path)
_noise = option("--noise", is_flag=True, help="Accept images that look like random noise.")
_html = _file("--html", "Write a page with plots.")
_csv = _file("--csv", "Write a row for each network and configuration.")


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Where a report goes, beside the terminal."""

    out: Path | None = None
    html: Path | None
    csv: Path | None

    def check(self) -> None:
        """They can be written, which is better known before the work."""
        for name, file in (("--out", self.out), ("--html", self.html), ("--csv", self.csv)):
            if file is not None:
                check_writable(file, name)


@bench.command(_MEASURE, cls=_OnImages)
@click.argument("folder", metavar="[BUNDLE]", required=False, type=_FOLDER)
@section(
    INPUT,
    option(
        "--bundle",
        type=_FOLDER,
        help="The same, as the other commands take it. [default: $S2DNAS_BUNDLE, else the current folder]",
    ),
    trust_option,
    _images(required=False),
    static_option,
    _noise,
)
@section(
    OUTPUT,
    _file("--out", "Keep the measurement, every timing of it, in this JSON file."),
    _html,
    _csv,
)
@section(
    "Settings to measure",
    option(
        "--provider",
        "providers",
        type=click.Choice(PROVIDERS),
        multiple=True,
        default=("auto",),
        help="What runs the graphs; may be repeated. [default: auto]",
    ),
    option(
        "--threads",
        type=Counts(most=MOST_THREADS),
        help="Cores per stage, or several numbers, as 1,2. [default: all; 1 for probes]",
    ),
    option(
        "--batch",
        "batches",
        type=Counts(most=MOST_BATCH),
        default="1",
        show_default=True,
        help="How many images go through the network at a time, or several numbers, as 1,8,32.",
    ),
)
@section(
    RUNNING,
    _seconds(20.0, "How long each configuration is measured."),
    option(
        "--processes",
        type=click.IntRange(1, MOST_PROCESSES),
        default=5,
        show_default=True,
        help="Fresh processes that share this time.",
    ),
    quiet_option,
)
@gathered("files", _Files)
def measure(
    *,
    folder: Path | None,
    bundle: Path | None,
    trust: Path | None,
    places: tuple[str, ...],
    static: Path | None,
    noise: bool,
    files: _Files,
    providers: tuple[str, ...],
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    seconds: float,
    processes: int,
    quiet: bool,
) -> None:
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
    from s2dnas_deploy.bundle.device_profile import PROBES

    named = _named(folder, bundle)
    if (named / PROBES).is_file():
        _refuse_to_trust(named, trust)
        _time_probes(named, files.out, providers, threads or (1,), Console(quiet=quiet))
        return
    if not (named / MANIFEST).is_file():
        raise DataError(
            f"{named}: expected a bundle that s2dnas-export wrote, or a folder of probes that "
            "s2dnas-search --write-probes wrote; name it first, by --bundle, or in S2DNAS_BUNDLE"
        )
    if not places:
        raise click.UsageError("name the images to measure with: --data images/")
    from s2dnas_deploy.bench.measure import MeasureRequest
    from s2dnas_deploy.bench.measure import measure as measure_bundle

    silence_pillow()
    files.check()
    request = MeasureRequest(
        bundle=named,
        places=places,
        static=static,
        providers=providers,
        threads=threads or (),
        batches=batches,
        processes=processes,
        seconds=seconds,
        noise=noise,
        trust=trust,
    )
    report, console = None, Console(quiet=quiet)
    try:
        with console:
            for report in measure_bundle(request, console):  # noqa: B007 - the last one has all of it
                pass
    finally:  # of a sweep that was interrupted, what is finished
        if report is not None:
            _show(report, files, console)


def _named(folder: Path | None, bundle: Path | None) -> Path:
    """The bundle, which may be named in either way, or in the environment."""
    if folder is not None and bundle is not None:
        raise click.UsageError(
            f"{folder} and --bundle {bundle}: the bundle is named once, and images by --data {folder}"
        )
    return folder or bundle or Path(os.environ.get("S2DNAS_BUNDLE", "."))


def _refuse_to_trust(probes: Path, trust: Path | None) -> None:
    if trust is not None:
        raise BundleError(
            f"{probes} holds probes, which nobody signs; where only signed bundles may run "
            "(--trust, or $S2DNAS_TRUST) they are not timed"
        )


def _time_probes(
    probes: Path, out: Path | None, providers: Sequence[str], threads: Sequence[int], console: Console
) -> None:
    """A device profile for a search."""
    from s2dnas_deploy.runtime.probing import ProfileRequest, write_profile

    if out is None:
        raise click.UsageError("probes are timed for a search: say where the profile goes, --out device.json")
    if len(threads) > 1 or len(providers) > 1:
        raise click.UsageError(
            "probes are timed in one configuration: give one --provider and one number of --threads"
        )
    with console:
        write_profile(
            ProfileRequest(probes=probes, provider=providers[0], threads=threads[0], out=out), console
        )


@bench.command("load", cls=_OnImages)
@click.argument("bundle", type=_FOLDER)
@section(INPUT, trust_option, _images(required=True), _noise)
@section(
    "Load",
    option(
        "--scenario",
        "scenarios",
        type=click.Choice(["SingleStream", "MultiStream", "Offline", "Server"]),
        multiple=True,
        default=("SingleStream", "Offline"),
        help="How images arrive; may be repeated. [default: SingleStream, Offline]",
    ),
    _seconds(10.0, "How long each scenario goes on, at least."),
    option(
        "--queries-per-second",
        type=click.FloatRange(0, min_open=True),
        default=100.0,
        show_default=True,
        help="How many queries arrive in the scenario Server.",
    ),
    option(
        "--within-ms",
        type=click.FloatRange(0, min_open=True),
        default=15.0,
        show_default=True,
        help="How soon 99% of them must be answered.",
    ),
    option(
        "--server",
        metavar="http://HOST:PORT",
        help="Ask this server, which has the bundle (s2dnas-serve), in place of the cascade in this process.",
    ),
    option("--name", help="With --server: what the bundle is called there. [default: as its folder]"),
    option(
        "--clients",
        type=click.IntRange(1, MOST_CLIENTS),
        default=32,
        show_default=True,
        help="With --server: how many connections ask at once, in the scenarios Server and Offline.",
    ),
)
@section(
    OUTPUT,
    option(
        "--log",
        type=click.Path(file_okay=False, path_type=Path),
        default="loadgen",
        show_default=True,
        help="LoadGen's own log goes here, a folder for each scenario.",
    ),
)
@section(RUNNING, provider_option, threads_option, batch_option)
def load(
    *,
    bundle: Path,
    trust: Path | None,
    places: tuple[str, ...],
    noise: bool,
    scenarios: tuple[str, ...],
    seconds: float,
    queries_per_second: float,
    within_ms: float,
    server: str | None,
    name: str | None,
    clients: int,
    log: Path,
    provider: str,
    threads: int | None,
    batch: int,
) -> None:
    """Put a BUNDLE under the loads of MLPerf LoadGen, which must be installed (extra [loadgen]).

    \b
    s2dnas-bench load bundle/ --data images/
    s2dnas-bench load bundle/ --data images/ --scenario Server --queries-per-second 500 --within-ms 5
    s2dnas-bench load bundle/ --data images/ --scenario Server --server http://localhost:8000
    """  # noqa: D301
    if server is None and name is not None:
        raise click.UsageError("--name says what the bundle is called on a server: give --server, too")
    from s2dnas_deploy.bench.loadgen import Load, LoadRequest, run_loads
    from s2dnas_deploy.cli.text.bench import load_text

    request = LoadRequest(
        bundle=bundle,
        places=places,
        loads=tuple(
            Load(
                scenario=name,
                seconds=seconds,
                batch=batch,
                queries_per_second=queries_per_second,
                within_ms=within_ms,
            )
            for name in scenarios
        ),
        log=log,
        provider=provider,
        threads=threads,
        noise=noise,
        trust=trust,
        server=server,
        model=name,
        clients=clients,
    )
    silence_pillow()
    with Console(quiet=False) as console:
        results = run_loads(request, console)
    for result in results:
        print_result(load_text(result))
    if not all(result.is_valid for result in results):
        sys.exit(1)


@bench.command("pack", cls=_OnImages)
@click.argument("bundle", type=_FOLDER)
@section(
    INPUT,
    _images(required=True),
    option(
        "--limit",
        formerly="--images",
        type=click.IntRange(1),
        metavar="N",
        default=500,
        show_default=True,
        help="Use at most N images.",
    ),
    static_option,
    option("--probes", type=_FOLDER, help="Also time these, which s2dnas-search --write-probes wrote."),
    _noise,
)
@section(
    OUTPUT,
    option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        default="kit.zip",
        show_default=True,
        help="The kit.",
    ),
)
@section(
    ADVANCED,
    option(
        "--platform",
        type=click.Choice(["linux-aarch64", "linux-x86_64"]),
        help="Put in all packages that such a board needs, which then needs no internet and no pip.",
    ),
    option("--python", default="3.11", show_default=True, help="With --platform: the board's Python."),
)
def pack(
    *,
    bundle: Path,
    places: tuple[str, ...],
    limit: int,
    static: Path | None,
    probes: Path | None,
    noise: bool,
    out: Path,
    platform: Literal["linux-aarch64", "linux-x86_64"] | None,
    python: str,
) -> None:
    """Pack an edge kit: a zip from which a board measures BUNDLE by one command, and what to bring back.

    \b
    s2dnas-bench pack bundle/ --data held-out/test.npz --out kit.zip --platform linux-aarch64
    unzip kit.zip && sh kit/run.sh                 on the board
    s2dnas-bench show results/bench.json           after unpacking results.zip
    """  # noqa: D301
    from s2dnas_deploy.bench.kit.pack import Kit, write_kit

    silence_pillow()
    check_writable(out, "--out")
    kit = Kit(
        bundle=bundle,
        places=places,
        images=limit,
        static=static,
        probes=probes,
        platform=platform,
        python=python,
        noise=noise,
    )
    with Console(quiet=False) as console:
        count = write_kit(kit, out, console)
    print_result(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {number_of(count, 'image')}; on the board: unzip it, "
        "sh kit/run.sh"
    )


@bench.command("show", cls=Command)
@click.argument("report", type=_REPORT)
@section(OUTPUT, _html, _csv)
@gathered("files", _Files)
def show(*, report: Path, files: _Files) -> None:
    """Show what s2dnas-bench --out has kept in REPORT, as a table, a page or CSV."""
    from s2dnas_deploy.bench.report import Report

    files.check()
    _show(Report.load(report), files, Console())


@bench.command("compare", cls=Command)
@click.argument("before", type=_REPORT)
@click.argument("after", type=_REPORT)
@section(
    RUNNING,
    option(
        "--fail-above",
        type=Share(),
        default="5%",
        show_default=True,
        help="End with exit code 1 if anything is slower by more than this, beyond noise.",
    ),
    option("--force", is_flag=True, help="Compare different machines, bundles or images all the same."),
)
def compare(*, before: Path, after: Path, fail_above: float, force: bool) -> None:
    """Tell whether AFTER is slower than BEFORE, beyond noise; both were written by s2dnas-bench --out."""
    from s2dnas_deploy.bench.compare import compare as compare_reports
    from s2dnas_deploy.bench.report import Report
    from s2dnas_deploy.cli.text.bench import comparison_text

    comparison = compare_reports(Report.load(before), Report.load(after), force=force)
    print_result(comparison_text(comparison, fail_above))
    if comparison.regressions(fail_above):
        sys.exit(1)


def _show(report: "Report", files: _Files, console: Console) -> None:
    """The table, and whatever is to be written: what cannot be shown is kept, and the other way round."""
    from dataclasses import asdict

    from s2dnas_deploy.bench.page import page_of
    from s2dnas_deploy.bench.summary import summarise
    from s2dnas_deploy.cli.text.bench import report_csv, report_text

    summaries = [summarise(run, report) for run in report.runs]

    def write(path: Path, text: str) -> None:
        write_text_atomically(path, text)
        console.say(f"wrote {path}")

    try:
        print_result(report_text(report, summaries))
    finally:
        if files.out is not None:
            write(files.out, report.to_json(summary=[asdict(each) for each in summaries]))
        if files.csv is not None:
            write(files.csv, report_csv(report, summaries))
        if files.html is not None:
            write(files.html, page_of(report, summaries))
