"""An edge kit: one zip with all that a board needs to measure a bundle, and a script that does it.

Place in the flow: `s2dnas-bench pack` ──▶ kit.zip ──▶ a board: `sh run.sh` ──▶ results.zip, to bring back.

    run.sh, README.txt     what to do, and what it does
    wheels/                this package; with a platform, also what it needs there
    bundle/, bundle.static.onnx, images.npz, probes/

A board needs Python 3.10 or newer. Nothing is installed into it: packages go into a folder of the kit's own.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy.bench.answers import refuse_noise
from s2dnas_deploy.bench.kit.wheel import write_wheel
from s2dnas_deploy.bundle.bundle import own_static, static_beside, verify_bundle
from s2dnas_deploy.bundle.device_profile import PROBES
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.errors import BundleError, DataError, OptionError, S2dnasError
from s2dnas_deploy.files.atomic import passing_folder, write_atomically
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.runtime.answers.inputs import Item, announced, evenly, find_items, truth_of
from s2dnas_deploy.runtime.baseline import Baseline
from s2dnas_deploy.runtime.pictures import Reader
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.sessions.providers import CPU

# By pip's tags: wheels for an older C library do for a newer one.
PLATFORMS: Mapping[str, tuple[str, ...]] = {
    f"linux-{machine}": tuple(f"manylinux_2_{minor}_{machine}" for minor in range(17, 36))
    for machine in ("aarch64", "x86_64")
}
RUN = "run.sh"
_TEXTS = Path(__file__).parent
_NEEDS = ("click", "numpy", "onnxruntime", "pillow")


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What goes into a kit. `platform`, `python`: for which board wheels are put in; None: pip gets them."""

    bundle: Path
    places: tuple[str, ...]
    images: int = 500
    static: Path | None = None
    probes: Path | None = None
    platform: str | None = None
    python: str = "3.11"
    noise: bool = False


def write_kit(kit: Kit, out: Path, reporter: Reporter) -> int:
    """Write the zip; how many images are in it."""
    manifest = verify_bundle(kit.bundle).manifest
    static = kit.static or own_static(kit.bundle, manifest)
    if kit.static is not None and not kit.static.is_file():
        raise OptionError(f"--static {kit.static}: no such file")
    if kit.probes is not None and not (kit.probes / PROBES).is_file():
        raise DataError(f"{kit.probes}: expected a folder that s2dnas-search --write-probes wrote")
    found = announced(find_items(kit.places, manifest.labels), reporter)
    some = evenly(found, kit.images)
    with passing_folder("s2dnas-kit-") as passing:
        folder = passing / "kit"
        (folder / "wheels").mkdir(parents=True)
        arrays = _images(some, Reader(manifest), manifest.labels, noise=kit.noise)
        np.savez_compressed(folder / "images.npz", **arrays)
        _copy(kit.bundle, folder / "bundle")
        if static is not None:
            copied = shutil.copy(static, static_beside(folder / "bundle"))
            _check_static(Path(copied), manifest, arrays["images"][:1])
        if kit.probes is not None:
            _copy(kit.probes, folder / "probes")
        write_wheel(folder / "wheels")
        if kit.platform is not None:
            _download(folder / "wheels", kit.platform, kit.python)
        for name in (RUN, "README.txt"):
            shutil.copy(_TEXTS / name, folder)
        _zip(folder, out)
    return len(some)


def _copy(folder: Path, to: Path) -> None:
    """All files of a folder; the first that cannot be written ends it, as `shutil.copytree` does not."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            target = to / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def _check_static(copied: Path, manifest: Manifest, images: Array) -> None:
    """On the board it would be too late to learn that it takes other images, or has weights elsewhere."""
    p = manifest.preprocessing
    try:
        Baseline(copied, CPU, threads=1, mean=p.mean, std=p.std)(images)
    except BundleError as problem:
        raise OptionError(f"the static network cannot run on the board: {problem}") from problem


def _images(items: Sequence[Item], reader: Reader, labels: Sequence[str], *, noise: bool) -> dict[str, Any]:
    """Pixels as the graphs take them, and the true classes if all are known."""
    pixels = reader.batch([item.source for item in items])
    if not noise:
        refuse_noise(pixels)
    truth = truth_of(items, labels)
    return {"images": pixels} if truth is None else {"images": pixels, "labels": truth}


def _download(wheels: Path, platform: str, python: str) -> None:
    """What this package needs on a platform, from the package index that pip is set up with."""
    tags = [part for tag in PLATFORMS[platform] for part in ("--platform", tag)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]
    command += [*tags, "--implementation", "cp", "--python-version", python, "--dest", str(wheels), *_NEEDS]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    (wheels / "for").write_text(f"{python} {platform.partition('-')[2]}\n", encoding="utf-8")
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if "ERROR" in line][:1] or ["pip said nothing"]
        raise S2dnasError(f"no wheels for {platform}, Python {python}: {reason[0].removeprefix('ERROR: ')}")


def _zip(folder: Path, out: Path) -> None:
    def write(stream: object) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:  # type: ignore[call-overload]
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder.parent))

    (folder / RUN).chmod(0o755)
    write_atomically(out, write)
