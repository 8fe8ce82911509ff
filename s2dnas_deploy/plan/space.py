"""The plan space: what can be decided about a network, its channel groups, its layers, its possible exits.

`workshop/network/groups` derives one from a channel graph. It knows no torch and no weights.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

OUTPUT = "output"  # the exit that reads what the static network's own classifier reads


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that appear together: `channels` of them, owned in portions of `granule`, in `nodes`."""

    name: str
    channels: int
    granule: int
    nodes: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node that reads across channels: which groups it reads (by its input node) and which it makes."""

    name: str
    input: str
    reads: frozenset[str]
    reads_image: bool
    makes: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class PlanSpace:
    """What can be decided about one network: its groups, its layers, and the nodes an exit may read.

    `parents` is the network without its classifier, as a graph of names, in an order in which it can
    run; `exit_reads` are the nodes that the classifier reads; `sums` are those that add two nodes up.
    """

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    parents: Mapping[str, tuple[str, ...]]
    exit_reads: frozenset[str]
    sums: frozenset[str]

    @cached_property
    def group(self) -> Mapping[str, ChannelGroup]:
        """Each group under its name."""
        return {group.name: group for group in self.groups}

    @cached_property
    def layer(self) -> Mapping[str, Layer]:
        """Each layer under its name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def held(self) -> Mapping[str, tuple[str, ...]]:
        """The groups in each node that holds any."""
        found: dict[str, list[str]] = {}
        for group in self.groups:
            for name in group.nodes:
                found.setdefault(name, []).append(group.name)
        return {name: tuple(groups) for name, groups in found.items()}

    @cached_property
    def exits(self) -> tuple[str, ...]:
        """Where a stage may exit: any node that holds features, or the network's own output."""
        featured = frozenset().union(*(group.nodes for group in self.groups))
        return (*(name for name in self.parents if name in featured), OUTPUT)

    def covered_by(self, exit_name: str) -> frozenset[str]:
        """The nodes that must run before an exit can be read, its own included."""
        if exit_name == OUTPUT:
            return frozenset(self.parents)
        covered = {exit_name}
        for name in reversed(tuple(self.parents)):
            if name in covered:
                covered.update(self.parents[name])
        return frozenset(covered)

    def depths(self, exits: Sequence[str]) -> dict[str, int]:
        """The first stage that runs each node, given where the stages exit."""
        depths: dict[str, int] = {}
        for stage, exit_name in enumerate(exits):
            for name in self.covered_by(exit_name):
                depths.setdefault(name, stage)
        return depths


def nearest(name: str, known: Sequence[str]) -> str:
    """What a name may have been meant to be, or some that there are."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    some = list(known)[:: max(len(known) // 8, 1)]
    return f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(some)}, …"
