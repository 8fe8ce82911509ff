"""What a manifest is made of: graph files, tensors, stages, what is expected of a bundle and promised."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.bundle.preprocessing import MOST_NUMBERS
from s2dnas_deploy.decide.flow import ANSWER, ANSWERS, Route
from s2dnas_deploy.decide.rules import CONFIDENCE, Largest, Threshold
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Between, Length, Matching, Name, Printable, Share
from s2dnas_deploy.files.document import check_record
from s2dnas_deploy.quoting import shown

FORMAT = "s2dnas-bundle"
MAX_STAGES = 16  # those of a plan, which is not imported: a device would load all that plans need
MOST_MACS = 2**62
_Images = Annotated[int, Between(1, 2**53)]
_Drop = Annotated[float, Between(-1, 1)]
Facts = Annotated[Mapping[Name, Annotated[str, Printable()]], Length(0, 1000)]
Macs = Annotated[int, Between(0, MOST_MACS)]
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
            double = doubles(names)
            expect(not double, f"what stage {shown(self.name)} {what}", double, "no tensor twice")
        expect(
            self.outputs.keys() <= set(self.gives), "outputs", sorted(self.outputs), "tensors that it gives"
        )
        picked = sorted(name for names in self.rows.values() for name in names)
        expect(
            not self.rows or picked == sorted(self.reads), "rows", picked, "every tensor that it reads, once"
        )
        double = doubles([*self.inputs, *self.outputs_of.values()])
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
        if isinstance(rule, Largest):
            return f"{when}: {', '.join(ways)}"
        return f"{when}: {', else '.join(ways)}" if ways != (ANSWER,) else "always: answer"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the bundle reached on labelled images when it was made, one number per stage.

    `exit_accuracy` is each exit's on the images that come to it if nobody exits early, so in a chain on all;
    None where none comes, or a stage does not answer. `exit_share` is how many images a stage answers, with
    the manifest's thresholds and settings; `cascade_accuracy` and `mean_macs` what comes of that, for one
    image.
    """

    images: _Images
    exit_accuracy: Annotated[tuple[Share | None, ...], Length(1, MAX_STAGES)]
    exit_share: Annotated[tuple[Share, ...], Length(1, MAX_STAGES)]
    cascade_accuracy: Share
    mean_macs: Annotated[float, Between(0, MOST_MACS)]

    def __post_init__(self) -> None:
        check_record(self, BundleError)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the thresholds were chosen for: in words, and as numbers for other programs.

    `max_drop` and `probability` are None where nothing was proven, as for a budget; `images` were looked at,
    and `observed_drop` is how far below what it is compared with the cascade was on them. `other_answers` is
    the share of them that the last exit answers otherwise, by which a promise can be watched without labels.
    """

    statement: Annotated[str, Length(1, 10_000), Printable()]
    images: _Images
    max_drop: _Drop | None
    probability: Share | None
    observed_drop: _Drop
    other_answers: Share | None = None

    def __post_init__(self) -> None:
        check_record(self, BundleError)


def percent(share: float | None) -> str:
    """For a person to read; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.2f}%"


def doubles(names: Iterable[str]) -> list[str]:
    """Some of the names that are there more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)[:3]


def expect(holds: bool, name: str, got: object, expected: object) -> None:
    """A `BundleError` that says what was expected, where something else is."""
    if not holds:
        raise BundleError(f"{name}: expected {expected}, got {shown(got)}")
