"""Joints: the nodes of a network that all information passes, where a stage can end cleanly.

Place in the flow: `PlanSpace` ──▶ the places that `SearchSpace` offers as exits.
"""

from s2dnas_deploy.plan import PlanSpace


def joints(plans: PlanSpace) -> tuple[str, ...]:
    """Nodes that all information passes, the last before each layer: where a stage can end cleanly.

    In an order in which nodes can run, node i is such a joint if no edge leads from before it to after it.
    """
    names = list(plans.parents)
    position = {name: i for i, name in enumerate(names)}
    reach = list(range(len(names)))
    for name, parents in plans.parents.items():
        for parent in parents:
            reach[position[parent]] = max(reach[position[parent]], position[name])
    for name in plans.exit_reads:
        reach[position[name]] = len(names)
    featured = frozenset().union(*(group.nodes for group in plans.groups))
    layers = {layer.name for layer in plans.layers}
    found: list[str] = []
    furthest = 0
    for i, name in enumerate(names):
        if furthest <= i and name in featured:
            if found and not layers & set(names[position[found[-1]] + 1 : i + 1]):
                found.pop()  # nothing but element-wise nodes between: the later one is the better end
            found.append(name)
        furthest = max(furthest, reach[i])
    # Past the last layer an exit would read what the output's own reads.
    last = max(position[name] for name in layers)
    return tuple(name for name in found if position[name] < last)
