"""`s2dnas-serve`: bundles behind HTTP, for many callers at once."""

from pathlib import Path
from typing import Literal

import click

from s2dnas_deploy.cli.command import Command
from s2dnas_deploy.cli.console import Console, silence_pillow
from s2dnas_deploy.cli.options.bundle import HOW_TO_RUN_IT, batch_option, trust_option
from s2dnas_deploy.cli.options.kinds import Share
from s2dnas_deploy.cli.options.sections import INPUT, RUNNING, option, quiet_option, section
from s2dnas_deploy.serve.defaults import MAX_QUEUE_MS, MAX_WAIT_MS, MOST_BODY_MIB, MOST_MIB

_MIB = 2**20


@click.command(cls=Command)
@click.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE...")
@section(INPUT, trust_option)
@section(
    "Where it listens",
    option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all."),
    option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."),
    option("--grpc-port", type=click.IntRange(0, 65535), help="Serve over gRPC, too. [default: HTTP only]"),
)
@section(
    "How requests share batches",
    batch_option,
    option(
        "--max-wait-ms",
        type=click.FloatRange(0),
        default=MAX_WAIT_MS,
        show_default=True,
        help="How long in all an image may wait for others before later stages, while a full batch waits to "
        "begin; less where fewer do, and not at all where nobody does.",
    ),
    option(
        "--workers",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Threads that run stages, each with batches of its own; more than one is for many cores.",
    ),
)
@section(
    "How much it admits",
    option(
        "--max-queue-ms",
        type=click.FloatRange(0, min_open=True),
        default=MAX_QUEUE_MS,
        show_default=True,
        help="How long an image may have to wait before the first stage; if longer, it is refused at once "
        "(503).",
    ),
    option(
        "--most-waiting",
        type=click.IntRange(1),
        default=MOST_MIB,
        show_default=True,
        metavar="MIB",
        help="Pixels of all requests that are not answered yet; past that, they are refused at once (503).",
    ),
    option(
        "--most-body",
        type=click.IntRange(1),
        default=MOST_BODY_MIB,
        show_default=True,
        metavar="MIB",
        help="The largest request; larger ones are refused (413).",
    ),
)
@section(
    "Watching the promise",
    option(
        "--audit",
        type=Share(),
        help="Take so many of the images (1%) through all stages when there is time, and tell if the last "
        "exit answers more of them otherwise than was promised. [default: none]",
    ),
    option(
        "--on-broken",
        type=click.Choice(["tell", "raise-thresholds"]),
        default="tell",
        show_default=True,
        help="What to do if the promise is shown to be broken, with 5% of false alarms ever.",
    ),
)
@section(RUNNING, *HOW_TO_RUN_IT, quiet_option)
def serve(
    *,
    bundles: tuple[str, ...],
    trust: Path | None,
    host: str,
    port: int,
    grpc_port: int | None,
    batch: int,
    max_wait_ms: float,
    workers: int,
    max_queue_ms: float,
    most_waiting: int,
    most_body: int,
    audit: float | None,
    on_broken: Literal["tell", "raise-thresholds"],
    provider: str,
    allow_fallback: bool,
    threads: int | None,
    quiet: bool,
) -> None:
    """Answer requests by the Open Inference Protocol (KServe v2), over HTTP and gRPC, until SIGTERM.

    Images that go on to later stages wait there for those of other requests, so late stages run full. A
    bundle is called as its folder, or by NAME; a folder of bundles 1, 2, 3 has versions.

    \b
    s2dnas-serve bundle/ --grpc-port 8001
    s2dnas-serve cats=bundle/ dogs=other/ --host 0.0.0.0 --port 8080 --threads 4
    curl localhost:8000/v2/models/bundle
    """  # noqa: D301
    if on_broken != "tell" and not audit:
        raise click.UsageError("--on-broken says what to do about what --audit finds: give --audit, too")
    from s2dnas_deploy.serve.server import ServeRequest
    from s2dnas_deploy.serve.server import serve as serve_bundles

    request = ServeRequest(
        bundles=bundles,
        host=host,
        port=port,
        grpc_port=grpc_port,
        how={"provider": provider, "threads": threads, "allow_fallback": allow_fallback, "trust": trust},
        pace={
            "batch": batch,
            "max_wait_ms": max_wait_ms,
            "workers": workers,
            "max_queue_ms": max_queue_ms,
            "most_bytes": most_waiting * _MIB,
            "audit": audit or 0.0,
            "on_broken": on_broken,
        },
        most_body=most_body * _MIB,
    )
    silence_pillow()
    with Console(quiet=quiet) as console:
        serve_bundles(request, console)
