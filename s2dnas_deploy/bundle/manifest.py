"""The manifest: all that a device must know about a bundle, as one JSON document with a version.

Part of the bridge: export writes it, the device reads it. Everything is checked when it is made, so that
whoever holds a `Manifest` may rely on it: whatever way a sample comes to a stage, what the stage reads has
been given; every name of a file is a plain name within the folder. `manifest.schema.json`, made of these
records, says the same to other programs, as far as a schema can. `manifest_1` reads what release 0.1.0 wrote.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Annotated, Literal

from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.bundle.preprocessing import MOST_NUMBERS, Preprocessing
from s2dnas_deploy.decide.flow import ANSWER, ANSWERS, IMAGE, Choices, Flow, Route, Stop
from s2dnas_deploy.decide.rules import CONFIDENCE, Largest, Threshold
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Between, Length, Matching, Name, Printable, Share
from s2dnas_deploy.files.document import Form, Head, check_record
from s2dnas_deploy.quoting import shown

FORMAT = "s2dnas-bundle"
VERSION = 2
MAX_STAGES = 16  # those of a plan, which is not imported: a device would load all that plans need
_MOST_MACS = 2**62
_Images = Annotated[int, Between(1, 2**53)]
_Drop = Annotated[float, Between(-1, 1)]
_PerExit = Annotated[tuple[Share, ...], Length(1, MAX_STAGES)]
Facts = Annotated[Mapping[Name, Annotated[str, Printable()]], Length(0, 1000)]
Macs = Annotated[int, Between(0, _MOST_MACS)]
_Names = Annotated[tuple[Name, ...], Length(0, 10_000)]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What stages hand to each other: element type, and shape without the batch."""

    type: Literal["float32", "float16", "uint8", "int8"]
    shape: Annotated[tuple[Annotated[int, Between(1, MOST_NUMBERS)], ...], Length(0, 8)]

    def __post_init__(self) -> None:
        check_record(self, BundleError)


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """An ONNX file of the bundle, and how to tell that it is the one that was exported."""

    file: Annotated[str, Matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.onnx", "a plain name ending in .onnx")]
    sha256: Annotated[str, Matching(r"[0-9a-f]{64}", "64 hexadecimal digits")]
    size_bytes: Annotated[int, Between(1, 2**31)]
    """No ONNX file is larger that keeps its data within itself."""

    def __post_init__(self) -> None:
        check_record(self, BundleError)


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """One stage: its graph, the tensors that it reads and gives, its exit if it has one, where samples go.

    A graph's inputs and outputs are called as the tensors are; `outputs` has those that are not, by tensor. A
    graph that picks the samples itself has inputs of their numbers: `rows` says of which tensors each is.
    """

    name: Name
    graph: GraphFile
    reads: _Names
    gives: _Names
    outputs: Annotated[Mapping[Name, Name], Length(0, 10_000)] = field(default_factory=dict)
    rows: Annotated[Mapping[Name, _Names], Length(0, 10_000)] = field(default_factory=dict)
    exit: Exit | None
    macs: Macs
    """For one image."""
    then: Route

    def __post_init__(self) -> None:
        check_record(self, BundleError)
        for what, names in (("reads", self.reads), ("gives", self.gives)):
            double = _double(names)
            expect(not double, f"what stage {shown(self.name)} {what}", double, "no tensor twice")
        expect(
            self.outputs.keys() <= set(self.gives), "outputs", sorted(self.outputs), "tensors that it gives"
        )
        picked = sorted(name for names in self.rows.values() for name in names)
        expect(
            not self.rows or picked == sorted(self.reads), "rows", picked, "every tensor that it reads, once"
        )
        double = _double([*self.inputs, *self.outputs_of.values()])
        expect(not double, f"inputs and outputs of stage {shown(self.name)}", double, "different names")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the graph's inputs."""
        return (*self.reads, *self.rows)

    @property
    def outputs_of(self) -> dict[str, str]:
        """The name of the graph's output for every tensor that it gives, its answer included."""
        answers = ANSWERS if self.exit is not None else ()
        return {name: self.outputs.get(name, name) for name in (*self.gives, *answers)}

    @property
    def in_words(self) -> str:
        """When a sample goes where."""
        rule, ways = self.then.by, self.then.to
        when = rule.in_words
        if self.exit is not None and isinstance(rule, Threshold) and rule.of == CONFIDENCE:
            when = when.replace(CONFIDENCE, self.exit.rule) + ", not calibrated" * (not self.exit.calibrated)
        return f"{when}: {', else '.join(ways)}" if ways != (ANSWER,) else "always: answer"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the bundle reached on labelled images when it was made, one number per exit.

    `exit_accuracy` is each exit's on all images; `exit_share` how many images leave where, with the
    manifest's thresholds; `cascade_accuracy` and `mean_macs` what comes of that, for one image.
    """

    images: _Images
    exit_accuracy: _PerExit
    exit_share: _PerExit
    cascade_accuracy: Share
    mean_macs: Annotated[float, Between(0, _MOST_MACS)]

    def __post_init__(self) -> None:
        check_record(self, BundleError)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the thresholds were chosen for: in words, and as numbers for other programs.

    `max_drop` and `probability` are None where nothing was proven, as for a budget; `images` were looked at,
    and `observed_drop` is how far below what it is compared with the cascade was on them.
    """

    statement: Annotated[str, Length(1, 10_000), Printable()]
    images: _Images
    max_drop: _Drop | None
    probability: Share | None
    observed_drop: _Drop

    def __post_init__(self) -> None:
        check_record(self, BundleError)


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
        double = _double(self.labels)
        expect(not double, "labels", double, "no name twice (say 'crane, bird' and 'crane, machine')")
        double = _double(graph.file for graph in self.graphs)
        expect(not double, "the graphs' files", double, "a file for each stage")
        macs = sum(self.macs)
        expect(1 <= macs <= _MOST_MACS, "MACs of all stages", macs, f"1 to {_MOST_MACS:,}")
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
        for stop in self.flow.stops:
            self._check_rule(stop)
        numbers = sum(prod(tensor.shape) for tensor in self.tensors.values())
        expect(numbers <= MOST_NUMBERS, "numbers in all tensors", numbers, f"at most {MOST_NUMBERS:,}")

    def _check_rule(self, stop: Stop) -> None:
        rule = stop.then.by
        if not isinstance(rule, Threshold | Largest):
            return
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        shape = {**dict.fromkeys(ANSWERS, ()), ANSWERS[2]: (len(self.labels),), **shapes}[rule.of]
        whose = f"what the rule of stage {shown(stop.name)} looks at"
        if isinstance(rule, Largest):
            expect(shape == (len(stop.then.to),), whose, list(shape), f"{len(stop.then.to)} numbers")
        elif rule.column is None:
            expect(shape == (), whose, list(shape), "one number, or a column")
        else:
            expect(len(shape) == 1 and rule.column < shape[0], whose, list(shape), f"column {rule.column}")

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

    def to_json(self) -> str:
        """The manifest as a JSON document."""
        content = {key: value for key, value in asdict(self).items() if key not in ("tools", "sources")}
        content["preprocessing"] = self.preprocessing.to_document()
        about = {"tools": dict(self.tools), "sources": dict(self.sources)}
        return json.dumps({"format": FORMAT, "version": VERSION, **content, **about}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """Read what `to_json` wrote, in this release or in 0.1.0; any other document is a `BundleError`."""
        from s2dnas_deploy.bundle import manifest_1

        document = FORM.parsed(text, "the manifest")
        if manifest_1.is_one(document):
            return manifest_1.FORM.of(document, "the manifest").now
        return FORM.of(document, "the manifest")


FORM = Form(
    record=Manifest,
    error=BundleError,
    head=Head(format=FORMAT, version=VERSION, writer="s2dnas-export"),
    complete=True,
)


def _double(names: Iterable[str]) -> list[str]:
    """Some of the names that are there more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)[:3]


def expect(holds: bool, name: str, got: object, expected: object) -> None:
    """A `BundleError` that says what was expected, where something else is."""
    if not holds:
        raise BundleError(f"{name}: expected {expected}, got {shown(got)}")
