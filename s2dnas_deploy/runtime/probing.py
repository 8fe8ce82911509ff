"""Timing a folder of probes on this device: what a search on another machine needs to know of it.

Place in the flow: probes, bundles of plans ──▶ `Profile`. Needs onnxruntime and numpy only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.device_profile import IMAGES, STATIC, Profile, probes_in
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
from s2dnas_deploy.files.numpy_file import ArrayFileError, arrays_in
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.reporter import Progress, Reporter
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.timing import time_stages
from s2dnas_deploy.sessions.environment import device_here


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """Which folder of probes to time, on what, and where the profile goes."""

    probes: Path
    provider: str = "auto"
    threads: int = 1
    out: Path


def write_profile(request: ProfileRequest, reporter: Reporter) -> Profile:
    """Time the probes, and write what a search on another machine needs to know of this one."""
    check_writable(request.out)
    profile = measure_profile(
        request.probes,
        provider=request.provider,
        threads=request.threads,
        progress=reporter.phase("timing", "probes"),
    )
    write_text_atomically(request.out, profile.to_json())
    reporter.say(
        f"{number_of(len(profile.times), 'probe')} timed on {profile.device['processor']}, "
        f"{profile.device['provider']}: {request.out}"
    )
    return profile


def measure_profile(
    folder: Path, *, provider: str, threads: int | None, progress: Progress, batch: int = 1
) -> Profile:
    """Time every probe of a folder against the static network among them, so many images at a time."""
    plans, images = probes_in(folder), _images_in(folder)
    batches = [
        np.stack([images[(start + i) % len(images)] for i in range(batch)]) for start in range(len(images))
    ]
    times = {}
    with Cascade.load(folder / STATIC, provider=provider, threads=threads) as reference:
        for done, name in enumerate(plans):
            with Cascade.load(folder / name, provider=provider, threads=threads) as cascade:
                times[name] = time_stages(cascade, reference, batches)
            progress(done + 1, len(plans), "")
        device = device_here(provider=reference.provider, threads=threads)
        shape = reference.manifest.preprocessing.input_shape
    return Profile(device=device, times=times, plans=plans, input_shape=shape)


def _images_in(folder: Path) -> list[npt.NDArray[Any]]:
    """The images to run the probes on."""
    path = folder / IMAGES
    expected = f"{path}: expected images that s2dnas-search --write-probes wrote"
    try:
        arrays = arrays_in(path)
        images = None if isinstance(arrays, np.ndarray) else arrays.get("images")
    except ArrayFileError as problem:
        raise DataError(f"{expected}, got {problem}") from problem
    if images is None or not images.ndim:
        raise DataError(f"{expected}, got other arrays")
    return list(images)
