"""Do once what would be done twice: where a stage leaves a residual block out, two activations meet.

Place in the flow: `Stage` ──drop──▶ `Stage` that computes the same, because for these functions

    f(f(x)) = f(x)
"""

from dataclasses import replace

from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.stages import Stage

_DONE_WHEN_DONE = frozenset({"relu", "relu6", "hardtanh", "clamp", "abs"})


def drop_repeats(stage: Stage) -> Stage:
    """The same stage without functions of what they gave themselves."""
    made_by: dict[str, Node] = {}  # past nodes that do nothing
    nodes: list[Node] = []
    for node in stage.nodes:
        before = made_by.get(node.inputs[0], node)
        does_nothing = node.operator == "identity" or _repeats(node, before)
        nodes.append(replace(node, operator="identity", attributes={}) if does_nothing else node)
        made_by[node.name] = before if does_nothing else node
    return replace(stage, nodes=tuple(nodes))


def _repeats(node: Node, before: Node) -> bool:
    same = node.operator == before.operator == "pointwise" and node.attributes == before.attributes
    return node is not before and same and node.attributes["function"] in _DONE_WHEN_DONE
