"""Channel groups: which channels must be divided alike, and so what a plan has to decide.

Place in the flow: channel graph ──groups──▶ plan space. Every channel of every tensor gets the name of
the *atom* it belongs to: a mixing layer makes new atoms, all else carries them on, and an operation that
brings two together (a residual add, a grouped convolution) makes them one. Atoms that occur in the same
tensors form a channel group. Channels that reach the network's output are the classes: the nodes that
hold them are the *classifier*, which every exit has for itself and no plan divides.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import UnsupportedNetworkError
from s2dnas_deploy.plan import ChannelGroup, Layer, PlanSpace
from s2dnas_deploy.workshop.network.graph import INPUT, ChannelGraph, Node
from s2dnas_deploy.workshop.network.operators import OPERATORS, is_sum

Indices = npt.NDArray[np.int64]
Order = Mapping[str, Indices]
"""By group, its channels in the order in which stages take them, each by its place in the network."""


@dataclass(frozen=True, kw_only=True)
class Divisible:
    """A channel graph with its atoms: everything that can be said before a plan is chosen.

    `atoms[node][p]` is the atom of channel p. `group_atoms[group]` lists a group's atoms in the order in
    which stages take them. `classifier` are the nodes that hold the classes.
    """

    graph: ChannelGraph
    atoms: Mapping[str, Indices]
    group_atoms: Mapping[str, Indices]
    classifier: frozenset[str]
    space: PlanSpace

    def in_order(self, order: Order) -> "Divisible":
        """The same network, whose channels the stages take in another order."""
        taken = {name: np.sort(own)[order[name]] for name, own in self.group_atoms.items()}
        return replace(self, group_atoms=taken)

    @property
    def order(self) -> Order:
        """In which order the stages take the channels of each group."""
        return {name: np.argsort(np.argsort(own)) for name, own in self.group_atoms.items()}

    @cached_property
    def body(self) -> tuple[Node, ...]:
        """The nodes that are divided: all but the classifier's."""
        return tuple(node for node in self.graph.nodes if node.name not in self.classifier)

    @cached_property
    def head(self) -> tuple[Node, ...]:
        """The nodes of the classifier, in order."""
        return tuple(node for node in self.graph.nodes if node.name in self.classifier)


def divide_into_groups(graph: ChannelGraph) -> Divisible:
    """Find the atoms, the classifier and the channel groups of a network."""
    atoms = _atoms(graph)
    classifier = _classifier(graph, atoms)
    _refuse_features_in_the_image(graph, atoms)
    members = _members(graph, atoms, classifier)
    if not members:
        raise UnsupportedNetworkError(
            f"nothing is left to divide: {_first_layer(graph)}, and every channel belongs to the classifier "
            "or to the image; expected at least one layer between the two"
        )
    groups = tuple(_group(name, own, atoms, graph) for name, own in members.items())
    return Divisible(
        graph=graph,
        atoms=atoms,
        group_atoms=members,
        classifier=classifier,
        space=_space(graph, atoms, classifier, members, groups),
    )


def _classifier(graph: ChannelGraph, atoms: Mapping[str, Indices]) -> frozenset[str]:
    """The nodes that hold the classes or come after one that does, and all that is tied to them."""
    classes, nodes = set(atoms[graph.output].tolist()), set[str]()
    while True:
        found = {
            node.name
            for node in graph.nodes
            if node.name in nodes or nodes & set(node.inputs) or classes & set(atoms[node.name].tolist())
        }
        if found == nodes:
            break
        nodes = found
        classes.update(*(atoms[name].tolist() for name in nodes))
    if INPUT in nodes:
        raise UnsupportedNetworkError(
            f"the image's own channels are tied to the output {graph.output!r}: there is no classifier\n"
            f"  at {graph.by_name[graph.output].source}"
        )
    return frozenset(nodes)


def _first_layer(graph: ChannelGraph) -> str:
    for node in graph.nodes[1:]:
        if OPERATORS[node.operator].mixes:
            return f"its first layer is {node.name!r} (at {node.source})"
    return "it has no layer that mixes channels"


def _refuse_features_in_the_image(graph: ChannelGraph, atoms: Mapping[str, Indices]) -> None:
    """Features that are added to the image would have to be owned by no one, as the image is."""
    image = set(atoms[INPUT].tolist())
    for node in graph.nodes[1:]:
        if OPERATORS[node.operator].mixes and image & set(atoms[node.name].tolist()):
            raise UnsupportedNetworkError(
                f"layer {node.name!r} makes channels that are combined with the image's own, element by "
                f"element; such channels cannot be divided\n  at {node.source}"
            )


def carried(node: Node, nodes: Mapping[str, Node]) -> Sequence[Indices]:
    """For a carrying node, per input: the input channels that each output channel comes from."""
    carry = OPERATORS[node.operator].carry
    assert carry is not None, f"{node.name} mixes"
    return carry(node, [nodes[name].channels for name in node.inputs])


# --- atoms -----------------------------------------------------------------------------------------------


