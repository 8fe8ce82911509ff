"""`s2dnas-demo`: each step from a static network to a measured cascade, on handwritten digits, in minutes."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s2dnas_deploy.cli.command import DEBUG, Command
from s2dnas_deploy.cli.commands.bench import bench
from s2dnas_deploy.cli.commands.calibrate import calibrate
from s2dnas_deploy.cli.commands.export import export
from s2dnas_deploy.cli.commands.inspect import inspect
from s2dnas_deploy.cli.commands.run import run
from s2dnas_deploy.cli.commands.search import search
from s2dnas_deploy.cli.commands.train import train
from s2dnas_deploy.cli.console import Console, print_result
from s2dnas_deploy.cli.options.sections import OUTPUT, option, section
from s2dnas_deploy.files.atomic import check_writable
from s2dnas_deploy.quoting import number_of

if TYPE_CHECKING:
    from s2dnas_deploy.bench.report import Report

_COMMANDS = {
    "s2dnas-train": train,
    "s2dnas-search": search,
    "s2dnas-inspect": inspect,
    "s2dnas-export": export,
    "s2dnas-calibrate": calibrate,
    "s2dnas-run": run,
    "s2dnas-bench": bench,
}
_INPUT = "1x16x16"
_NEXT = """
Next, your own network: a function that builds it, its weights, the size of its images, how they
were normalised, and a folder of images with a folder for each class:

  s2dnas-search --model net.py:make_net --weights net.pth --input 3x224x224 --data images/ \\
      --normalize imagenet --resize crop --target 0.4 --out searched.pt
  s2dnas-export searched.pt --out bundle/ --data images/ --held-out held-out/ \\
      --static-model searched.run/static.pt
  s2dnas-calibrate --bundle bundle/ held-out/validation.npz --max-drop 2%
  s2dnas-bench bundle/ --data images/test     (images that chose no threshold)"""


@click.command(cls=Command)
@section(
    OUTPUT,
    option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default="demo",
        show_default=True,
        help="Everything goes into this folder; a demo that was stopped goes on there.",
    ),
    option("--restart", is_flag=True, help="Discard what an earlier demo has trained."),
)
def demo(out: Path, *, restart: bool) -> None:
    """Show every step on real handwritten digits: nothing to download, two minutes on two cores.

    A folder as yours may be is written, with a network in plain PyTorch and images in folders. Then the other
    commands do their work, each shown before it runs: train the network, search for stages, export them,
    choose thresholds, classify the test images, and measure against the static network.
    """
    from s2dnas_deploy.bench.report import Report
    from s2dnas_deploy.workshop.demo.folder import write_folder

    check_writable(out / "static.pt")
    with Console() as console:
        write_folder(out, console)
    for left in ("predictions.csv", ".predictions.csv.run.json"):  # of a demo that was stopped there
        (out / left).unlink(missing_ok=True)
    debug = ["--debug"] if click.get_current_context().meta[DEBUG] else []
    for what, words in _steps(out, restart=restart):
        print_result(f"\n# {what}\n$ {shlex.join(words)}")
        _call([*words, *debug])
    print_result(_in_words(out, Report.load(out / "bench.json")))


def _steps(out: Path, *, restart: bool) -> Iterator[tuple[str, Sequence[str]]]:
    """Each step in words, and the command line that does it."""
    images, bundle = out / "images", out / "bundle"
    again = ["--restart"] if restart else []
    trained = [
        *again,
        "--data",
        images,
        "--normalize",
        "data",
        "--augment",
        "crop",
        "--batch",
        64,
        "--seed",
        0,
    ]
    yield (
        "a static network: what you would bring",
        _words(
            *("s2dnas-train", "--model", f"{out / 'net.py'}:make_net", "--input", _INPUT, *trained),
            *("--plan", "static", "--static-epochs", 12, "--epochs", 0, "--out", out / "static.pt"),
        ),
    )
    yield (
        "the best division into stages, searched for and trained",
        _words(
            *("s2dnas-search", "--weights", out / "static.pt", *trained, "--stages", 3, "--target", 0.2),
            *("--evaluations", 80, "--shared-epochs", 8, "--finalists", 4, "--epochs", 12),
            *("--out", out / "model.pt"),
        ),
    )
    picture = out / "who_owns_what.svg"
    yield "who owns what", _words("s2dnas-inspect", out / "model.pt", "--picture", picture)
    yield (
        "one ONNX graph for each stage, and the static network's, to compare with",
        _words(
            *("s2dnas-export", out / "model.pt", "--out", bundle, "--data", images),
            *("--static-model", out / "static.pt", "--last-exit", "own"),
        ),
    )
    yield (
        "how sure is sure enough: a promise, from images that training did not see",
        _words(
            *("s2dnas-calibrate", "--bundle", bundle, images / "val", "--max-drop", "1.5%"),
            *("--plot", out / "thresholds.svg"),
        ),
    )
    yield (
        "classify a folder",
        _words("s2dnas-run", "--bundle", bundle, images / "test", "--out", out / "predictions.csv"),
    )
    yield (
        "what it bought on this machine",
        _words(
            *("s2dnas-bench", bundle, "--data", images / "test", "--threads", 1, "--seconds", 10),
            *("--processes", 4, "--out", out / "bench.json", "--html", out / "bench.html"),
        ),
    )


def _words(*parts: object) -> list[str]:
    return [str(part) for part in parts]


def _call(words: Sequence[str]) -> None:
    """As if typed: what ends a command by itself with an error ends the demo, with its exit code."""
    name, *arguments = words
    try:
        _COMMANDS[name].main(args=list(arguments), prog_name=name)
    except SystemExit as end:  # click ends the process after every command
        if end.code:
            raise


def _in_words(out: Path, report: "Report") -> str:
    """Where everything is, what was gained, and what to do next."""
    from s2dnas_deploy.bench.summary import summarise

    speed = summarise(report.runs[0], report).speed_up
    answers = report.answers
    assert speed is not None, "the static network was measured, too"
    assert speed.by_macs is not None, "and its MACs are in its file"
    assert answers.cascade_accuracy is not None, "the images are labelled"
    assert answers.static_accuracy is not None, "the images are labelled"
    places = {
        "bundle/": "what goes to a device: one ONNX graph for each stage, and a manifest",
        "predictions.csv": "what each image is, how sure that is, and at which exit it left",
        "bench.html": "the report, for a browser; bench.json has every timing",
        "who_owns_what.svg": "the stages, layer by layer",
        "model.run/frontier.svg": "the plans that were tried",
        "thresholds.svg": "what other thresholds would come to",
    }
    width = max(map(len, places)) + len(str(out)) + 1
    return "\n".join(
        [
            "",
            f"The average image takes {1 / speed.realised.value:.2f} of the static network's time: "
            f"{speed.realised.value:.1f} times as fast (by MACs {speed.by_macs:.1f} times).",
            f"Right are {100 * answers.cascade_accuracy:.1f}% of "
            f"{number_of(answers.images, 'test image')}; the static network: "
            f"{100 * answers.static_accuracy:.1f}%.",
            "",
            *(f"  {out / name!s:<{width}}  {what}" for name, what in places.items()),
            _NEXT,
        ]
    )
