"""A bundle in the making: what decides its content, and the value that every step of an export passes on.

Place in the flow: `Export` ──written──▶ `Draft` ──simplified, quantised, …──▶ `Draft` ──contents_of──▶ files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from onnx import ModelProto

from s2dnas_deploy.bundle.entries import Expected
from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.decide.flow import Choices, Flow
from s2dnas_deploy.decide.flow import chain as chain_flow
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.export.batches import at_once_in
from s2dnas_deploy.workshop.export.graphs.single_file import check_nestable
from s2dnas_deploy.workshop.export.graphs.stage_graph import StageGraph
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.samples import ExportImages, Images, Normalised, made_up
from s2dnas_deploy.workshop.export.staged import StagedNetwork


@dataclass(frozen=True, kw_only=True)
class Export:
    """All that decides a bundle's content: what is exported, how, judged on what, and where it came from."""

    network: StagedNetwork
    options: ExportOptions = field(default_factory=ExportOptions)
    images: ExportImages | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options.precision == "int8" and self.images is None:
            raise OptionError("--int8 measures the range of every feature on real images: give --data")
        broken = [name for name in self.network.class_names if len(name.splitlines()) != 1]
        if broken:
            raise OptionError(f"class name {broken[0]!r}: expected some text on one line")
        if self.options.single_file:
            check_nestable(self.flow)

    @cached_property
    def exits(self) -> tuple[Exit | None, ...]:
        """The confidence of each stage that answers."""
        answering = [link.answers for link in self.network.links]
        exits = iter(self.options.exits(sum(answering)))
        return tuple(next(exits) if answers else None for answers in answering)

    @cached_property
    def flow(self) -> Flow:
        """Where samples go: as the network says, or one stage after the other, each with its exit."""
        links, own = self.network.links, self.network.flow
        if own is None:
            stops = [(link.name, link.read_names, tuple(link.gives)) for link in links]
            return chain_flow(stops, self.options.early(len(links)))
        if not self.options.thresholds:
            return own
        if not own.is_chain:
            raise OptionError(
                "--threshold is for a chain of stages with an exit each; the routes of this network are "
                "none, and say themselves at which numbers samples go where. Of nested widths, --in-turn "
                "makes a chain"
            )
        return own.with_thresholds(self.options.early(len(links)))

    @cached_property
    def shown(self) -> Images:
        """What the graphs are compared on: the validation images, or made-up ones."""
        return made_up(self.network.preprocessing) if self.images is None else self.images.validation

    def taken(self, images: Images) -> Images:
        """Images as the graphs take them: bytes as they are, or the numbers that the network reads."""
        if not self.options.float_input:
            return images
        return Normalised(images=images, preprocessing=self.network.preprocessing)


@dataclass(frozen=True, kw_only=True)
class StageDraft:
    """A stage in the making: its graph in torch and in ONNX, and what is to be said of it."""

    graph: StageGraph
    model: ModelProto
    remark: str = ""

    @property
    def file(self) -> str:
        """What its file is called."""
        return f"{self.graph.link.name}.onnx"

    @cached_property
    def content(self) -> bytes:
        """Its file."""
        content: bytes = self.model.SerializeToString()
        return content


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A bundle in the making. `plain` is the same in float32, where that was at hand."""

    export: Export
    stages: tuple[StageDraft, ...]
    single_file: ModelProto | None = None
    plain: "Draft | None" = None
    report: tuple[str, ...] = ()
    expected: Expected | None = None
    settings: Mapping[str, Choices] = field(default_factory=dict)
    """What callers may choose, and what it costs."""

    @property
    def graphs(self) -> list[StageGraph]:
        """The stages in torch, from pixels to answers."""
        return [stage.graph for stage in self.stages]

    @property
    def models(self) -> list[ModelProto]:
        """The stages in ONNX."""
        return [stage.model for stage in self.stages]

    def at_once(self, most: int) -> int:
        """How many images may be taken through all stages at a time."""
        return at_once_in(self.models, most)

    @property
    def files(self) -> list[bytes]:
        """The stages' files."""
        return [stage.content for stage in self.stages]
