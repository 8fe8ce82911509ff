"""The manifest: all that a device must know about a bundle, as one JSON document with a version.

Part of the bridge: export writes it, the device reads it. Everything is checked when it is made, so that
whoever holds a `Manifest` may rely on it: each feature that a stage reads is given by an earlier one, with
the same type and shape; every name of a file is a plain name within the folder. `manifest.schema.json` says
the same to other programs, as far as a schema can.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Annotated, Literal

from s2dnas_deploy.bundle.exits import ExitRule
from s2dnas_deploy.bundle.preprocessing import MOST_NUMBERS, Preprocessing
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Between, Length, Matching, Name, Printable, Share
from s2dnas_deploy.files.document import Form, Head, check_record
from s2dnas_deploy.quoting import shown

FORMAT = "s2dnas-bundle"
VERSION = 1
IMAGE = "image"
LABEL, CONFIDENCE, PROBABILITIES = ANSWERS = ("label", "confidence", "probabilities")
MAX_STAGES = 16  # those of a plan, which is not imported: a device would load all that plans need
_MOST_MACS = 2**62
_Images = Annotated[int, Between(1, 2**53)]
_Drop = Annotated[float, Between(-1, 1)]
_PerExit = Annotated[tuple[Share, ...], Length(1, MAX_STAGES)]
_Facts = Annotated[Mapping[Name, Annotated[str, Printable()]], Length(0, 1000)]
_Features = Annotated[tuple["TensorSpec", ...], Length(0, 10_000)]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor between stages: name, element type, and shape without the batch."""

    name: Name
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
    """One stage: its graph, what it reads and gives, its exit, and its MACs for one image."""

    graph: GraphFile
    reads_image: bool
    reads: _Features
    gives: _Features
    exit: ExitRule
    macs: Annotated[int, Between(0, _MOST_MACS)]

    def __post_init__(self) -> None:
        check_record(self, BundleError)
        double = _double(spec.name for spec in self.reads)
        _check(not double, "what a stage reads", double, "no feature twice")


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
    gathers: bool
    preprocessing: Preprocessing
    labels: Annotated[tuple[Name, ...], Length(1, 100_000)]
    stages: Annotated[tuple[StageEntry, ...], Length(1, MAX_STAGES)]
    single_file: GraphFile | None = None
    expected: Expected | None = None
    promise: Promise | None = None
    tools: _Facts = field(default_factory=dict)
    sources: _Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_record(self, BundleError)
        double = _double(self.labels)
        _check(not double, "labels", double, "no name twice (say 'crane, bird' and 'crane, machine')")
        double = _double(graph.file for graph in self.graphs)
        _check(not double, "the graphs' files", double, "a file for each stage")
        macs = sum(self.macs)
        _check(1 <= macs <= _MOST_MACS, "MACs of all stages", macs, f"1 to {_MOST_MACS:,}")
        self._check_exits()
        self._check_features()
        if self.expected is not None:
            counts = {len(self.expected.exit_accuracy), len(self.expected.exit_share)}
            _check(counts == {len(self.stages)}, "what is expected", counts, f"{len(self.stages)} exits")

    def _check_exits(self) -> None:
        *early, last = (stage.exit for stage in self.stages)
        _check(last.threshold is None, "the last exit's threshold", last.threshold, "none: it takes all")
        for k, rule in enumerate(early):
            _check(rule.threshold is not None, f"the threshold of exit {k}", None, "a number")

    def _check_features(self) -> None:
        """Features flow forward only, both ends agree on what they are, and there is memory for them."""
        given: dict[str, TensorSpec] = {}
        rows = [rows_of(k) for k in range(len(self.stages))]
        for k, stage in enumerate(self.stages):
            for spec in stage.reads:
                name = shown(spec.name)
                if spec.name not in given:
                    raise BundleError(f"stage {k} reads {name}, which no earlier stage gives")
                _check(spec == given[spec.name], f"{name} read by stage {k}", spec, given[spec.name])
            for spec in stage.gives:
                taken = spec.name in given or spec.name in (IMAGE, *ANSWERS, *rows)
                _check(not taken, f"a feature of stage {k}", spec.name, "a name that is not taken")
                given[spec.name] = spec
        numbers = sum(prod(spec.shape) for spec in given.values())
        _check(numbers <= MOST_NUMBERS, "numbers in all features", numbers, f"at most {MOST_NUMBERS:,}")

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

    def row_inputs(self, stage: int) -> tuple[str, ...]:
        """The inputs by which a stage that gathers is told which rows of what it reads go on."""
        if not self.gathers or stage == 0:
            return ()
        entry = self.stages[stage]
        given = [{spec.name for spec in earlier.gives} for earlier in self.stages[:stage]]
        read = {spec.name for spec in entry.reads}
        sources = [j for j, names in enumerate(given) if names & read or (j == 0 and entry.reads_image)]
        return tuple(rows_of(j) for j in sources)

    @property
    def macs(self) -> tuple[int, ...]:
        """MACs of each stage for one image."""
        return tuple(stage.macs for stage in self.stages)

    def to_json(self) -> str:
        """The manifest as a JSON document."""
        content = {key: value for key, value in asdict(self).items() if key not in ("tools", "sources")}
        content["preprocessing"] = self.preprocessing.to_document()
        about = {"tools": dict(self.tools), "sources": dict(self.sources)}
        return json.dumps({"format": FORMAT, "version": VERSION, **content, **about}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """Read what `to_json` wrote; a document of another form or version is a `BundleError`."""
        return _FORM.read(text, "the manifest")


_FORM = Form(
    record=Manifest,
    error=BundleError,
    head=Head(format=FORMAT, version=VERSION, writer="s2dnas-export"),
    complete=True,
)


def rows_of(stage: int) -> str:
    """The input that says which rows go on, of the features that `stage` gave; of the image, 0's."""
    return f"rows_{stage}"


def _double(names: Iterable[str]) -> list[str]:
    """Some of the names that are there more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)[:3]


def _check(holds: bool, name: str, got: object, expected: object) -> None:
    if not holds:
        raise BundleError(f"{name}: expected {expected}, got {shown(got)}")
