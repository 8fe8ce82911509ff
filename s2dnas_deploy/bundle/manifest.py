"""The manifest: all that a device must know about a bundle, as one JSON document with a version.

Part of the bridge: export writes it, the device reads it. Everything is checked when it is made, so that
whoever holds a `Manifest` may rely on it: whatever way a sample comes to a stage, what the stage reads has
been given; every name of a file is a plain name within the folder. `manifest.schema.json`, made of these
records, says the same to other programs, as far as a schema can. `manifest_1` reads what release 0.1.0 wrote.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Annotated, Literal

from s2dnas_deploy.bundle import manifest_1
from s2dnas_deploy.bundle.entries import (
    FORMAT,
    MAX_STAGES,
    MOST_MACS,
    Expected,
    Facts,
    GraphFile,
    Promise,
    StageEntry,
    Tensor,
    doubles,
    expect,
)
from s2dnas_deploy.bundle.preprocessing import MOST_NUMBERS, Preprocessing
from s2dnas_deploy.decide.flow import ANSWERS, IMAGE, Choices, Flow, Route, Stop, check_looks
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Length, Name
from s2dnas_deploy.files.document import Form, Head, check_record
from s2dnas_deploy.quoting import shown

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's manifest. `tools` and `sources` say what it was made with and from."""

    name: Name
    precision: Literal["float32", "int8", "float16"]
    image_type: Literal["uint8", "float32"]
    preprocessing: Preprocessing
    labels: Annotated[tuple[Name, ...], Length(1, 100_000)]
    tensors: Annotated[Mapping[Name, Tensor], Length(0, 10_000)]
    start: Route
    stages: Annotated[tuple[StageEntry, ...], Length(1, MAX_STAGES)]
    settings: Annotated[Mapping[Name, Choices], Length(0, 64)] = field(default_factory=dict)
    single_file: GraphFile | None = None
    expected: Expected | None = None
    promise: Promise | None = None
    tools: Facts = field(default_factory=dict)
    sources: Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_record(self, BundleError)
        double = doubles(self.labels)
        expect(not double, "labels", double, "no name twice (say 'crane, bird' and 'crane, machine')")
        double = doubles(graph.file for graph in self.graphs)
        expect(not double, "the graphs' files", double, "a file for each stage")
        macs = sum(self.macs)
        expect(1 <= macs <= MOST_MACS, "MACs of all stages", macs, f"1 to {MOST_MACS:,}")
        self._check_tensors()
        if self.gathers:
            self._check_rows()
        if self.expected is not None:
            counts = {len(self.expected.exit_accuracy), len(self.expected.exit_share)}
            expect(counts == {len(self.stages)}, "what is expected", counts, f"{len(self.stages)} exits")

    def _check_tensors(self) -> None:
        """Samples bring what is read, rules fit what they look at, and there is memory for it."""
        taken = sorted(self.tensors.keys() & {IMAGE, *ANSWERS})
        expect(not taken, "tensors", taken, "names that are not taken")
        given = {name for stage in self.stages for name in stage.gives}
        strange = sorted(given ^ self.tensors.keys())
        expect(not strange, "tensors", strange, "all that stages give, and nothing else")
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        check_looks(self.flow, shapes, len(self.labels))
        numbers = sum(prod(tensor.shape) for tensor in self.tensors.values())
        expect(numbers <= MOST_NUMBERS, "numbers in all tensors", numbers, f"at most {MOST_NUMBERS:,}")

    def _check_rows(self) -> None:
        """Who comes from other stages is picked by their numbers, and those are of one stage's batch."""
        flow = self.flow
        fed = {place for targets in flow.targets for place in targets}
        for k, stage in enumerate(self.stages):
            expect(
                bool(stage.rows) or k not in fed,
                f"stage {shown(stage.name)}, to which samples come from others",
                "no rows",
                "inputs that pick them, as other stages have",
            )
            for name, picked in stage.rows.items():
                sources = {flow.givers[k][tensor] for tensor in picked}
                one = len(sources) == 1 and all(len(source) == 1 for source in sources)
                expect(one or len(picked) == 1, shown(name), list(picked), "tensors that one stage has given")

    @property
    def graphs(self) -> tuple[GraphFile, ...]:
        """Every ONNX file of the bundle."""
        single = () if self.single_file is None else (self.single_file,)
        return (*(stage.graph for stage in self.stages), *single)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image as the graphs take it: [H, W, C] in bytes, [C, H, W] in floats."""
        channels, height, width = self.preprocessing.input_shape
        return (height, width, channels) if self.image_type == "uint8" else (channels, height, width)

    @property
    def gathers(self) -> bool:
        """Whether graphs pick the samples that go on themselves, so that features may stay on a device."""
        return any(stage.rows for stage in self.stages)

    @cached_property
    def flow(self) -> Flow:
        """Which samples go where."""
        return Flow(
            start=self.start,
            stops=tuple(
                Stop(
                    name=stage.name,
                    reads=stage.reads,
                    gives=stage.gives,
                    answers=stage.exit is not None,
                    then=stage.then,
                )
                for stage in self.stages
            ),
            settings=self.settings,
        )

    @property
    def probability_temperatures(self) -> tuple[float, ...]:
        """Of each stage, the temperature at which callers are told its probabilities."""
        return tuple(1.0 if s.exit is None else s.exit.probability_temperature for s in self.stages)

    @property
    def macs(self) -> tuple[int, ...]:
        """MACs of each stage for one image."""
        return tuple(stage.macs for stage in self.stages)

    def with_thresholds(self, thresholds: Sequence[float]) -> "Manifest":
        """The same bundle with other thresholds, chosen on images, one for each exit that may be passed."""
        flow = self.flow.with_thresholds(thresholds)
        stages = [
            replace(stage, then=stop.then, exit=stage.exit and replace(stage.exit, calibrated=True))
            for stage, stop in zip(self.stages, flow.stops, strict=True)
        ]
        return replace(self, stages=tuple(stages))

    def with_offsets(self, offsets: Sequence[float]) -> "Manifest":
        """The same bundle, with others added to its gate's numbers."""
        then = self.flow.with_offsets(offsets).stops[0].then
        return replace(self, stages=(replace(self.stages[0], then=then), *self.stages[1:]))

    def with_probability_temperatures(self, temperatures: Sequence[float]) -> "Manifest":
        """The same bundle, whose probabilities are told at other temperatures, one for each exit."""
        each = iter(temperatures)
        stages = [
            replace(stage, exit=stage.exit and replace(stage.exit, probability_temperature=next(each)))
            for stage in self.stages
        ]
        return replace(self, stages=tuple(stages))

    def to_json(self) -> str:
        """The manifest as a JSON document."""
        content = {key: value for key, value in asdict(self).items() if key not in ("tools", "sources")}
        content["preprocessing"] = self.preprocessing.to_document()
        about = {"tools": dict(self.tools), "sources": dict(self.sources)}
        return json.dumps({"format": FORMAT, "version": VERSION, **content, **about}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """Read what `to_json` wrote, in this release or in 0.1.0; any other document is a `BundleError`."""
        document = FORM.parsed(text, "the manifest")
        if manifest_1.is_one(document):
            return _as_now(manifest_1.FORM.of(document, "the manifest"))
        return FORM.of(document, "the manifest")


FORM = Form(
    record=Manifest,
    error=BundleError,
    head=Head(format=FORMAT, version=VERSION, writer="s2dnas-export"),
    complete=True,
)


def _as_now(manifest: manifest_1.Manifest1) -> Manifest:
    """A manifest of version 1 as this release says it."""
    try:
        return Manifest(**manifest.fields_now)
    except BundleError as error:
        raise BundleError(f"the manifest: {error}") from error
