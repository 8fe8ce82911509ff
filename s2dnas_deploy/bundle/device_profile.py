"""A device profile: how long the stages of a folder of probes take on a device.

Place in the flow: probes (bundles, written on a workstation) ──▶ device.json, which goes back to the search.
What the numbers mean in terms of layers is for the workstation to work out.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from s2dnas_deploy.bundle.entries import MAX_STAGES
from s2dnas_deploy.bundle.preprocessing import ImageShape
from s2dnas_deploy.errors import PlanError, RecordError
from s2dnas_deploy.files.bounds import Between, Length, Matching
from s2dnas_deploy.files.document import LARGEST_BYTES, Form, Head, check_record
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.quoting import shown

PROBES, IMAGES, STATIC = "probes.json", "images.npz", "static"
PROBES_FORMAT, DEVICE_FORMAT = "s2dnas-probes", "s2dnas-device"


Milliseconds = Annotated[float, Between(1e-6, 10**9)]
"""Of something that was timed: a nanosecond at least, and less than two weeks."""


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Milliseconds of each stage, nobody leaving, and of the reference's whole chain in the same moments."""

    stage_ms: Annotated[tuple[Milliseconds, ...], Length(1, MAX_STAGES)]
    reference_ms: Milliseconds

    def __post_init__(self) -> None:
        check_record(self, RecordError)


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


def probes_in(folder: Path) -> dict[str, Plan]:
    """The plans of the probes in a folder, by their names, which are those of their folders."""
    path = folder / PROBES
    return _plans(_PROBES_FORM.load(path).probes, path)


def digest_of(profile: Path) -> str:
    """Sha256 of a device profile, which is looked at before it is read: it may be a pipe, or of any size."""
    try:
        return hashlib.sha256(read_file(profile, LARGEST_BYTES)).hexdigest()
    except OSError as problem:
        raise RecordError(f"{profile}: {problem.strerror}") from problem
