"""The manifest: all that a device must know about a bundle, as one JSON document with a version.

Part of the bridge: export writes it, the device reads it. Everything is checked when it is made, so that
whoever holds a `Manifest` may rely on it: each feature that a stage reads is given by an earlier one, with
the same type and shape; every name of a file is a plain name within the folder. `manifest.schema.json` says
the same to other programs, as far as a schema can.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from s2dnas_deploy.bundle.exits import ExitRule
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import BundleError, CheckpointError

FORMAT = "s2dnas-bundle"
VERSION = 1
IMAGE = "image"
LABEL, CONFIDENCE, PROBABILITIES = ANSWERS = ("label", "confidence", "probabilities")
PRECISIONS = ("float32", "int8", "float16")
_FEATURE_TYPES = ("float32", "float16", "uint8", "int8")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.onnx")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor between stages: name, element type, and shape without the batch."""

    name: str
    type: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(bool(self.name), "a feature's name", self.name, "some text")
        _check(
            self.type in _FEATURE_TYPES, f"the type of {self.name}", self.type, " or ".join(_FEATURE_TYPES)
        )
        _check(min(self.shape, default=1) >= 1, f"the shape of {self.name}", self.shape, "sizes of 1 or more")


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """An ONNX file of the bundle, and how to tell that it is the one that was exported."""

    file: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        _check(
            _FILE.fullmatch(self.file) is not None,
            "a graph's file",
            self.file,
            "a plain name ending in .onnx",
        )
        _check(_SHA256.fullmatch(self.sha256) is not None, "a sha256", self.sha256, "64 hexadecimal digits")
        _check(self.size_bytes > 0, f"the size of {self.file}", self.size_bytes, "above 0")


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """One stage: its graph, what it reads and gives, its exit, and its MACs for one image."""

    graph: GraphFile
    reads_image: bool
    reads: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]
    exit: ExitRule
    macs: int


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the bundle reached on labelled images when it was made, one number per exit.

    `exit_accuracy` is each exit's on all images; `exit_share` how many images leave where, with the
    manifest's thresholds; `cascade_accuracy` and `mean_macs` what comes of that, for one image.
    """

    images: int
    exit_accuracy: tuple[float, ...]
    exit_share: tuple[float, ...]
    cascade_accuracy: float
    mean_macs: float


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the thresholds were chosen for: in words, and as numbers for other programs.

    `max_drop` and `probability` are None where nothing was proven, as for a budget; `images` were looked at,
    and `observed_drop` is how far below what it is compared with the cascade was on them.
    """

    statement: str
    images: int
    max_drop: float | None
    probability: float | None
    observed_drop: float

    def __post_init__(self) -> None:
        _check(bool(self.statement), "what is promised", self.statement, "some text")
        _check(self.images >= 1, "images of the promise", self.images, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's manifest. `tools` and `sources` say what it was made with and from."""

    name: str
    precision: str
    image_type: str
    gathers: bool
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    stages: tuple[StageEntry, ...]
    single_file: GraphFile | None = None
    expected: Expected | None = None
    promise: Promise | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.precision in PRECISIONS, "the precision", self.precision, " or ".join(PRECISIONS))
        _check(self.image_type in ("uint8", "float32"), "image type", self.image_type, "uint8 or float32")
        _check(len(self.labels) >= 1, "labels", len(self.labels), "1 or more")
        twice = sorted(label for label, count in Counter(self.labels).items() if count > 1)
        _check(not twice, "labels", twice, "no name twice (say 'crane, bird' and 'crane, machine')")
        _check(len(self.stages) >= 1, "stages", len(self.stages), "1 or more")
        files = [stage.graph.file for stage in self.stages]
        _check(len(set(files)) == len(files), "the graphs' files", files, "a file for each stage")
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
        """Features flow forward only, and both ends agree on what they are."""
        given: dict[str, TensorSpec] = {}
        rows = [rows_of(k) for k in range(len(self.stages))]
        for k, stage in enumerate(self.stages):
            for spec in stage.reads:
                if spec.name not in given:
                    raise BundleError(f"stage {k} reads {spec.name!r}, which no earlier stage gives")
                _check(spec == given[spec.name], f"{spec.name!r} read by stage {k}", spec, given[spec.name])
            for spec in stage.gives:
                taken = spec.name in given or spec.name in (IMAGE, *ANSWERS, *rows)
                _check(not taken, f"a feature of stage {k}", spec.name, "a name that is not taken")
                given[spec.name] = spec

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
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"the manifest is not JSON that can be read: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise BundleError(f'the manifest is not one of a bundle: it has no "format": "{FORMAT}"')
        version = document.get("version")
        _check(version == VERSION, "the manifest's version", version, f"{VERSION}, which this release reads")
        try:
            return _manifest(document)
        except BundleError:
            raise
        except CheckpointError as error:
            raise BundleError(f"the manifest's preprocessing: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise BundleError(f"the manifest is malformed: {error!r}") from error


def rows_of(stage: int) -> str:
    """The input that says which rows go on, of the features that `stage` gave; of the image, 0's."""
    return f"rows_{stage}"


def _manifest(document: Mapping[str, Any]) -> Manifest:
    expected, single, promise = (document[key] for key in ("expected", "single_file", "promise"))
    return Manifest(
        name=_text(document["name"]),
        precision=_text(document["precision"]),
        image_type=_text(document["image_type"]),
        gathers=_flag(document["gathers"]),
        preprocessing=Preprocessing.from_document(document["preprocessing"]),
        labels=tuple(_text(label) for label in document["labels"]),
        stages=tuple(_stage(entry) for entry in document["stages"]),
        single_file=None if single is None else _graph_file(single),
        expected=None if expected is None else _expected(expected),
        promise=None if promise is None else _promise(promise),
        tools={_text(key): _text(value) for key, value in document["tools"].items()},
        sources={_text(key): _text(value) for key, value in document["sources"].items()},
    )


def _stage(entry: Mapping[str, Any]) -> StageEntry:
    rule = entry["exit"]
    threshold = rule["threshold"]
    return StageEntry(
        graph=_graph_file(entry["graph"]),
        reads_image=_flag(entry["reads_image"]),
        reads=tuple(_tensor(spec) for spec in entry["reads"]),
        gives=tuple(_tensor(spec) for spec in entry["gives"]),
        exit=ExitRule(
            rule=rule["rule"],
            temperature=_number(rule["temperature"]),
            threshold=None if threshold is None else _number(threshold),
            calibrated=_flag(rule["calibrated"]),
        ),
        macs=_whole(entry["macs"]),
    )


def _graph_file(entry: Mapping[str, Any]) -> GraphFile:
    return GraphFile(
        file=_text(entry["file"]), sha256=_text(entry["sha256"]), size_bytes=_whole(entry["size_bytes"])
    )


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(_whole(size) for size in entry["shape"])
    return TensorSpec(name=_text(entry["name"]), type=_text(entry["type"]), shape=shape)


def _expected(entry: Mapping[str, Any]) -> Expected:
    return Expected(
        images=_whole(entry["images"]),
        exit_accuracy=tuple(_number(value) for value in entry["exit_accuracy"]),
        exit_share=tuple(_number(value) for value in entry["exit_share"]),
        cascade_accuracy=_number(entry["cascade_accuracy"]),
        mean_macs=_number(entry["mean_macs"]),
    )


def _promise(entry: Mapping[str, Any]) -> Promise:
    drop, probability = entry["max_drop"], entry["probability"]
    return Promise(
        statement=_text(entry["statement"]),
        images=_whole(entry["images"]),
        max_drop=None if drop is None else _number(drop),
        probability=None if probability is None else _number(probability),
        observed_drop=_number(entry["observed_drop"]),
    )


# --- plain JSON values, which must be of the kind they should be -------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {value!r}")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)


def _check(holds: bool, name: str, got: object, expected: object) -> None:
    if not holds:
        raise BundleError(f"{name}: expected {expected}, got {got!r}")
