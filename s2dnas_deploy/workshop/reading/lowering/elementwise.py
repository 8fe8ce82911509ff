"""Lowerings of what works channel by channel: activations, pooling, reductions, arithmetic.

Each has the signature of the torch function it stands for; a family has one function that makes them.
"""
# Lowerings take torch's arguments under torch's names, `input` among them, in torch's order; what one does
# is what the function it is named after does.
# ruff: noqa: A002, D103, PLR0917

from collections.abc import Callable
from typing import Any

from torch import Tensor

from s2dnas_deploy.workshop.reading.lowering.growing import GrowingGraph
from s2dnas_deploy.workshop.reading.lowering.shapes import lower_chunk
from s2dnas_deploy.workshop.reading.lowering.values import (
    OneChannel,
    RefusedError,
    SplitChannels,
    Unused,
    Value,
    Zeros,
    describe,
    from_the_front,
    plain,
    refuse_options,
    tensor_of,
)
from s2dnas_deploy.workshop.reading.trace import shape_of


def pointwise(function: str, *parameters: str, **defaults: Any) -> Callable[..., Value]:
    """A lowering for an element-wise function with the given parameters, in torch's order."""

    def lowering(low: GrowingGraph, input: Any, *args: Any, **kwargs: Any) -> Value:
        given = {**defaults, **dict(zip(parameters, args, strict=False)), **kwargs}
        if len(args) > len(parameters) or set(given) - set(parameters):
            raise RefusedError(
                f"operator {function!r} is called in a way that is not known: {kwargs or args}"
            )
        arguments = {key: value for key, value in given.items() if value is not None}
        if not all(isinstance(value, (int, float, str)) for value in arguments.values()):
            raise RefusedError(f"operator {function!r} takes numbers; it was given {arguments}")
        return low.emit("pointwise", [tensor_of(input)], {"function": function, "arguments": arguments})

    return lowering


def lower_glu(low: GrowingGraph, input: Any, dim: int = -1) -> Value:
    """The first half of the channels, gated by the second."""
    first, second = lower_chunk(low, input, 2, dim)
    gate = low.emit("pointwise", [second], {"function": "sigmoid", "arguments": {}})
    return _of_two(low, "mul", first, gate)


def lower_pow(low: GrowingGraph, input: Any, exponent: Any) -> Value:
    if isinstance(input, Value) and isinstance(exponent, (int, float)):
        attributes = {"function": "pow", "arguments": {"exponent": exponent}}
        return low.emit("pointwise", [input], attributes)
    result: Value = binary("pow")(low, input, exponent)
    return result


def lower_rrelu(
    low: GrowingGraph, input: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False
) -> Value:
    raise RefusedError("rrelu draws random slopes in training; use leaky_relu")


def pool(function: str, *parameters: str) -> Callable[..., Value]:
    """A lowering for a pooling function with the given parameters, in torch's order."""

    def lowering(low: GrowingGraph, input: Any, *args: Any, **kwargs: Any) -> Value:
        given = {**dict(zip(parameters, args, strict=False)), **kwargs}
        if given.pop("return_indices", False):
            raise RefusedError(f"{function} with return_indices=True is not supported")
        if set(given) - set(parameters):
            raise RefusedError(f"{function} is called in a way that is not known: {sorted(given)}")
        arguments = {key: plain(value) for key, value in given.items() if value is not None}
        x, dims = tensor_of(input), int(function[-2])
        if len(x.space) != dims:
            raise RefusedError(
                f"{function} reads shape {x.shape} an image, where it would pool over channels; expected "
                f"{dims} dimensions after the channels"
            )
        return low.emit("pool", [x], {"function": function, "arguments": arguments})

    return lowering


def reduction(function: str) -> Callable[..., Value]:
    def lowering(low: GrowingGraph, input: Any, dim: Any = None, keepdim: bool = False) -> Value:
        x = tensor_of(input)
        dims = [from_the_front(d, x) for d in (dim if isinstance(dim, (tuple, list)) else [dim])]
        if any(d < 2 for d in dims):
            raise RefusedError(
                f"{function} over dimensions {dims} mixes channels or images, only space may be"
            )
        return low.emit("reduce", [x], {"function": function, "dims": sorted(dims), "keepdim": keepdim})

    return lowering


