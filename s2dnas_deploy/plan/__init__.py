"""The plan: who owns which channels, who reuses what, and where each stage exits; and the space of plans.

Place in the flow: `workshop/groups` derives a `PlanSpace` from a channel graph; a `Plan` is one point of it,
a small JSON document. This module knows no torch and no weights: it says which plans are legal, and makes
some. It must not know how a plan is run.

The rules of a legal plan. Stage k runs the nodes up to its exit tensor; the *depth* of a node is the first
stage whose exit is not before it. Channel c, owned by stage s, is computed at node n by stage

    level(n, c) = max(s, depth(n))

and a layer's output channel of level k reads the input channels of levels ≤ k (or = k, without reuse).
Every output channel must have something to read, every exit too, and every stage something to compute.

A plan may be of nested widths instead: width k has the channels of stages 0 … k and all that lies between
them, so all of its exits are at the output and all is reused. The caller picks one; or they are tried in
turn, each where the one before is not sure; if none of them has all of the network, the static network comes
last. It may have a gate, too: up to a node, all widths are then one,
a thin prefix, where some of the network's channels are no one's; the gate there says with which width a
sample goes on.
"""

from s2dnas_deploy.plan.document import AUTO, MAX_STAGES, Plan
from s2dnas_deploy.plan.kinds import (
    depth,
    ends_in_static,
    gated,
    has_all,
    narrowed,
    random,
    static,
    uniform,
    usual_gate,
    widths,
    with_blocks,
)
from s2dnas_deploy.plan.legality import check, is_legal_without_reuse
from s2dnas_deploy.plan.presence import blocks
from s2dnas_deploy.plan.space import OUTPUT, ChannelGroup, Layer, PlanSpace
from s2dnas_deploy.plan.text import from_text

__all__ = [
    "AUTO",
    "MAX_STAGES",
    "OUTPUT",
    "ChannelGroup",
    "Layer",
    "Plan",
    "PlanSpace",
    "blocks",
    "check",
    "depth",
    "ends_in_static",
    "from_text",
    "gated",
    "has_all",
    "is_legal_without_reuse",
    "narrowed",
    "random",
    "static",
    "uniform",
    "usual_gate",
    "widths",
    "with_blocks",
]