class _Union:
    """Disjoint sets over whole numbers."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def fresh(self, count: int) -> Indices:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, a: Indices, b: Indices) -> None:
        for first, second in {(int(x), int(y)) for x, y in zip(a, b, strict=True) if x != y}:
            low, high = sorted((self.find(first), self.find(second)))
            self.parent[high] = low

    def roots(self, items: Indices) -> Indices:
        return np.array([self.find(int(item)) for item in items], dtype=np.int64)


def _atoms(graph: ChannelGraph) -> dict[str, Indices]:
    union, atoms = _Union(), dict[str, Indices]()
    for node in graph.nodes:
        mixes = node.operator == INPUT or OPERATORS[node.operator].mixes
        atoms[node.name] = union.fresh(node.channels) if mixes else _carry_atoms(graph, node, atoms, union)
    _tie_shared_weights(graph, atoms, union)
    return {name: union.roots(own) for name, own in atoms.items()}


def _carry_atoms(graph: ChannelGraph, node: Node, atoms: Mapping[str, Indices], union: _Union) -> Indices:
    """Every output channel takes the atom of what it comes from, and makes one of several."""
    result = np.full(node.channels, -1)
    for name, carry in zip(node.inputs, carried(node, graph.by_name), strict=True):
        for column in carry.T:
            here = column >= 0
            own = atoms[name][column[here]]
            known = here & (result >= 0)
            union.join(result[known], own[known[here]])
            new = here & (result < 0)
            result[new] = own[new[here]]
    padded = result < 0
    result[padded] = union.fresh(int(padded.sum()))
    return result


def _tie_shared_weights(graph: ChannelGraph, atoms: Mapping[str, Indices], union: _Union) -> None:
    """A weight that two nodes share can be divided in one way only: their channels are tied.

    One number that serves all channels is not divided, so it ties nothing.
    """
    first_user: dict[str, Node] = {}
    for node in graph.nodes:
        for role, key in node.weights.items():
            other = first_user.setdefault(key, node)
            if other is node or not node.attributes.get("per_channel", True):
                continue
            _tie(other.name, node.name, atoms, union, node)
            if role == "weight" and OPERATORS[node.operator].mixes and OPERATORS[other.operator].mixes:
                _tie(other.inputs[0], node.inputs[0], atoms, union, node)


def _tie(first: str, second: str, atoms: Mapping[str, Indices], union: _Union, user: Node) -> None:
    if len(atoms[first]) != len(atoms[second]):
        raise UnsupportedNetworkError(
            f"node {user.name!r} shares weights with another, but {first!r} has {len(atoms[first])} channels "
            f"and {second!r} has {len(atoms[second])}, so they cannot be divided alike\n  at {user.source}"
        )
    union.join(atoms[first], atoms[second])


# --- groups ----------------------------------------------------------------------------------------------


def _members(
    graph: ChannelGraph, atoms: Mapping[str, Indices], classifier: frozenset[str]
) -> dict[str, Indices]:
    """Groups by name: atoms that occur in the same nodes the same number of times, in order."""
    occurrences: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for node in graph.nodes:
        own, counts = np.unique(atoms[node.name], return_counts=True)
        for atom, count in zip(own.tolist(), counts.tolist(), strict=True):
            occurrences[atom].append((node.name, count))
    image = set(atoms[INPUT].tolist())
    by_signature: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for node in graph.nodes:
        if node.name in classifier:
            continue
        for atom in dict.fromkeys(atoms[node.name].tolist()):
            if atom in occurrences and atom not in image:
                by_signature[tuple(occurrences.pop(atom))].append(atom)
    return _named(by_signature)


def _named(by_signature: Mapping[tuple[tuple[str, int], ...], list[int]]) -> dict[str, Indices]:
    """A group is named after the first node it occurs in; a number tells apart those of the same node."""
    shared: dict[str, int] = defaultdict(int)
    for signature in by_signature:
        shared[signature[0][0]] += 1
    seen: dict[str, int] = defaultdict(int)
    names = {}
    for signature, members in by_signature.items():
        node = signature[0][0]
        name = node if shared[node] == 1 else f"{node}#{seen[node]}"
        seen[node] += 1
        names[name] = np.array(members, dtype=np.int64)
    return names


def _group(name: str, own: Indices, atoms: Mapping[str, Indices], graph: ChannelGraph) -> ChannelGroup:
    nodes = [node.name for node in graph.nodes if own[0] in atoms[node.name]]
    granule = int((atoms[nodes[0]] == own[0]).sum())
    return ChannelGroup(name=name, channels=granule * len(own), granule=granule, nodes=frozenset(nodes))


# --- the space ------------------------------------------------------------------------------------------


def _space(
    graph: ChannelGraph,
    atoms: Mapping[str, Indices],
    classifier: frozenset[str],
    members: Mapping[str, Indices],
    groups: tuple[ChannelGroup, ...],
) -> PlanSpace:
    group_of = {int(atom): name for name, own in members.items() for atom in own}

    def groups_in(node: str) -> frozenset[str]:
        return frozenset(group_of[a] for a in atoms[node].tolist() if a in group_of)

    body = [node for node in graph.nodes if node.name not in classifier]
    layers = tuple(
        Layer(
            name=node.name,
            input=node.inputs[0],
            reads=groups_in(node.inputs[0]),
            reads_image=not groups_in(node.inputs[0]),
            makes=groups_in(node.name),
        )
        for node in body
        if OPERATORS[node.operator].mixes
    )
    reads = {name for node in graph.nodes if node.name in classifier for name in node.inputs} - classifier
    parents = {node.name: node.inputs for node in body}
    return PlanSpace(
        groups=groups,
        layers=layers,
        parents=parents,
        exit_reads=frozenset(reads),
        sums=frozenset(node.name for node in body if is_sum(node)),
    )
