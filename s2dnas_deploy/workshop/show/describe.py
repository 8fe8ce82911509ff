"""Descriptions: a network and its plan as one document of plain values, which programs read as JSON.

Place in the flow: `MultiStageNetwork` or `Model` ──▶ document, which inspect prints, in words or as it is.
A static network is described as what it is, a network of one stage. All counts are exact and for one image;
sizes are in float32. It prints nothing and rounds nothing but shares.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from s2dnas_deploy.plan import OUTPUT, ChannelGroup, Plan, PlanSpace
from s2dnas_deploy.workshop.network.costs import (
    Costs,
    LayerCosts,
    StageCosts,
    feature_bytes,
    stage_costs,
    static_costs,
)
from s2dnas_deploy.workshop.network.groups import Divisible
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.network.stages import Feature

FORMAT = "s2dnas-inspection"
VERSION = 1
STATIC, MULTI_STAGE = "static", "multi-stage"

Document = dict[str, Any]


def describe(network: MultiStageNetwork, *, name: str) -> Document:
    """The static network, the plan, what each stage costs, and how that compares."""
    static, stages = static_costs(network), stage_costs(network)
    divisible, plan = network.division.divisible, network.division.plan
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": STATIC if plan.stages == 1 else MULTI_STAGE,
        "name": name,
        "static": _static(divisible, static),
        "plan": {**json.loads(plan.to_json()), "digest": plan.digest},
        "stages": _stages(stages, plan, divisible.space, static.macs),
        "totals": _totals(stages, static),
    }


def describe_model(model: Model, path: Path) -> Document:
    """A `model.pt`: its network, and what the file says of itself."""
    about = {
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "class_names": list(model.class_names),
        "preprocessing": _plain(model.preprocessing.to_document()),
        "provenance": _plain(dict(model.provenance)),
    }
    return {**describe(model.network, name=path.name), "model": about}


# --- the static network, and what of it can be divided -------------------------------------------------


def _static(divisible: Divisible, costs: Costs) -> Document:
    graph, space = divisible.graph, divisible.space
    return {
        "input": list(graph.input_shape),
        "classes": graph.classes,
        "operators": len(graph.nodes) - 1,
        "macs": costs.macs,
        "parameters": costs.parameters,
        "size_bytes": costs.size_bytes,
        "classifier": {
            "nodes": [node.name for node in divisible.head],
            "reads": sorted(space.exit_reads),
            "macs": costs.head_macs,
            "parameters": costs.head_parameters,
        },
        "layers": [_layer(layer, costs) for layer in costs.layers if layer.macs],
        "groups": [_group(group, space) for group in space.groups],
        "exits": _exits(divisible, costs),
    }


def _layer(layer: LayerCosts, costs: Costs) -> Document:
    in_head = layer in costs.head
    return {
        "name": layer.name.partition("/")[2] if in_head else layer.name,
        "operator": layer.operator,
        "shape": list(layer.shape),
        "macs": layer.macs,
        "macs_share": _share(layer.macs, costs.macs),
        "parameters": layer.parameters,
        "classifier": in_head,
    }


def _group(group: ChannelGroup, space: PlanSpace) -> Document:
    return {
        "name": group.name,
        "channels": group.channels,
        "granule": group.granule,
        "portions": group.channels // group.granule,
        "layers": [layer.name for layer in space.layers if group.name in layer.makes],
        "tensors": len(group.nodes),
    }


def _exits(divisible: Divisible, costs: Costs) -> list[Document]:
    """Where a stage may exit, with the MACs of the static network before that (classifiers apart)."""
    space, graph = divisible.space, divisible.graph
    macs = {layer.name: layer.macs for layer in costs.body}
    cuts = _cuts(space)
    exits = []
    for name in space.exits:
        before = sum(macs.get(node, 0) for node in space.covered_by(name))
        shape = None if name == OUTPUT else list(graph.by_name[name].shape)
        exits.append(
            {
                "name": name,
                "shape": shape,
                "macs_before": before,
                "macs_before_share": _share(before, costs.macs),
                "cut": name == OUTPUT or name in cuts,
            }
        )
    return exits


def _cuts(space: PlanSpace) -> frozenset[str]:
    """The nodes that all later ones hang on: nothing after such a node reads what is before it."""
    order = {name: place for place, name in enumerate(space.parents)}
    last_read = dict(order)
    for name, parents in space.parents.items():
        for parent in parents:
            last_read[parent] = order[name]
    for name in space.exit_reads:
        last_read[name] = len(order)
    cuts, open_until = [], 0
    for name, place in order.items():
        if open_until <= place:
            cuts.append(name)
        open_until = max(open_until, last_read[name])
    return frozenset(cuts)


# --- the stages ----------------------------------------------------------------------------------------


def _stages(costs: Sequence[StageCosts], plan: Plan, space: PlanSpace, static_macs: int) -> list[Document]:
    channels = sum(group.channels for group in space.groups)
    documents, before = [], 0
    for stage in costs:
        first = 0 if plan.nested else stage.stage  # a width has what the ones before it have, and runs alone
        owned = sum(sum(counts[first : stage.stage + 1]) for counts in plan.channels.values())
        before = before + stage.macs if plan.exits_early else stage.macs
        documents.append(
            {
                "stage": stage.stage,
                **({"width": plan.width_names[stage.stage]} if plan.nested else {}),
                "exit": plan.exits[stage.stage],
                "channels": owned,
                "channels_share": _share(owned, channels),
                "macs": stage.macs,
                "macs_share": _share(stage.macs, static_macs),
                "cumulative_macs": before,
                "cumulative_macs_share": _share(before, static_macs),
                "head_macs": stage.head_macs,
                "parameters": stage.parameters,
                "head_parameters": stage.head_parameters,
                "reads": [feature.name for feature in stage.reads],
                "gives": [_feature(feature) for feature in stage.gives],
                "gives_bytes": stage.gives_bytes,
                "macs_per_layer": stage.macs_per_layer,
            }
        )
    return documents


def _feature(feature: Feature) -> Document:
    return {
        "name": feature.name,
        "node": feature.node,
        "shape": list(feature.shape),
        "size_bytes": feature_bytes(feature),
    }


def _totals(stages: Iterable[StageCosts], static: Costs) -> Document:
    """What running every stage costs. Bodies of stages sum to no more than the static one: masks remove."""
    stages = tuple(stages)
    body, heads = sum(stage.body_macs for stage in stages), sum(stage.head_macs for stage in stages)
    return {
        "macs": body + heads,
        "macs_share": _share(body + heads, static.macs),
        "body_macs": body,
        "heads_macs": heads,
        "static_body_macs": static.body_macs,
        "static_head_macs": static.head_macs,
        "removed_macs": static.body_macs - body,
        "parameters": sum(stage.parameters for stage in stages),
        "gives_bytes": sum(stage.gives_bytes for stage in stages),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _plain(value: Document) -> Document:
    """The same with lists for tuples, as a reader of the JSON sees it."""
    plain: Document = json.loads(json.dumps(value))
    return plain
