"""The channel graph: a static network as a flat list of operations on channels, free of user code.

Place in the flow: written by `trace`, read by everything after it, saved as JSON in `model.pt`. A tensor
is named after the node that computes it; its shape has no batch dimension, so `shape[0]` is always the
number of channels. Holds no weights: a node names its tensors, and they travel beside the graph.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files.bounds import Between, Length
from s2dnas_deploy.files.document import Form, check_record
from s2dnas_deploy.quoting import shown

INPUT = "input"


_MOST_CHANNELS, _MOST_IN_ALL = 2**20, 2**22
_Name = Annotated[str, Length(1, 1000)]
_Size = Annotated[int, Between(1, 2**30)]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation: `name = operator(inputs, attributes, weights)`, of shape [C, *space]."""

    name: _Name
    operator: _Name
    inputs: tuple[_Name, ...]
    attributes: Mapping[str, Any]
    weights: Mapping[str, _Name]
    shape: Annotated[tuple[_Size, ...], Length(1, 8)]
    source: str = ""

    @property
    def channels(self) -> int:
        """How many channels the node's tensor has."""
        return self.shape[0]


@dataclass(frozen=True, kw_only=True)
class ChannelGraph:
    """Nodes in an order in which they can run; the first is the image, `output` gives the logits."""

    nodes: tuple[Node, ...]
    output: _Name

    def __post_init__(self) -> None:
        """Refuse a graph that could not run: the order and the names are what everyone relies on."""
        check_record(self, CheckpointError)
        seen: set[str] = set()
        for node in self.nodes:
            check_record(node, CheckpointError)
            missing = [name for name in node.inputs if name not in seen]
            if missing:
                raise CheckpointError(
                    f"node {shown(node.name)} reads {shown(missing)}, which no earlier node computes"
                )
            if node.name in seen:
                raise CheckpointError(f"two nodes are named {shown(node.name)}")
            seen.add(node.name)
        if not self.nodes or self.nodes[0].operator != INPUT:
            raise CheckpointError("a channel graph starts with its input node")
        if self.output not in seen:
            raise CheckpointError(f"the graph's output {shown(self.output)} is no node of it")
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Of each channel something is kept, whether or not a tensor is ever made."""
        widest = max(self.nodes, key=lambda node: node.channels)
        if widest.channels > _MOST_CHANNELS or sum(node.channels for node in self.nodes) > _MOST_IN_ALL:
            raise CheckpointError(
                f"expected at most {_MOST_CHANNELS:,} channels of a node and {_MOST_IN_ALL:,} in all, got "
                f"{widest.channels:,} of {shown(widest.name)}"
            )

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Each node under its name."""
        return {node.name: node for node in self.nodes}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, [C, H, W]."""
        return self.nodes[0].shape

    @property
    def classes(self) -> int:
        """How many logits the network gives."""
        return self.by_name[self.output].channels

    def ancestors(self, names: tuple[str, ...]) -> frozenset[str]:
        """The nodes that must run before those named are known, themselves included."""
        wanted = set(names)
        for node in reversed(self.nodes):
            if node.name in wanted:
                wanted.update(node.inputs)
        return frozenset(wanted)

    def computes_like(self, other: "ChannelGraph") -> bool:
        """Whether the two are the same network, wherever their code lies."""
        return self._without_sources().to_json() == other._without_sources().to_json()

    def _without_sources(self) -> "ChannelGraph":
        nodes = tuple(replace(node, source="") for node in self.nodes)
        return ChannelGraph(nodes=nodes, output=self.output)

    def to_json(self) -> str:
        """The graph as a JSON document."""
        nodes = [asdict(_plain(node)) for node in self.nodes]
        return json.dumps({"output": self.output, "nodes": nodes})

    @staticmethod
    def from_json(text: str) -> "ChannelGraph":
        """Read what `to_json` wrote; a document of another form is a `CheckpointError`."""
        return _FORM.read(text, "the channel graph")


# A padding may be infinite; a line of code may stand in a file whose name is in any encoding.
_FORM = Form(record=ChannelGraph, error=CheckpointError, infinite=True, odd_text=True)


def _plain(node: Node) -> Node:
    """The node with plain dictionaries, which `asdict` can copy."""
    return Node(**{**vars(node), "attributes": dict(node.attributes), "weights": dict(node.weights)})
