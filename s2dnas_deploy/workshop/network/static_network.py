"""The static network as this package holds it: channel graph and weights, and how it computes.

Place in the flow: the user's `nn.Module` ──read──▶ `StaticNetwork`; nothing after this sees user code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from s2dnas_deploy.workshop.network import operators
from s2dnas_deploy.workshop.network.graph import INPUT, ChannelGraph, Node
from s2dnas_deploy.workshop.network.groups import Divisible


@dataclass(frozen=True, kw_only=True)
class StaticNetwork:
    """A channel graph with its atoms and groups, and the weights under the names the graph uses."""

    divisible: Divisible
    weights: Mapping[str, Tensor]

    @property
    def graph(self) -> ChannelGraph:
        """The channel graph."""
        return self.divisible.graph


def run_graph(graph: ChannelGraph, weights: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """The network's logits [N, classes] for images [N, C, H, W], in evaluation mode."""
    return values_of(graph, weights, image)[graph.output]


def values_of(graph: ChannelGraph, weights: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """What every node gives for images [N, C, H, W], in evaluation mode."""
    values = {INPUT: image}
    for node in graph.nodes[1:]:
        values[node.name] = run_node(node, values, weights)
    return values


def last_reads(nodes: Iterable[Node], kept: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """By each node's name: which values nobody reads after it. Those `kept` are never among them.

    Where no gradients are wanted, these are all that a large batch takes memory for.
    """
    last: dict[str, str] = {}
    for node in nodes:
        last.update(dict.fromkeys((*node.inputs, node.name), node.name))
    freed: dict[str, tuple[str, ...]] = {}
    for name in last.keys() - set(kept):
        freed[last[name]] = (*freed.get(last[name], ()), name)
    return freed


def run_node(
    node: Node, values: Mapping[str, Tensor], weights: Mapping[str, Tensor], training: bool = False
) -> Tensor:
    """Compute one node from the values of its inputs."""
    own = {role: weights[key] for role, key in node.weights.items()}
    return operators.run(node, [values[name] for name in node.inputs], own, training)
