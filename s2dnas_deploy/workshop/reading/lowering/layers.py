"""Lowerings of layers with weights, norms, and what regularises them.

Each has the signature of the torch function it stands for.
"""
# Lowerings take torch's arguments under torch's names, `input` among them, in torch's order; what one does
# is what the function it is named after does.
# ruff: noqa: A002, D103, PLR0917

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from s2dnas_deploy.workshop.reading.lowering.growing import GrowingGraph
from s2dnas_deploy.workshop.reading.lowering.values import (
    RefusedError,
    Value,
    from_the_front,
    optional_weight,
    pair,
    refuse_options,
    tensor_of,
    weight_of,
)


def lower_conv2d(
    low: GrowingGraph,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    x, w = tensor_of(input), weight_of(weight, "the kernel")
    if len(x.shape) != 3:
        raise RefusedError(f"a 2-d convolution reads shape {x.shape} an image, expected (C, H, W)")
    if isinstance(padding, str):
        x, padding = _told_in_pixels(low, x, padding, w.shape[2:], pair(dilation))
    attributes: dict[str, Any] = {
        "stride": pair(stride),
        "padding": pair(padding),
        "dilation": pair(dilation),
        "groups": int(groups),
    }
    if groups > 1:
        attributes["block_outputs"] = w.shape[0] // groups
    operator = "conv" if groups == 1 else "grouped_conv"
    return low.emit(operator, [x], attributes, {"weight": w, "bias": optional_weight(bias, "the bias")})


def _told_in_pixels(
    low: GrowingGraph, x: Value, padding: str, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[Value, tuple[int, ...]]:
    """What "same" and "valid" mean here; onnxruntime has no fast convolution for such a word."""
    whole = [0, 0]
    if padding == "same":
        whole = [spread * (size - 1) for spread, size in zip(dilation, kernel, strict=True)]
    if not any(each % 2 for each in whole):
        return x, tuple(each // 2 for each in whole)
    (top, left), (bottom, right) = ([(each + more) // 2 for each in whole] for more in (0, 1))
    attributes = {"pad": [left, right, top, bottom], "mode": "constant", "value": 0.0}
    return low.emit("spatial_pad", [x], attributes), (0, 0)


def lower_padded_conv2d(
    low: GrowingGraph,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    pad: Sequence[int],
    mode: str,
) -> Value:
    """A convolution whose padding is not of zeros: the padding first, then the convolution."""
    attributes = {"pad": list(pad), "mode": mode, "value": 0.0}
    padded = low.emit("spatial_pad", [tensor_of(input)], attributes)
    return lower_conv2d(low, padded, weight, bias, stride, 0, dilation, groups)


def lower_linear(low: GrowingGraph, input: Any, weight: Any, bias: Any = None) -> Value:
    x = tensor_of(input)
    if len(x.shape) != 1:
        raise RefusedError(f"a linear layer reads shape {x.shape} an image, expected a vector: flatten first")
    w = {"weight": weight_of(weight, "the weight"), "bias": optional_weight(bias, "the bias")}
    return low.emit("linear", [x], {}, w)


def lower_matmul(low: GrowingGraph, input: Any, mat2: Any = None, other: Any = None) -> Value:
    """Features times a matrix of weights is a linear layer."""
    weight = other if mat2 is None else mat2
    if not isinstance(input, Value) or not isinstance(weight, Tensor):
        raise RefusedError("operator 'matmul' of two computed tensors (attention) mixes all channels")
    if weight.dim() != 2:
        raise RefusedError(
            f"operator 'matmul' with weights of shape {tuple(weight.shape)}, expected a matrix"
        )
    return lower_linear(low, input, weight.t())


def lower_batch_norm(
    low: GrowingGraph,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Value:
    if running_mean is None or running_var is None or training:
        raise RefusedError(
            "batch norm without running statistics depends on the batch; use track_running_stats"
        )
    momentum = 0.1 if momentum is None else momentum  # None: a cumulative average, which never forgets
    tensors = {"mean": running_mean, "variance": running_var, "weight": weight, "bias": bias}
    weights = {role: optional_weight(tensor, role) for role, tensor in tensors.items()}
    return low.emit("batch_norm", [tensor_of(input)], {"momentum": momentum, "eps": eps}, weights)


def lower_instance_norm(
    low: GrowingGraph,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    if not use_input_stats:
        return lower_batch_norm(low, input, running_mean, running_var, weight, bias, False, momentum, eps)
    weights = {"weight": optional_weight(weight, "weight"), "bias": optional_weight(bias, "bias")}
    return low.emit("instance_norm", [tensor_of(input)], {"eps": eps}, weights)


def lower_group_norm(
    low: GrowingGraph, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value:
    x = tensor_of(input)
    if num_groups == 1:
        raise RefusedError("group norm with one group normalises across all channels")
    attributes = {"groups": num_groups, "block_outputs": x.shape[0] // num_groups, "eps": eps}
    weights = {"weight": optional_weight(weight, "weight"), "bias": optional_weight(bias, "bias")}
    return low.emit("group_norm", [x], attributes, weights)


def lower_log_softmax(low: GrowingGraph, input: Any, dim: int | None = None, **ignored: Any) -> Value:
    x = tensor_of(input)
    if from_the_front(dim, x) != 1 or len(x.shape) != 1:
        raise RefusedError("log_softmax is supported over the classes of the output only (dim=1)")
    refuse_options("log_softmax", ignored, {"_stacklevel", "dtype"})
    return low.emit("log_softmax", [x], {"groups": 1, "block_outputs": x.shape[0]})


def lower_softmax(low: GrowingGraph, input: Any, dim: int | None = None, **ignored: Any) -> Value:
    x = tensor_of(input)
    refuse_options("softmax", ignored, {"_stacklevel"})
    at = from_the_front(dim, x)
    if at < 2:
        raise RefusedError("softmax over dimension 1 mixes all channels; a classifier must return logits")
    return low.emit("spatial_softmax", [x], {"dim": at})


def lower_prelu(low: GrowingGraph, input: Any, weight: Any) -> Value:
    slope = weight_of(weight, "the slope")
    return low.emit("prelu", [tensor_of(input)], {"per_channel": slope.numel() > 1}, {"weight": slope})


def dropout(function: str) -> Callable[..., Value]:
    def lowering(low: GrowingGraph, input: Any, p: float = 0.5, training: bool = False) -> Value:
        if training:
            raise RefusedError(
                f"{function} with training=True (the default of F.{function}) is random in evaluation mode "
                "too; pass training=self.training"
            )
        return low.emit("dropout", [tensor_of(input)], {"function": function, "p": float(p)})

    return lowering


def lower_stochastic_depth(
    low: GrowingGraph, input: Any, p: float, mode: str, training: bool = False
) -> Value:
    return low.emit("stochastic_depth", [tensor_of(input)], {"p": float(p), "mode": mode})