def lower_max(low: GrowingGraph, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, (Value, Tensor)):
        return binary("maximum")(low, input, dim)
    return (reduction("amax")(low, input, dim, keepdim), Unused())


def lower_interpolate(
    low: GrowingGraph,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    if antialias:
        raise RefusedError("interpolate with antialias=True is not supported")
    x, wanted = tensor_of(input), shape_of(low.call)
    attributes: dict[str, Any] = {"size": list(wanted[1:]), "mode": mode, "align_corners": align_corners}
    if scale_factor is not None and not recompute_scale_factor:
        # torch then samples by the factor given, which the sizes tell only when it divides them
        attributes["scale_factor"] = plain(scale_factor)
    return low.emit("resize", [x], attributes)


def binary(function: str, *, swapped: bool = False) -> Callable[..., Value]:
    def lowering(low: GrowingGraph, input: Any, other: Any, alpha: Any = 1, **options: Any) -> Any:
        refuse_options(function, options, set())
        if isinstance(alpha, (Value, Tensor)):
            raise RefusedError(f"{function} with a tensor as alpha is not supported")
        first, second = (other, input) if swapped else (input, other)
        if alpha != 1:
            second = _times(low, second, alpha) if isinstance(second, Value) else second * alpha
        if function == "mul" and any(isinstance(v, (int, float)) and v == 0 for v in (first, second)):
            return Zeros(shape_of(low.call))
        if function in {"add", "sub"} and isinstance(second, Zeros):
            return first
        if function == "add" and isinstance(first, Zeros):
            return second
        return _of_any_two(low, function, first, second)

    return lowering


def _of_any_two(low: GrowingGraph, function: str, first: Any, second: Any) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        return _of_two(low, function, first, second)
    if isinstance(first, Value):
        return _with_constant(low, function, first, second, reversed_=False)
    if isinstance(second, Value):
        return _with_constant(low, function, second, first, reversed_=True)
    return tensor_of(first if isinstance(first, (OneChannel, SplitChannels, Zeros)) else second)


def _times(low: GrowingGraph, x: Value, factor: float) -> Value:
    return low.emit("binary", [x], {"function": "mul", "reversed": False, "number": factor})


def _of_two(low: GrowingGraph, function: str, a: Value, b: Value) -> Value:
    if a.shape[0] != b.shape[0] or len(a.shape) != len(b.shape):
        raise RefusedError(
            f"{function} of shapes {a.shape} and {b.shape} broadcasts over channels, so every channel "
            "would read another stage's; expected the same number of channels"
        )
    return low.emit("binary", [a, b], {"function": function, "reversed": False})


def _with_constant(low: GrowingGraph, function: str, x: Value, other: Any, *, reversed_: bool) -> Value:
    attributes: dict[str, Any] = {"function": function, "reversed": reversed_}
    if isinstance(other, (int, float)):
        return low.emit("binary", [x], {**attributes, "number": other})
    if not isinstance(other, Tensor):
        raise RefusedError(f"{function} with {describe(other)} is not supported")
    rank = len(x.shape)
    shape = (1,) * (rank + 1 - other.dim()) + tuple(other.shape)
    if other.dim() > rank + 1 or shape[0] != 1 or shape[1] not in (1, x.shape[0]):
        raise RefusedError(f"{function} of shape {x.shape} with a constant of shape {tuple(other.shape)}")
    role = "parameter" if low.is_parameter(other) else "constant"
    aligned = other if tuple(other.shape) == shape[1:] else other.reshape(shape[1:])
    attributes["per_channel"] = shape[1] > 1
    return low.emit("binary", [x], attributes, {role: aligned})


def lower_same(low: GrowingGraph, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls that change where or how a tensor is stored, not what it is."""
    return input


def lower_cast(low: GrowingGraph, input: Any, *args: Any, **kwargs: Any) -> Any:
    result = low.call.meta["value"].dtype
    if result != low.trace.dtype:
        raise RefusedError(f"it casts features to {result}; expected the network's own {low.trace.dtype}")
    return input
