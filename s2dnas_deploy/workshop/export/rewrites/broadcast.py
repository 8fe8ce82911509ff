"""Leave to an operation what it does by itself: a number per channel meets every pixel without being copied.

Place in the flow: `Stage` ──drop──▶ `Stage` that computes the same. Gates are often written as
`x * gate.expand_as(x)`. Products and sums broadcast by themselves, so with g [C, 1, 1] and x [C, H, W]

    x ∘ expand(g) = x ∘ g

and the copy of g, as large as x, is neither written nor read.
"""

from collections.abc import Mapping
from dataclasses import replace

from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.stages import Stage


def drop_expansions(stage: Stage) -> Stage:
    """The same stage without expansions that only operations with a whole tensor read."""
    shapes = stage.shapes
    expanded = {node.name: node.inputs[0] for node in stage.nodes if node.operator == "expand"}
    needed = {feature.node for feature in stage.gives} | {stage.logits}
    for node in stage.nodes:
        if not _broadcasts(node, expanded, shapes):
            needed.update(node.inputs)
    dropped = {name: source for name, source in expanded.items() if name not in needed}
    return replace(
        stage,
        nodes=tuple(
            replace(node, inputs=tuple(dropped.get(name, name) for name in node.inputs))
            for node in stage.nodes
            if node.name not in dropped
        ),
    )


def _broadcasts(node: Node, expanded: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether one of two inputs is whole and no expansion, so that the other may be one to be dropped."""
    return node.operator == "binary" and any(
        name not in expanded and shapes.get(name) == node.shape for name in node.inputs
    )
