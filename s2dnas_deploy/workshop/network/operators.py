"""The operator table: what each operation of a channel graph computes, and what it does to channels.

Place in the flow: `trace` lowers torch's many functions to these few; `groups` reads their channel rules;
`network` and `stages` run them. A new operator is one entry here and one or more lowerings in `lowering`.

The channel rule of an operator is one of two kinds:

    mixes    y[o] = Σ_i w[o, i] · x[i]      every output channel is new and may read any input channel
    carries  y[p] = f(x_0[q_0(p)], …)       output channel p lives and dies with the input channels it
                                            comes from; they must belong to the same stage

A carry is written as one integer array per input, [C_out, r]: row p lists the input channels that output
channel p comes from, -1 meaning none (a padded zero).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2dnas_deploy.errors import UnsupportedNetworkError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.network import together
from s2dnas_deploy.workshop.network.graph import Node

Indices = npt.NDArray[np.int64]
Attributes = Mapping[str, Any]
Weights = Mapping[str, Tensor]
Forward = Callable[[Sequence[Tensor], Weights, Attributes, bool], Tensor]
Carry = Callable[[Node, Sequence[int]], Sequence[Indices]]
Restrict = Callable[[Attributes, Weights, Indices, Sequence[Indices]], tuple[Attributes, Weights]]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One row of the table.

    `carry` is None for an operator that mixes. `restrict` gives the attributes and weights of the same
    operation on some output channels and, per input, the input channels that are still there.
    """

    forward: Forward
    carry: Carry | None
    restrict: Restrict
    buffers: frozenset[str] = field(default_factory=frozenset)
    counts_macs: bool = False

    @property
    def mixes(self) -> bool:
        """Whether output channels read input channels across."""
        return self.carry is None


def has_rows(node: Node, weight: Tensor) -> bool:
    """Whether a weight can be divided as its node's channels are: a row for each, or one for all of them.

    An operation itself would be content with less: torch broadcasts.
    """
    operator = OPERATORS[node.operator]
    if operator.restrict is _restrict_nothing:
        return True
    rows = weight.shape[0] if weight.dim() else 0
    return rows == node.channels or (rows == 1 and not operator.mixes)


_MOST_CARRIED = 2**26

# --- carries: where output channel p comes from -----------------------------------------------------


def _carry_same(node: Node, inputs: Sequence[int]) -> Sequence[Indices]:
    """Element-wise: y[p] = f(x_0[p], x_1[p], …)."""
    return [np.arange(node.channels)[:, None] for _ in inputs]


def _carry_blocks(node: Node, inputs: Sequence[int]) -> Sequence[Indices]:
    """Block-wise: the channels of block b of the output come from all those of block b of the input."""
    blocks = int(node.attributes["groups"])
    width_in, width_out = inputs[0] // blocks, node.channels // blocks
    if node.channels * width_in > _MOST_CARRIED:
        raise UnsupportedNetworkError(
            f"node {shown(node.name)} reads {width_in:,} channels for each of {node.channels:,}: expected "
            f"{_MOST_CARRIED:,} pairs at the most\n  at {node.source}"
        )
    members = np.arange(inputs[0]).reshape(blocks, width_in)
    return [np.repeat(members, width_out, axis=0)]


def _carry_cat(node: Node, inputs: Sequence[int]) -> Sequence[Indices]:
    """Concatenation: over channels, y = [x_0, x_1, …]; over space it is element-wise in channels."""
    if node.attributes["dim"] != 1:
        return _carry_same(node, inputs)
    carries, start = [], 0
    for channels in inputs:
        carry = np.full((node.channels, 1), -1)
        carry[start : start + channels, 0] = np.arange(channels)
        carries.append(carry)
        start += channels
    return carries


def _carry_slice(node: Node, inputs: Sequence[int]) -> Sequence[Indices]:
    """Channel slice: y[p] = x[start + step · p]."""
    start, stop, step = (int(node.attributes[key]) for key in ("start", "stop", "step"))
    return [np.arange(inputs[0])[start:stop:step, None]]


def _carry_pad(node: Node, inputs: Sequence[int]) -> Sequence[Indices]:
    """Channel padding: y = [constant] · before ++ x ++ [constant] · after."""
    carry = np.full((node.channels, 1), -1)
    before = int(node.attributes["before"])
    carry[before : before + inputs[0], 0] = np.arange(inputs[0])
    return [carry]


def _carry_shuffle(node: Node, inputs: Sequence[int]) -> Sequence[Indices]:
    """Channel shuffle: channels seen as an array of shape `factors`, its axes put in another `order`."""
    return [shuffled(node.attributes)[:, None]]


