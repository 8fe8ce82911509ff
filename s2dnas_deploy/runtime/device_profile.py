"""A device profile: how long the stages of a folder of probes take on this device.

Place in the flow: probes (bundles, written on a workstation) ──▶ device.json, which goes back to the
search. Needs onnxruntime and numpy only. What the numbers mean in terms of layers is for the workstation
to work out.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from s2dnas_deploy.bundle.preprocessing import ImageShape
from s2dnas_deploy.errors import DataError, PlanError, RecordError
from s2dnas_deploy.files.atomic import check_writable, write_text_atomically
from s2dnas_deploy.files.bounds import Length, Matching
from s2dnas_deploy.files.document import Form, Head
from s2dnas_deploy.files.numpy_file import ArrayFileError, arrays_in
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.reporter import Progress, Reporter
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.timing import StageTimes, time_stages
from s2dnas_deploy.sessions.environment import processor

PROBES, IMAGES, STATIC = "probes.json", "images.npz", "static"
PROBES_FORMAT, DEVICE_FORMAT = "s2dnas-probes", "s2dnas-device"


_ProbeName = Annotated[str, Length(1, 100), Matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "a plain name")]
"""It is the name of a folder, too."""


@dataclass(frozen=True, kw_only=True)
class _Probe(StageTimes):
    """A probe in a device profile; its plan is a document of its own."""

    plan: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The form of a device profile."""

    device: Mapping[str, Any]
    input_shape: ImageShape | None = None
    probes: Annotated[Mapping[_ProbeName, _Probe], Length(1, 10_000)]


@dataclass(frozen=True, kw_only=True)
class _Probes:
    """The form of what lies beside probes: their plans."""

    probes: Annotated[Mapping[_ProbeName, Mapping[str, Any]], Length(1, 10_000)]

    def __post_init__(self) -> None:
        if STATIC not in self.probes:
            raise RecordError(f'expected a probe "{STATIC}" among the probes, got none')


_FORM = Form(
    record=_Document,
    error=RecordError,
    head=Head(format=DEVICE_FORMAT, version=1, writer="s2dnas-bench PROBES --out"),
)
_PROBES_FORM = Form(
    record=_Probes,
    error=RecordError,
    head=Head(format=PROBES_FORMAT, version=1, writer="s2dnas-search --write-probes"),
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Times of probes on a device, by name, each with the plan that it is of, as a JSON document.

    `input_shape`, of one image (C, H, W), is not known of profiles of earlier versions.
    """

    device: Mapping[str, Any]
    times: Mapping[str, StageTimes]
    plans: Mapping[str, Plan]
    input_shape: tuple[int, ...] | None = None

    def to_json(self) -> str:
        """The profile as a JSON document."""
        probes = {
            name: {**asdict(times), "plan": json.loads(self.plans[name].to_json())}
            for name, times in self.times.items()
        }
        shape = {} if self.input_shape is None else {"input_shape": list(self.input_shape)}
        about = {"format": DEVICE_FORMAT, "version": 1, "device": dict(self.device), **shape}
        document = {**about, "probes": probes}
        return json.dumps(document, indent=1) + "\n"

    def joined(self, other: "Profile") -> "Profile":
        """The probes of both."""
        times, plans = {**self.times, **other.times}, {**self.plans, **other.plans}
        return replace(self, times=times, plans=plans)

    @staticmethod
    def load(path: Path) -> "Profile":
        """Read what `to_json` wrote."""
        document = _FORM.load(path)
        return Profile(
            device=document.device,
            times={
                name: StageTimes(stage_ms=probe.stage_ms, reference_ms=probe.reference_ms)
                for name, probe in document.probes.items()
            },
            plans=_plans({name: probe.plan for name, probe in document.probes.items()}, path),
            input_shape=document.input_shape,
        )


def _plans(documents: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, Plan]:
    """The plans within another document."""
    plans = {}
    for name, document in documents.items():
        try:
            plans[name] = Plan.from_document(document)
        except PlanError as problem:
            raise RecordError(f"{path}: probes[{shown(name)}].plan: {problem}") from problem
    return plans


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
        progress=reporter.phase("timing"),
    )
    write_text_atomically(request.out, profile.to_json())
    reporter.say(
        f"{len(profile.times)} probes timed on {profile.device['processor']}, "
        f"{profile.device['provider']}: {request.out}"
    )
    return profile


def measure_profile(folder: Path, *, provider: str, threads: int | None, progress: Progress) -> Profile:
    """Time every probe of a folder against the static network among them."""
    plans, images = _probes_in(folder), _images_in(folder)
    times = {}
    with Cascade.load(folder / STATIC, provider=provider, threads=threads) as reference:
        for done, name in enumerate(plans):
            with Cascade.load(folder / name, provider=provider, threads=threads) as cascade:
                times[name] = time_stages(cascade, reference, images)
            progress(done + 1, len(plans), "")
        device = device_here(provider=reference.provider, threads=threads)
        shape = reference.manifest.preprocessing.input_shape
    return Profile(device=device, times=times, plans=plans, input_shape=shape)


def device_here(*, provider: str, threads: int | None) -> dict[str, Any]:
    """What times depend on: those of one device are not those of another."""
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "onnxruntime": onnxruntime.__version__,
        "provider": provider,
        "threads": threads,
    }


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


def _probes_in(folder: Path) -> dict[str, Plan]:
    path = folder / PROBES
    return _plans(_PROBES_FORM.load(path).probes, path)
