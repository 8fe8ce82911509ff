"""The options that name a bundle and how to run it, spelled alike wherever one is run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from s2dnas_deploy.cli.options.sections import option
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.sessions.limits import MOST_BATCH, MOST_THREADS

_TRUST = "S2DNAS_TRUST"
PROVIDERS = ("cpu", "cuda", "tensorrt", "openvino", "xnnpack", "coreml", "auto", "arm")


def _named_key(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """The key, which must be named if it is asked for: an empty variable is a mistake, not consent."""
    is_empty = os.environ.get(_TRUST) == "" if value is None else value == Path()
    if is_empty:
        raise click.BadParameter(f"expected the file of a public key, got none; unset ${_TRUST} to trust all")
    return value


trust_option = option(
    "--trust",
    type=click.Path(path_type=Path),
    callback=_named_key,
    metavar="KEY",
    envvar=_TRUST,
    help="Take no bundle but one that is signed, all of it, by the owner of this public key (PEM, elliptic "
    "curve). [default: $S2DNAS_TRUST]",
)
sign_option = option(
    "--sign",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Sign the bundle with this private key (PEM, elliptic curve). The password of an encrypted key is "
    "read from $S2DNAS_KEY_PASSWORD.",
)
static_option = option(
    "--static",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="STATIC.ONNX",
    help="Compare with this static network. [default: BUNDLE.static.onnx, if export wrote it]",
)
threads_option = option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="Cores per stage. [default: all]"
)
batch_option = option(
    "--batch",
    type=click.IntRange(1, MOST_BATCH),
    default=32,
    show_default=True,
    help="How many images go through the network at a time, at most.",
)
provider_option = option(
    "--provider",
    type=click.Choice(PROVIDERS),
    default="auto",
    show_default=True,
    help="What runs the graphs; auto and arm take the best there is.",
)
WHICH_BUNDLE = (
    option(
        "--bundle",
        type=click.Path(path_type=Path),
        envvar="S2DNAS_BUNDLE",
        default=".",
        help="Folder of the bundle. [default: $S2DNAS_BUNDLE, else the current folder]",
    ),
    trust_option,
)
HOW_TO_RUN_IT = (
    provider_option,
    option("--allow-fallback", is_flag=True, help="Use the CPU if the provider is not there."),
    threads_option,
)


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """A bundle as the command line names it, and how to run it."""

    bundle: Path
    trust: Path | None
    provider: str
    allow_fallback: bool
    threads: int | None


def check_bundle_is_named(bundle: Path, places: Sequence[str]) -> None:
    """Whoever names the bundle among the images is told how to name it."""
    from s2dnas_deploy.bundle.bundle import MANIFEST

    among = [place for place in places if (Path(place) / MANIFEST).is_file()]
    if among and not (bundle / MANIFEST).is_file():
        raise click.UsageError(f"{among[0]} is a bundle, not images: name it with --bundle {among[0]}")
    if bundle == Path() and not (bundle / MANIFEST).is_file():
        raise BundleError(
            f"no bundle is named, and the current folder is none, for it has no {MANIFEST}: name one with "
            "--bundle, or in S2DNAS_BUNDLE; s2dnas-export writes it"
        )
