"""Add nothing where what is added is zero.

Place in the flow: `Stage` ──drop──▶ `Stage` that computes the same. Of a shortcut that adds channels of zeros
a stage may own only such channels. It would make a tensor of zeros, as large as what it is added to:

    x + 0 = x
"""

from collections.abc import Set
from dataclasses import replace

from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.operators import is_sum
from s2dnas_deploy.workshop.network.stages import Stage


def drop_zeros(stage: Stage) -> Stage:
    """The same stage without additions of zeros, and without the zeros that nothing else reads."""
    zeros = {n.name for n in stage.nodes if n.operator == "fill" and n.attributes["value"] == 0}
    nodes = tuple(_without(node, zeros) for node in stage.nodes)
    needed = {feature.node for feature in stage.gives} | {name for node in nodes for name in node.inputs}
    return replace(stage, nodes=tuple(n for n in nodes if n.name not in zeros or n.name in needed))


def _without(node: Node, zeros: Set[str]) -> Node:
    terms = tuple(name for name in node.inputs if name not in zeros)
    if not is_sum(node) or len(terms) != 1:
        return node
    return replace(node, operator="identity", inputs=terms, attributes={})
