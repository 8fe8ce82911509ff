"""Manifests of version 1, as release 0.1.0 wrote them: a chain of stages, told without routes.

stage k reads tensors of earlier ones, answers, and by its threshold lets samples go on to stage k + 1
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from s2dnas_deploy.bundle.entries import (
    FORMAT,
    MAX_STAGES,
    Expected,
    Facts,
    GraphFile,
    Macs,
    Promise,
    StageEntry,
    Tensor,
    expect,
)
from s2dnas_deploy.bundle.exits import ConfidenceRule, Exit
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.flow import ANSWER, DONE, IMAGE, Route
from s2dnas_deploy.decide.rules import CONFIDENCE, Threshold
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Above, Length, Name
from s2dnas_deploy.files.document import Form, Head
from s2dnas_deploy.quoting import shown


@dataclass(frozen=True, kw_only=True)
class _Tensor(Tensor):
    name: Name

    @property
    def plain(self) -> Tensor:
        return Tensor(type=self.type, shape=self.shape)


@dataclass(frozen=True, kw_only=True)
class _Exit:
    rule: ConfidenceRule
    temperature: Annotated[float, Above(0)]
    threshold: float | None
    calibrated: bool


@dataclass(frozen=True, kw_only=True)
class _Stage:
    graph: GraphFile
    reads_image: bool
    reads: Annotated[tuple[_Tensor, ...], Length(0, 10_000)]
    gives: Annotated[tuple[_Tensor, ...], Length(0, 10_000)]
    exit: _Exit
    macs: Macs

    @property
    def names(self) -> tuple[str, ...]:
        """All that it reads."""
        return (*([IMAGE] if self.reads_image else []), *(spec.name for spec in self.reads))


@dataclass(frozen=True, kw_only=True)
class Manifest1:
    """A manifest of version 1."""

    name: Name
    precision: Literal["float32", "int8", "float16"]
    image_type: Literal["uint8", "float32"]
    gathers: bool
    preprocessing: Preprocessing
    labels: Annotated[tuple[Name, ...], Length(1, 100_000)]
    stages: Annotated[tuple[_Stage, ...], Length(1, MAX_STAGES)]
    single_file: GraphFile | None
    expected: Expected | None
    promise: Promise | None
    tools: Facts
    sources: Facts

    def __post_init__(self) -> None:
        given: dict[str, Tensor] = {}
        for k, stage in enumerate(self.stages):
            for spec in stage.reads:
                expect(spec.name in given, f"what stage {k} reads", spec.name, "what an earlier stage gives")
                same = given[spec.name] == spec.plain
                expect(same, f"{shown(spec.name)} read by stage {k}", spec.plain, given[spec.name])
            for spec in stage.gives:
                taken = {*given, *(_rows_of(j) for j in range(len(self.stages)))}
                expect(spec.name not in taken, f"what stage {k} gives", spec.name, "a name not taken")
                given[spec.name] = spec.plain
            is_last = k == len(self.stages) - 1
            expect(
                (stage.exit.threshold is None) == is_last,
                f"the threshold of exit {k}",
                stage.exit.threshold,
                "none, for it takes all" if is_last else "a number",
            )

    @property
    def fields_now(self) -> dict[str, Any]:
        """What a `Manifest` of this release is made of, which checks the rest."""
        kept = {name: value for name, value in vars(self).items() if name not in ("gathers", "stages")}
        return kept | {
            "tensors": {spec.name: spec.plain for stage in self.stages for spec in stage.gives},
            "start": Route(to=("stage_0",)),
            "stages": tuple(self._stage(k, stage) for k, stage in enumerate(self.stages)),
        }

    def _stage(self, k: int, stage: _Stage) -> StageEntry:
        at = stage.exit.threshold
        onwards = (ANSWER, f"stage_{k + 1}")
        return StageEntry(
            name=f"stage_{k}",
            graph=stage.graph,
            reads=stage.names,
            gives=tuple(spec.name for spec in stage.gives),
            rows=self._rows(stage) if self.gathers and k else {},
            exit=Exit(
                rule=stage.exit.rule, temperature=stage.exit.temperature, calibrated=stage.exit.calibrated
            ),
            macs=stage.macs,
            then=DONE if at is None else Route(to=onwards, by=Threshold(of=CONFIDENCE, at=at)),
        )

    def _rows(self, stage: _Stage) -> dict[str, tuple[str, ...]]:
        """By input that numbers samples, what it picks: what one stage gave; stage 0's, the image as well."""
        picked: dict[str, tuple[str, ...]] = {}
        for j, giver in enumerate(self.stages):
            there = {spec.name for spec in giver.gives} | ({IMAGE} if j == 0 else set())
            names = tuple(name for name in stage.names if name in there)
            if names:
                picked[_rows_of(j)] = names
        return picked


FORM = Form(
    record=Manifest1,
    error=BundleError,
    head=Head(format=FORMAT, version=1, writer="s2dnas-export"),
    complete=True,
)


def is_one(document: Any) -> bool:
    """Whether a document says that it is of version 1."""
    return isinstance(document, Mapping) and type(version := document.get("version")) is int and version == 1


def _rows_of(stage: int) -> str:
    return f"rows_{stage}"
