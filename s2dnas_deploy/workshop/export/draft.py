"""A bundle in the making: what decides its content, and the value that every step of an export passes on.

Place in the flow: `Export` ──written──▶ `Draft` ──simplified, quantised, …──▶ `Draft` ──contents_of──▶ files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from onnx import ModelProto

from s2dnas_deploy.bundle.entries import Expected
from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.decide.flow import Flow
from s2dnas_deploy.decide.flow import chain as chain_flow
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.sessions.every_stage import Array
from s2dnas_deploy.workshop.export.chain import Chain
from s2dnas_deploy.workshop.export.graphs.stage_graph import StageGraph
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.samples import ExportImages, Pixels, made_up, normalised


@dataclass(frozen=True, kw_only=True)
class Export:
    """All that decides a bundle's content: what is exported, how, judged on what, and where it came from."""

    chain: Chain
    options: ExportOptions = field(default_factory=ExportOptions)
    images: ExportImages | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options.precision == "int8" and self.images is None:
            raise OptionError("--int8 measures the range of every feature on real images: give --data")
        broken = [name for name in self.chain.class_names if len(name.splitlines()) != 1]
        if broken:
            raise OptionError(f"class name {broken[0]!r}: expected some text on one line")

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The confidence of each exit."""
        return self.options.exits(len(self.chain.links))

    @cached_property
    def flow(self) -> Flow:
        """One stage after the other, each with its exit."""
        links = self.chain.links
        return chain_flow(
            [
                (f"stage_{k}", link.read_names, [feature.name for feature in link.gives])
                for k, link in enumerate(links)
            ],
            self.options.early(len(links)),
        )

    @cached_property
    def shown(self) -> Pixels:
        """What the graphs are compared on: the validation images, or made-up ones."""
        return made_up(self.chain.preprocessing) if self.images is None else self.images.validation

    def taken(self, images: Pixels) -> Array:
        """Images as the graphs take them: bytes as they are, or the numbers that the network reads."""
        return normalised(images, self.chain.preprocessing) if self.options.float_input else images


@dataclass(frozen=True, kw_only=True)
class StageDraft:
    """A stage in the making: its graph in torch and in ONNX, and what is to be said of it."""

    name: str
    graph: StageGraph
    model: ModelProto
    remark: str = ""

    @property
    def file(self) -> str:
        """What its file is called."""
        return f"{self.name}.onnx"

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

    @property
    def models(self) -> list[ModelProto]:
        """The stages in ONNX."""
        return [stage.model for stage in self.stages]

    @property
    def files(self) -> list[bytes]:
        """The stages' files."""
        return [stage.content for stage in self.stages]