def _carry_flatten(node: Node, inputs: Sequence[int]) -> Sequence[Indices]:
    """Flatten [C, *space] to a vector: y[p] is pixel p mod |space| of channel p div |space|."""
    return [np.repeat(np.arange(inputs[0]), node.channels // inputs[0])[:, None]]


def shuffled(attributes: Attributes) -> Indices:
    """The input channel that each output channel of a shuffle comes from."""
    factors = tuple(attributes["factors"])
    channels = np.arange(prod(factors)).reshape(factors)
    return np.asarray(channels.transpose(tuple(attributes["order"])).ravel())


# --- restrictions: the same operation on fewer channels -----------------------------------------------


def _restrict_nothing(
    attributes: Attributes, weights: Weights, outputs: Indices, inputs: Sequence[Indices]
) -> tuple[Attributes, Weights]:
    return attributes, weights


def _restrict_outputs(
    attributes: Attributes, weights: Weights, outputs: Indices, inputs: Sequence[Indices]
) -> tuple[Attributes, Weights]:
    """Keep the rows of every per-channel weight; a weight of one row serves all channels."""
    index = torch.from_numpy(outputs)
    return attributes, {
        role: w if w.shape[0] == 1 else w.index_select(0, index) for role, w in weights.items()
    }


def _restrict_mix(
    attributes: Attributes, weights: Weights, outputs: Indices, inputs: Sequence[Indices]
) -> tuple[Attributes, Weights]:
    """w[o, i] keeps the rows of its outputs and the columns of its inputs."""
    rows, columns = torch.from_numpy(outputs), torch.from_numpy(inputs[0])
    kept = {role: w.index_select(0, rows) for role, w in weights.items()}
    return attributes, {**kept, "weight": kept["weight"].index_select(1, columns)}


def _restrict_blocks(
    attributes: Attributes, weights: Weights, outputs: Indices, inputs: Sequence[Indices]
) -> tuple[Attributes, Weights]:
    """Whole blocks are kept, so the number of blocks shrinks with the number of channels."""
    width = int(attributes["block_outputs"])
    _, kept = _restrict_outputs(attributes, weights, outputs, inputs)
    return {**attributes, "groups": len(outputs) // width}, kept


def _restrict_pad(
    attributes: Attributes, weights: Weights, outputs: Indices, inputs: Sequence[Indices]
) -> tuple[Attributes, Weights]:
    """Keep the padded channels that are among the outputs, before and after the carried ones."""
    before = int((outputs < attributes["before"]).sum())
    return {**attributes, "before": before, "after": len(outputs) - before - len(inputs[0])}, weights


def _restrict_to_identity(
    attributes: Attributes, weights: Weights, outputs: Indices, inputs: Sequence[Indices]
) -> tuple[Attributes, Weights]:
    """The inputs were already picked in the order of the outputs: nothing is left to move."""
    return {"picked": True}, weights


# --- forwards ------------------------------------------------------------------------------------------


def _conv(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    padding = a["padding"] if isinstance(a["padding"], str) else tuple(a["padding"])
    return F.conv2d(
        x[0], w["weight"], w.get("bias"), tuple(a["stride"]), padding, tuple(a["dilation"]), a["groups"]
    )


def _grouped_conv(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    """As `_conv`; with a stride in float32 on a CPU, whose bfloat16 gradient takes 15 times as long."""
    slow = torch.is_autocast_enabled("cpu") and x[0].device.type == "cpu" and max(a["stride"]) > 1
    if not slow:
        return _conv(x, w, a, training)
    with torch.autocast("cpu", enabled=False):
        result = _conv([x[0].float()], w, a, training)
    return result.to(torch.get_autocast_dtype("cpu"))


def _linear(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return F.linear(x[0], w["weight"], w.get("bias"))


def _batch_norm(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    """Gives y = (x - mean) / √(variance + eps) · weight + bias, with the batch's statistics in training."""
    statistics, affine = (w["mean"], w["variance"]), (w.get("weight"), w.get("bias"))
    if training and together.are_several():
        return together.batch_norm(x[0], *statistics, *affine, momentum=a["momentum"], eps=a["eps"])
    return F.batch_norm(x[0], *statistics, *affine, training, a["momentum"], a["eps"])


def _instance_norm(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return F.instance_norm(x[0], None, None, w.get("weight"), w.get("bias"), True, 0.0, a["eps"])


def _group_norm(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return F.group_norm(x[0], a["groups"], w.get("weight"), w.get("bias"), a["eps"])


def _pointwise(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return POINTWISE[a["function"]](x[0], **a["arguments"])


def _prelu(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return F.prelu(x[0], w["weight"])


def _pool(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return POOLS[a["function"]](x[0], **a["arguments"])


def _window_pool(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    """Adaptive pooling spelled out: along each axis of space, one reduction per window [start, stop)."""
    reduce, y = REDUCTIONS[a["function"]], x[0]
    for axis, windows in enumerate(a["windows"], start=2):
        y = torch.cat([reduce(y.narrow(axis, i, j - i), dim=axis, keepdim=True) for i, j in windows], axis)
    return y


def _reduce(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return REDUCTIONS[a["function"]](x[0], dim=tuple(a["dims"]), keepdim=a["keepdim"])


def _binary(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    """f(x_0, x_1), f(x_0, number) or f(x_0, constant tensor [C or 1, *space or 1]); or f(·, x_0)."""
    other = x[1] if len(x) == 2 else a["number"] if "number" in a else _constant(w)
    pair = (other, x[0]) if a["reversed"] else (x[0], other)
    return BINARIES[a["function"]](*pair)


def _constant(weights: Weights) -> Tensor:
    return weights["parameter"] if "parameter" in weights else weights["constant"]


def _cat(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return x[0] if len(x) == 1 else torch.cat(list(x), a["dim"])


def _channel_slice(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return x[0] if "picked" in a else x[0][:, a["start"] : a["stop"] : a["step"]]


def _select(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return x[0][:, w["index"]]


def _spatial_slice(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    index = (slice(None), slice(None), *(slice(*bounds) for bounds in a["slices"]))
    return x[0][index]


def _channel_shuffle(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    if "picked" in a:
        return x[0]
    space = x[0].shape[2:]
    axes = [0, *(1 + axis for axis in a["order"]), *(1 + len(a["factors"]) + i for i in range(len(space)))]
    return x[0].reshape(-1, *a["factors"], *space).permute(axes).reshape(-1, prod(a["factors"]), *space)


def _channel_pad(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    width = [0, 0] * (x[0].dim() - 2) + [a["before"], a["after"]]
    return F.pad(x[0], width, value=a["value"])


def _spatial_pad(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return F.pad(x[0], list(a["pad"]), mode=a["mode"], value=a["value"] if a["mode"] == "constant" else None)


def _reshape(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return x[0].reshape(-1, x[0].shape[1], *a["space"])


def _flatten(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return x[0].flatten(1)


def _resize(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    corners = {"align_corners": a["align_corners"]} if a["align_corners"] is not None else {}
    by = {"scale_factor": a["scale_factor"]} if "scale_factor" in a else {"size": tuple(a["size"])}
    return F.interpolate(x[0], **by, mode=a["mode"], **corners)


def _expand(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return x[0].expand(-1, -1, *a["space"])


def _dropout(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return DROPOUTS[a["function"]](x[0], p=a["p"], training=training)


def _stochastic_depth(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    """Gives x · b / (1 - p) with b ~ Bernoulli(1 - p), drawn per image (`row`) or once (`batch`)."""
    if not 0 <= a["p"] <= 1 or a["mode"] not in ("row", "batch"):
        raise ValueError(f"p {a['p']}, mode {a['mode']}")
    if not training or a["p"] == 0.0:
        return x[0]
    size = x[0].shape[0] if a["mode"] == "row" else 1
    kept = torch.empty(size, *[1] * (x[0].dim() - 1), dtype=x[0].dtype, device=x[0].device)
    kept.bernoulli_(1.0 - a["p"])
    return x[0] * (kept / (1.0 - a["p"]) if a["p"] < 1.0 else kept)


def _log_softmax(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return F.log_softmax(x[0], dim=1)


def _spatial_softmax(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return F.softmax(x[0], dim=a["dim"])


def _fill(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    """A constant [N, *shape], with the batch size of the input."""
    return x[0].new_full((x[0].shape[0], *a["shape"]), a["value"])


def _identity(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    return x[0]


def _input(x: Sequence[Tensor], w: Weights, a: Attributes, training: bool) -> Tensor:
    raise AssertionError("the input node is given, never computed")


# --- the functions behind the operators that stand for a family ----------------------------------------

POINTWISE: Mapping[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x, threshold, value: torch.where(x <= threshold, value, x),
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanh": torch.tanh,
    "clamp": torch.clamp,
    "abs": torch.abs,
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "pow": torch.pow,
    "erf": torch.erf,
    "log1p": torch.log1p,
    "reciprocal": torch.reciprocal,
}

POOLS: Mapping[str, Callable[..., Tensor]] = {
    "max_pool2d": F.max_pool2d,
    "avg_pool2d": F.avg_pool2d,
    "lp_pool2d": F.lp_pool2d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
    "max_pool1d": F.max_pool1d,
    "avg_pool1d": F.avg_pool1d,
    "adaptive_avg_pool1d": F.adaptive_avg_pool1d,
    "adaptive_max_pool1d": F.adaptive_max_pool1d,
}

REDUCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "logsumexp": torch.logsumexp,
}

BINARIES: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": lambda a, b: a - b,
    "mul": torch.mul,
    "div": lambda a, b: a / b,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}

DROPOUTS: Mapping[str, Callable[..., Tensor]] = {
    "dropout": F.dropout,
    "dropout1d": F.dropout1d,
    "dropout2d": F.dropout2d,
    "alpha_dropout": F.alpha_dropout,
    "feature_alpha_dropout": F.feature_alpha_dropout,
}


# --- the table -------------------------------------------------------------------------------------------


def _mixing(forward: Forward) -> Operator:
    return Operator(forward=forward, carry=None, restrict=_restrict_mix, counts_macs=True)


def _carrying(
    forward: Forward,
    carry: Carry = _carry_same,
    restrict: Restrict = _restrict_nothing,
    *,
    buffers: Sequence[str] = (),
    counts_macs: bool = False,
) -> Operator:
    return Operator(
        forward=forward,
        carry=carry,
        restrict=restrict,
        buffers=frozenset(buffers),
        counts_macs=counts_macs,
    )


OPERATORS: Mapping[str, Operator] = {
    "input": _carrying(_input),
    # cross-channel: y[o] = Σ_i w[o, i] · x[i]
    "conv": _mixing(_conv),
    "linear": _mixing(_linear),
    # block b of the output reads block b of the input, and nothing else
    "grouped_conv": _carrying(_grouped_conv, _carry_blocks, _restrict_blocks, counts_macs=True),
    "group_norm": _carrying(_group_norm, _carry_blocks, _restrict_blocks),
    "log_softmax": _carrying(_log_softmax, _carry_blocks),
    # per channel, with weights per channel
    "batch_norm": _carrying(_batch_norm, restrict=_restrict_outputs, buffers=("mean", "variance")),
    "instance_norm": _carrying(_instance_norm, restrict=_restrict_outputs),
    "prelu": _carrying(_prelu, restrict=_restrict_outputs),
    "binary": _carrying(_binary, restrict=_restrict_outputs, buffers=("constant",)),
    # per channel, without weights
    "pointwise": _carrying(_pointwise),
    "pool": _carrying(_pool),
    "reduce": _carrying(_reduce),
    "spatial_softmax": _carrying(_spatial_softmax),
    "resize": _carrying(_resize),
    "expand": _carrying(_expand),
    "dropout": _carrying(_dropout),
    "stochastic_depth": _carrying(_stochastic_depth),
    "spatial_slice": _carrying(_spatial_slice),
    "spatial_pad": _carrying(_spatial_pad),
    "reshape": _carrying(_reshape),
    "identity": _carrying(_identity),
    # what only stages need: some channels of a tensor, channels that come from nothing, and pooling in
    # windows of several sizes, which ONNX has no word for
    "select": _carrying(_select, restrict=_restrict_nothing, buffers=("index",)),
    "fill": _carrying(_fill),
    "window_pool": _carrying(_window_pool),
    # channels move, and keep their owner
    "cat": _carrying(_cat, _carry_cat),
    "channel_slice": _carrying(_channel_slice, _carry_slice, _restrict_to_identity),
    "channel_pad": _carrying(_channel_pad, _carry_pad, _restrict_pad),
    "channel_shuffle": _carrying(_channel_shuffle, _carry_shuffle, _restrict_to_identity),
    "flatten": _carrying(_flatten, _carry_flatten),
}


def run(node: Node, inputs: Sequence[Tensor], weights: Weights, training: bool = False) -> Tensor:
    """Compute the node: inputs and result are [N, C, *space], weights are given by role."""
    return OPERATORS[node.operator].forward(inputs, weights, node.attributes, training)


NORMS = frozenset({"batch_norm", "group_norm", "instance_norm"})
"""After which the length of what went in means nothing."""


def is_sum(node: Node) -> bool:
    """Whether the node adds two others up, so that one of them may be missing."""
    return node.operator == "binary" and len(node.inputs) == 2 and node.attributes["function"] == "add"


def macs(node: Node, weights: Weights) -> int:
    """Multiply-accumulates for one image: |y| · |w[o]| for a convolution or a linear layer, else 0."""
    if not OPERATORS[node.operator].counts_macs:
        return 0
    return prod(node.shape) * prod(weights["weight"].shape[1:])
