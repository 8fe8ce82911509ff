"""Lowering: torch's many ways to say a thing become the few operators of the channel graph.

Place in the flow: `trace` recorded the calls; `lower` turns each into a node, or refuses it by name and
line. A lowering has the signature of the torch function it stands for, so an argument it does not know is
refused rather than ignored. `lower` never guesses: what cannot be followed is an error.
"""
# Lowerings take torch's arguments under torch's names, `input` among them, and in torch's order.
# ruff: noqa: A002, PLR0917

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from s2dnas_deploy.build import operators
from s2dnas_deploy.build.graph import INPUT, ChannelGraph, Node
from s2dnas_deploy.build.leaves import call_of_leaf
from s2dnas_deploy.build.trace import BATCH, Trace, line_of, shape_of
from s2dnas_deploy.errors import UnsupportedNetworkError
from s2dnas_deploy.plan import OUTPUT


class _RefusedError(Exception):
    """Why one call cannot be lowered; `lower` adds the node and the line."""


@dataclass(frozen=True)
class _Value:
    """A tensor of the channel graph, [C, *space]."""

    name: str
    shape: tuple[int, ...]

    @property
    def space(self) -> tuple[int, ...]:
        return self.shape[1:]


@dataclass(frozen=True)
class _Split:
    """A tensor whose channel axis is seen as several axes, on the way to a channel shuffle."""

    value: _Value
    factors: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class _OneChannel:
    """A single channel without its axis: `x[:, 2]`, on the way to unsqueeze or stack."""

    value: _Value


@dataclass(frozen=True)
class _Zeros:
    """A tensor of zeros, [C, *space], on the way to a cat or an add."""

    shape: tuple[int, ...]


class _Unused:
    """A second result (the indices of a max) that no one may use."""


def lower(trace: Trace, input_shape: tuple[int, ...]) -> tuple[ChannelGraph, dict[str, Tensor]]:
    """The channel graph of a traced network, and its weights under the names that the graph uses."""
    lowering = _Lowering(trace, input_shape)
    refusals: list[str] = []
    for call in _live_calls(trace):
        try:
            lowering.lower(call)
        except _RefusedError as refusal:
            message = f"node {lowering.name_of(call) or 'network'!r}: {refusal}\n    at {line_of(call)}"
            refusals.append(message)
            lowering.give_up_on(call)
    if refusals:
        raise UnsupportedNetworkError(_describe_refusals(refusals))
    return lowering.graph(), lowering.weights


def supported() -> str:
    """The names that have a lowering, for messages and documents."""
    return ", ".join(sorted(_TABLE))


def _describe_refusals(refusals: Sequence[str]) -> str:
    """The first refusal of each kind, in the order of the network."""
    kinds: dict[str, str] = {}
    for refusal in refusals:
        kinds.setdefault(re.sub(r"\d+", "", refusal.partition(": ")[2].partition("\n")[0]), refusal)
    shown = list(kinds.values())[:8]
    lines = "\n".join(f"  {refusal}" for refusal in shown)
    more = (
        f"\n  … and {len(refusals) - len(shown)} more nodes like these" if len(refusals) > len(shown) else ""
    )
    return f"this network cannot be divided by channels:\n{lines}{more}\nsupported: {supported()}"


def _live_calls(trace: Trace) -> list[fx.Node]:
    """The calls that the output depends on, and those that write into a tensor in place."""
    live: set[fx.Node] = set()
    for call in reversed(trace.calls.nodes):
        if call.op == "output" or _writes_in_place(call, trace) or any(user in live for user in call.users):
            live.add(call)
    return [call for call in trace.calls.nodes if call in live]


def _writes_in_place(call: fx.Node, trace: Trace) -> bool:
    if call.op == "call_module":
        return getattr(_leaf(call, trace), "inplace", False) is True
    if call.op not in {"call_method", "call_function"}:
        return False
    name = call.target if isinstance(call.target, str) else getattr(call.target, "__name__", "")
    in_place = name in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
    return in_place or call.kwargs.get("inplace") is True or call.kwargs.get("out") is not None


def _leaf(call: fx.Node, trace: Trace) -> torch.nn.Module:
    return trace.modules[str(call.target).removeprefix("network.")]


def _storages(call: fx.Node) -> set[int]:
    """Which memory a call's result lives in: views and in-place results have their origin's."""
    value = call.meta.get("value")
    tensors = value if isinstance(value, (tuple, list)) else (value,)
    return {t.untyped_storage()._cdata for t in tensors if isinstance(t, Tensor)}


_IN_PLACE_OPERATORS = frozenset(
    {"iadd", "isub", "imul", "itruediv", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
)


class _Lowering:
    """The channel graph while it grows: what each call became, and which tensors share memory."""

    def __init__(self, trace: Trace, input_shape: tuple[int, ...]) -> None:
        self.trace = trace
        self.nodes = [
            Node(name=INPUT, operator=INPUT, inputs=(), attributes={}, weights={}, shape=input_shape)
        ]
        self.weights: dict[str, Tensor] = {}
        self.results: dict[fx.Node, Any] = {}
        self.names = {INPUT, OUTPUT}  # words of plans: no node may have them
        self.weight_names = set(trace.names.values())
        self.order = {call: i for i, call in enumerate(trace.calls.nodes)}
        self.call: fx.Node | None = None
        self.output = INPUT

    # -- one call -----------------------------------------------------------------------------------

    def lower(self, call: fx.Node) -> None:
        self.call = call
        if call.op == "placeholder":
            self.results[call] = _Value(INPUT, self.nodes[0].shape)
        elif call.op == "get_attr":
            self.results[call] = self.trace.constants[str(call.target)]
        elif call.op == "output":
            self._finish(call)
        else:
            self.results[call] = self._call(call)

    def give_up_on(self, call: fx.Node) -> None:
        """Let the rest go on as if the call's result had been read by a node, to find more refusals."""
        value = call.meta.get("value")
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[0] == BATCH:
            shape = shape_of(call)
            name = self._new_name(call.name)
            self.nodes.append(
                Node(name=name, operator="identity", inputs=(), attributes={}, weights={}, shape=shape)
            )
            self.results[call] = _Value(name, shape)
        else:
            self.results[call] = _Unused()

    def _call(self, call: fx.Node) -> Any:
        if isinstance(call.target, type):
            raise _RefusedError(f"it packs tensors into a {call.target.__name__}; return the logits alone")
        name, args, kwargs = self._spelled_as_function(call)
        lowering = _TABLE.get(name)
        if lowering is None:
            raise _RefusedError(_WHY_NOT.get(name, f"operator {name!r} has no channel rule"))
        if any(isinstance(arg, _Unused) for arg in [*args, *kwargs.values()]):
            raise _RefusedError(f"operator {name!r} uses a result that cannot be followed")
        try:
            bound = inspect.signature(lowering).bind(self, *args, **kwargs)
        except TypeError as error:
            raise _RefusedError(f"operator {name!r} is called in a way that is not known: {error}") from error
        try:
            result = lowering(*bound.args, **bound.kwargs)
        except _RefusedError:
            raise
        except Exception as error:  # whatever a lowering trips over, the user learns which call it was
            raise _RefusedError(f"operator {name!r} is used in a way that is not known: {error}") from error
        self._check_shape(call, result)
        if _writes_in_place(call, self.trace):
            self._replace_in_place(call, result)
        return result

    def _spelled_as_function(self, call: fx.Node) -> tuple[str, list[Any], dict[str, Any]]:
        """Modules, functions and methods in one spelling: the function's name and its arguments."""
        args = [self._resolved(arg) for arg in call.args]
        kwargs = {key: self._resolved(arg) for key, arg in call.kwargs.items()}
        if call.op == "call_module":
            leaf = _leaf(call, self.trace)
            described = call_of_leaf(leaf)
            if described is None:
                return type(leaf).__name__, args, kwargs
            args = args or [kwargs.pop("input")]  # every layer that is known calls its argument so
            return described.function, [*args, *described.args], {**kwargs, **described.kwargs}
        name = call.target if isinstance(call.target, str) else _function_name(call.target)
        name = name.rstrip("_").removeprefix("__")
        kwargs.pop("inplace", None)
        return _SYNONYMS.get(name, name), args, kwargs

    def _resolved(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.results[arg]
        if isinstance(arg, (tuple, list)):
            items = [self._resolved(item) for item in arg]
            return items if isinstance(arg, list) else tuple(items)
        return arg

    def _replace_in_place(self, call: fx.Node, after: Any) -> None:
        """After `x.relu_()` every name of x means the result; a live view of x would see it too."""
        written = call.args[0] if call.args else call.kwargs.get("input")
        if not isinstance(written, fx.Node):
            raise _RefusedError("it writes in place into a tensor that is not its first argument")
        memory, before = _storages(written), self.results[written]
        for other, result in list(self.results.items()):
            if not memory & _storages(other):
                continue
            if not any(self.order[user] > self.order[call] for user in other.users):
                continue
            if result != before or not isinstance(before, (_Value, _Zeros)):
                raise _RefusedError(
                    f"it writes in place into memory that {self.name_of(other)!r} shares and later code "
                    "reads; use the form that makes a new tensor"
                )
            self.results[other] = after

    def _check_shape(self, call: fx.Node, result: Any) -> None:
        if isinstance(result, (_Value, _Zeros)) and result.shape != shape_of(call):
            raise _RefusedError(
                f"it should give shape {shape_of(call)} an image, and was read as {result.shape}: "
                "the batch dimension must stay first"
            )

    def _finish(self, call: fx.Node) -> None:
        result = self._resolved(call.args[0])
        if isinstance(result, _Unused):
            raise _RefusedError("the network returns a result that cannot be followed")
        if not isinstance(result, _Value):
            raise _RefusedError(
                f"the network returns {_describe_result(result)}; expected one tensor of logits "
                "[batch, classes]: return the logits alone"
            )
        if len(result.shape) != 1:
            raise _RefusedError(
                f"the network returns shape {result.shape} an image; expected logits (classes,): "
                "only image classifiers can be divided into exits"
            )
        self.output = result.name

    # -- building ----------------------------------------------------------------------------------

    def emit(
        self,
        operator: str,
        inputs: Sequence[_Value],
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor | None] | None = None,
        name: str | None = None,
    ) -> _Value:
        """Append a node; its shape comes from running it on meta tensors."""
        attributes, present = dict(attributes or {}), _present(weights or {})
        meta = [torch.empty(2, *value.shape, dtype=self.trace.dtype, device="meta") for value in inputs]
        node = Node(
            name=self._new_name(name or operator),
            operator=operator,
            inputs=tuple(value.name for value in inputs),
            attributes=attributes,
            weights={role: self._keep_weight(role, tensor) for role, tensor in present.items()},
            shape=(),
            source="" if self.call is None else line_of(self.call),
        )
        result = operators.run(node, meta, {role: w.to("meta") for role, w in present.items()})
        node = Node(**{**vars(node), "shape": tuple(result.shape[1:])})
        if not node.channels:
            raise _RefusedError("it gives a tensor without channels")
        self.nodes.append(node)
        return _Value(node.name, node.shape)

    def name_of(self, call: fx.Node) -> str:
        """What a user would call the node: the module's path, or the function's within its module."""
        if call.op == "call_module":
            return str(call.target).removeprefix("network").removeprefix(".")
        if call.op == "output":
            return OUTPUT
        target = call.target if isinstance(call.target, str) else _function_name(call.target)
        scope = call.meta.get("scope", "")
        return f"{scope}.{target.strip('_')}" if scope else target.strip("_")

    def graph(self) -> ChannelGraph:
        """The nodes that the output depends on."""
        whole = ChannelGraph(nodes=tuple(self.nodes), output=self.output)
        needed = whole.ancestors((self.output,)) | {INPUT}
        graph = ChannelGraph(nodes=tuple(n for n in self.nodes if n.name in needed), output=self.output)
        used = {key for node in graph.nodes for key in node.weights.values()}
        self.weights = {key: tensor for key, tensor in self.weights.items() if key in used}
        return graph

    def _new_name(self, fallback: str) -> str:
        base = self.name_of(self.call) if self.call is not None else fallback
        base = base or fallback
        name, count = base, 1
        while name in self.names:
            name, count = f"{base}_{count}", count + 1
        self.names.add(name)
        return name

    def _keep_weight(self, role: str, tensor: Tensor) -> str:
        """The name under which a tensor travels: its own in the network, or the node's and its role."""
        key = self.trace.names.get(id(tensor))
        if key is None:
            base = self.name_of(self.call) if self.call is not None else "constant"
            key, count = f"{base}.{role}", 1
            while key in self.weights or key in self.weight_names:
                key, count = f"{base}.{role}_{count}", count + 1
        kept = self.weights.setdefault(key, tensor.detach())
        if kept.shape != tensor.shape:
            raise _RefusedError(f"tensor {key!r} is used in two shapes, {kept.shape} and {tensor.shape}")
        return key

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether a tensor is one that the user's network would train."""
        return self.trace.names.get(id(tensor)) in self.trace.parameters


def _present(weights: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {role: tensor for role, tensor in weights.items() if tensor is not None}


def _function_name(target: Any) -> str:
    module = getattr(target, "__module__", None) or ""
    name = str(getattr(target, "__name__", target))
    known = module.split(".")[0] in {"torch", "_operator", "operator", "builtins", "math", ""}
    if known or (name == "stochastic_depth" and module.startswith("torchvision")):
        return name
    return f"{module}.{name}"


def _describe_result(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"{len(result)} tensors"
    return "a dictionary" if isinstance(result, dict) else f"a {type(result).__name__.strip('_')}"


# --- lowerings: each has the signature of the function it stands for ---------------------------------


def _tensor(value: Any, what: str = "its input") -> _Value:
    if isinstance(value, _Value):
        return value
    if isinstance(value, _Split):
        raise _RefusedError(
            f"{what} has its channels reshaped to {value.factors}, which only a channel shuffle "
            "(reshape, transpose, reshape) may do"
        )
    if isinstance(value, _OneChannel):
        raise _RefusedError(
            f"{what} is one channel without its axis (x[:, i]); keep the axis: x[:, i : i + 1]"
        )
    raise _RefusedError(f"{what} is a {type(value).__name__.strip('_')}, expected a tensor with channels")


def _weight(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise _RefusedError(f"{what} is computed from the image; expected a weight")


def _optional_weight(value: Any, what: str) -> Tensor | None:
    return None if value is None else _weight(value, what)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))


def _conv2d(
    low: _Lowering,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Value:
    x, w = _tensor(input), _weight(weight, "the kernel")
    if len(x.shape) != 3:
        raise _RefusedError(f"a 2-d convolution reads shape {x.shape} an image, expected (C, H, W)")
    attributes: dict[str, Any] = {
        "stride": _pair(stride),
        "padding": padding if isinstance(padding, str) else _pair(padding),
        "dilation": _pair(dilation),
        "groups": int(groups),
    }
    if groups > 1:
        attributes["block_outputs"] = w.shape[0] // groups
    operator = "conv" if groups == 1 else "grouped_conv"
    return low.emit(operator, [x], attributes, {"weight": w, "bias": _optional_weight(bias, "the bias")})


def _padded_conv2d(
    low: _Lowering,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    pad: Sequence[int],
    mode: str,
) -> _Value:
    """A convolution whose padding is not of zeros: the padding first, then the convolution."""
    attributes = {"pad": list(pad), "mode": mode, "value": 0.0}
    padded = low.emit("spatial_pad", [_tensor(input)], attributes)
    return _conv2d(low, padded, weight, bias, stride, 0, dilation, groups)


def _linear(low: _Lowering, input: Any, weight: Any, bias: Any = None) -> _Value:
    x = _tensor(input)
    if len(x.shape) != 1:
        raise _RefusedError(
            f"a linear layer reads shape {x.shape} an image, expected a vector: flatten first"
        )
    w = {"weight": _weight(weight, "the weight"), "bias": _optional_weight(bias, "the bias")}
    return low.emit("linear", [x], {}, w)


def _batch_norm(
    low: _Lowering,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Value:
    if running_mean is None or running_var is None or training:
        raise _RefusedError(
            "batch norm without running statistics depends on the batch; use track_running_stats"
        )
    if momentum is None:
        raise _RefusedError("batch norm with momentum=None (a cumulative average) is not supported; set 0.1")
    tensors = {"mean": running_mean, "variance": running_var, "weight": weight, "bias": bias}
    weights = {role: _optional_weight(tensor, role) for role, tensor in tensors.items()}
    return low.emit("batch_norm", [_tensor(input)], {"momentum": momentum, "eps": eps}, weights)


def _instance_norm(
    low: _Lowering,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Value:
    if not use_input_stats:
        return _batch_norm(low, input, running_mean, running_var, weight, bias, False, momentum, eps)
    weights = {"weight": _optional_weight(weight, "weight"), "bias": _optional_weight(bias, "bias")}
    return low.emit("instance_norm", [_tensor(input)], {"eps": eps}, weights)


def _group_norm(
    low: _Lowering, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> _Value:
    x = _tensor(input)
    if num_groups == 1:
        raise _RefusedError("group norm with one group normalises across all channels")
    attributes = {"groups": num_groups, "block_outputs": x.shape[0] // num_groups, "eps": eps}
    weights = {"weight": _optional_weight(weight, "weight"), "bias": _optional_weight(bias, "bias")}
    return low.emit("group_norm", [x], attributes, weights)


def _log_softmax(low: _Lowering, input: Any, dim: int | None = None, **ignored: Any) -> _Value:
    x = _tensor(input)
    if _without_batch_sign(dim, x) != 1 or len(x.shape) != 1:
        raise _RefusedError("log_softmax is supported over the classes of the output only (dim=1)")
    _refuse_options("log_softmax", ignored, {"_stacklevel", "dtype"})
    return low.emit("log_softmax", [x], {"groups": 1, "block_outputs": x.shape[0]})


def _softmax(low: _Lowering, input: Any, dim: int | None = None, **ignored: Any) -> _Value:
    x = _tensor(input)
    _refuse_options("softmax", ignored, {"_stacklevel"})
    at = _without_batch_sign(dim, x)
    if at < 2:
        raise _RefusedError("softmax over dimension 1 mixes all channels; a classifier must return logits")
    return low.emit("spatial_softmax", [x], {"dim": at})


def _glu(low: _Lowering, input: Any, dim: int = -1) -> _Value:
    """The first half of the channels, gated by the second."""
    first, second = _chunk(low, input, 2, dim)
    gate = low.emit("pointwise", [second], {"function": "sigmoid", "arguments": {}})
    return _of_two(low, "mul", first, gate)


def _pointwise(function: str, *parameters: str, **defaults: Any) -> Callable[..., _Value]:
    """A lowering for an element-wise function with the given parameters, in torch's order."""

    def lowering(low: _Lowering, input: Any, *args: Any, **kwargs: Any) -> _Value:
        given = {**defaults, **dict(zip(parameters, args, strict=False)), **kwargs}
        if len(args) > len(parameters) or set(given) - set(parameters):
            raise _RefusedError(
                f"operator {function!r} is called in a way that is not known: {kwargs or args}"
            )
        arguments = {key: value for key, value in given.items() if value is not None}
        if not all(isinstance(value, (int, float, str)) for value in arguments.values()):
            raise _RefusedError(f"operator {function!r} takes numbers; it was given {arguments}")
        return low.emit("pointwise", [_tensor(input)], {"function": function, "arguments": arguments})

    return lowering


def _prelu(low: _Lowering, input: Any, weight: Any) -> _Value:
    slope = _weight(weight, "the slope")
    return low.emit("prelu", [_tensor(input)], {"per_channel": slope.numel() > 1}, {"weight": slope})


def _pow(low: _Lowering, input: Any, exponent: Any) -> _Value:
    if isinstance(input, _Value) and isinstance(exponent, (int, float)):
        attributes = {"function": "pow", "arguments": {"exponent": exponent}}
        return low.emit("pointwise", [input], attributes)
    result: _Value = _binary("pow")(low, input, exponent)
    return result


def _relu_like_rrelu(
    low: _Lowering, input: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False
) -> _Value:
    raise _RefusedError("rrelu draws random slopes in training; use leaky_relu")


def _pool(function: str, *parameters: str) -> Callable[..., _Value]:
    """A lowering for a pooling function with the given parameters, in torch's order."""

    def lowering(low: _Lowering, input: Any, *args: Any, **kwargs: Any) -> _Value:
        given = {**dict(zip(parameters, args, strict=False)), **kwargs}
        if given.pop("return_indices", False):
            raise _RefusedError(f"{function} with return_indices=True is not supported")
        if set(given) - set(parameters):
            raise _RefusedError(f"{function} is called in a way that is not known: {sorted(given)}")
        arguments = {key: _plain(value) for key, value in given.items() if value is not None}
        x, dims = _tensor(input), int(function[-2])
        if len(x.space) != dims:
            raise _RefusedError(
                f"{function} reads shape {x.shape} an image, where it would pool over channels; expected "
                f"{dims} dimensions after the channels"
            )
        return low.emit("pool", [x], {"function": function, "arguments": arguments})

    return lowering


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _without_batch_sign(dim: Any, x: _Value) -> int:
    """A dimension counted from the front, batch first."""
    rank = 1 + len(x.shape)
    if not isinstance(dim, int):
        raise _RefusedError(f"expected a dimension as a number, got {dim!r}")
    return dim % rank


def _reduction(function: str) -> Callable[..., _Value]:
    def lowering(low: _Lowering, input: Any, dim: Any = None, keepdim: bool = False) -> _Value:
        x = _tensor(input)
        dims = [_without_batch_sign(d, x) for d in (dim if isinstance(dim, (tuple, list)) else [dim])]
        if any(d < 2 for d in dims):
            raise _RefusedError(
                f"{function} over dimensions {dims} mixes channels or images, only space may be"
            )
        return low.emit("reduce", [x], {"function": function, "dims": sorted(dims), "keepdim": keepdim})

    return lowering


def _max(low: _Lowering, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, (_Value, Tensor)):
        return _binary("maximum")(low, input, dim)
    return (_reduction("amax")(low, input, dim, keepdim), _Unused())


def _binary(function: str, *, swapped: bool = False) -> Callable[..., _Value]:
    def lowering(low: _Lowering, input: Any, other: Any, alpha: Any = 1, **options: Any) -> Any:
        _refuse_options(function, options, set())
        if isinstance(alpha, (_Value, Tensor)):
            raise _RefusedError(f"{function} with a tensor as alpha is not supported")
        first, second = (other, input) if swapped else (input, other)
        if alpha != 1:
            second = _times(low, second, alpha) if isinstance(second, _Value) else second * alpha
        if function == "mul" and any(isinstance(v, (int, float)) and v == 0 for v in (first, second)):
            assert low.call is not None
            return _Zeros(shape_of(low.call))
        if function in {"add", "sub"} and isinstance(second, _Zeros):
            return first
        if function == "add" and isinstance(first, _Zeros):
            return second
        return _of_any_two(low, function, first, second)

    return lowering


def _of_any_two(low: _Lowering, function: str, first: Any, second: Any) -> _Value:
    if isinstance(first, _Value) and isinstance(second, _Value):
        return _of_two(low, function, first, second)
    if isinstance(first, _Value):
        return _with_constant(low, function, first, second, reversed_=False)
    if isinstance(second, _Value):
        return _with_constant(low, function, second, first, reversed_=True)
    return _tensor(first if isinstance(first, (_OneChannel, _Split, _Zeros)) else second)


def _times(low: _Lowering, x: _Value, factor: float) -> _Value:
    return low.emit("binary", [x], {"function": "mul", "reversed": False, "number": factor})


def _of_two(low: _Lowering, function: str, a: _Value, b: _Value) -> _Value:
    if a.shape[0] != b.shape[0] or len(a.shape) != len(b.shape):
        raise _RefusedError(
            f"{function} of shapes {a.shape} and {b.shape} broadcasts over channels, so every channel "
            "would read another stage's; expected the same number of channels"
        )
    return low.emit("binary", [a, b], {"function": function, "reversed": False})


def _with_constant(low: _Lowering, function: str, x: _Value, other: Any, *, reversed_: bool) -> _Value:
    attributes: dict[str, Any] = {"function": function, "reversed": reversed_}
    if isinstance(other, (int, float)):
        return low.emit("binary", [x], {**attributes, "number": other})
    if not isinstance(other, Tensor):
        raise _RefusedError(f"{function} with {_describe_result(other)} is not supported")
    rank = len(x.shape)
    shape = (1,) * (rank + 1 - other.dim()) + tuple(other.shape)
    if other.dim() > rank + 1 or shape[0] != 1 or shape[1] not in (1, x.shape[0]):
        raise _RefusedError(f"{function} of shape {x.shape} with a constant of shape {tuple(other.shape)}")
    role = "parameter" if low.is_parameter(other) else "constant"
    aligned = other if tuple(other.shape) == shape[1:] else other.reshape(shape[1:])
    attributes["per_channel"] = shape[1] > 1
    return low.emit("binary", [x], attributes, {role: aligned})


def _cat(low: _Lowering, tensors: Any, dim: int = 0, **axis: Any) -> _Value:
    dim = axis.pop("axis", dim)
    _refuse_options("cat", axis, set())
    values = [t for t in tensors if isinstance(t, _Value)]
    if not values:
        raise _RefusedError("cat of no tensor with channels")
    along = _without_batch_sign(dim, values[0])
    if along == 0:
        raise _RefusedError("cat over the batch dimension")
    if along != 1 or all(isinstance(t, _Value) for t in tensors):
        return low.emit("cat", [_tensor(t) for t in tensors], {"dim": along})
    return _cat_with_zeros(low, list(tensors))


def _cat_with_zeros(low: _Lowering, tensors: list[Any]) -> _Value:
    """Zeros beside a tensor are channel padding of it."""
    parts: list[_Value] = []
    leading = 0
    for tensor in tensors:
        if not isinstance(tensor, _Zeros):
            value = _tensor(tensor)
            parts.append(_channel_padded(low, value, leading, 0) if leading else value)
            leading = 0
        elif parts:
            parts[-1] = _channel_padded(low, parts[-1], 0, tensor.shape[0])
        else:
            leading += tensor.shape[0]
    return parts[0] if len(parts) == 1 else low.emit("cat", parts, {"dim": 1})


def _channel_padded(low: _Lowering, x: _Value, before: int, after: int, value: float = 0.0) -> _Value:
    return low.emit("channel_pad", [x], {"before": before, "after": after, "value": value})


def _expand(low: _Lowering, input: Any, *sizes: Any, **kwargs: Any) -> Any:
    """Repeats along space, or of a single channel; told by the shape it gives."""
    assert low.call is not None
    if isinstance(input, _Zeros):
        return _Zeros(shape_of(low.call))
    x, wanted = _tensor(input), shape_of(low.call)
    if len(wanted) != len(x.shape) or low.call.meta["value"].shape[0] != BATCH:
        raise _RefusedError(f"expand from {x.shape} to {wanted} an image makes new dimensions")
    if wanted[0] != x.shape[0]:
        x = low.emit("cat", [x] * wanted[0], {"dim": 1})
    return x if x.shape == wanted else low.emit("expand", [x], {"space": list(wanted[1:])})


def _repeat(low: _Lowering, input: Any, *sizes: Any) -> _Value:
    x = _tensor(input)
    counts = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if len(counts) != 1 + len(x.shape) or any(count != 1 for i, count in enumerate(counts) if i != 1):
        raise _RefusedError(f"repeat by {tuple(counts)}; only channels (dim=1) may be repeated")
    return low.emit("cat", [x] * int(counts[1]), {"dim": 1})


def _matmul(low: _Lowering, input: Any, mat2: Any = None, other: Any = None) -> _Value:
    """Features times a matrix of weights is a linear layer."""
    weight = other if mat2 is None else mat2
    if not isinstance(input, _Value) or not isinstance(weight, Tensor):
        raise _RefusedError("operator 'matmul' of two computed tensors (attention) mixes all channels")
    if weight.dim() != 2:
        raise _RefusedError(
            f"operator 'matmul' with weights of shape {tuple(weight.shape)}, expected a matrix"
        )
    return _linear(low, input, weight.t())


def _getattr(low: _Lowering, input: Any, name: str) -> Any:
    if isinstance(input, tuple) and name == "values":
        return input[0]
    raise _RefusedError(f"attribute {name!r} of a tensor has no channel rule")


def _stack(low: _Lowering, tensors: Any, dim: int = 0) -> _Value:
    if dim == 1 and all(isinstance(t, _OneChannel) for t in tensors):
        return low.emit("cat", [t.value for t in tensors], {"dim": 1})
    raise _RefusedError("stack makes a new axis; only single channels may be stacked over dim=1")


def _zeros(low: _Lowering, *args: Any, **kwargs: Any) -> _Zeros:
    assert low.call is not None
    return _Zeros(shape_of(low.call))


def _reshape(low: _Lowering, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Any change of shape, told by the shape it gives: space, a vector, or split channels."""
    assert low.call is not None
    if isinstance(input, _OneChannel):
        if shape_of(low.call) == input.value.shape:
            return input.value
        raise _RefusedError("a single channel may only get its axis back (unsqueeze(1))")
    if isinstance(input, _Zeros):
        return _Zeros(shape_of(low.call))
    result = low.call.meta["value"]
    if result.dim() < 2 or result.shape[0] != BATCH:
        raise _RefusedError(f"it mixes the batch into other dimensions: {_shown(result.shape)}")
    wanted = tuple(result.shape[1:])
    if isinstance(input, _Split):
        return _merge(low, input, wanted)
    return _reshaped(low, _tensor(input), wanted)


def _reshaped(low: _Lowering, x: _Value, wanted: tuple[int, ...]) -> Any:
    if wanted == x.shape:
        return x
    if wanted[0] == x.shape[0]:
        return low.emit("reshape", [x], {"space": list(wanted[1:])})
    if wanted == (prod(x.shape),):
        return low.emit("flatten", [x])
    for cut in range(2, len(wanted) + 1):
        if prod(wanted[:cut]) == x.shape[0] and wanted[cut:] == x.space:
            return _Split(x, wanted[:cut], tuple(range(cut)))
    raise _RefusedError(
        f"reshape from {x.shape} to {wanted} an image moves pixels into channels, which cannot be divided"
    )


def _merge(low: _Lowering, split: _Split, wanted: tuple[int, ...]) -> Any:
    """The end of a channel shuffle: the axes become channels again, in their new order."""
    if wanted != split.value.shape:
        raise _RefusedError(f"channels split as {split.factors} must be merged to {split.value.shape} again")
    if split.order == tuple(range(len(split.order))):
        return split.value
    attributes = {"factors": list(split.factors), "order": list(split.order)}
    return low.emit("channel_shuffle", [split.value], attributes)


def _shown(shape: Sequence[int]) -> str:
    return "x".join("batch" if size == BATCH else str(size) for size in shape)


def _permute(low: _Lowering, input: Any, *dims: Any) -> Any:
    order = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    rank = _rank(input)
    return _reordered(input, tuple(d % rank for d in order))


def _transpose(low: _Lowering, input: Any, dim0: int, dim1: int) -> Any:
    rank = _rank(input)
    order = list(range(rank))
    a, b = dim0 % rank, dim1 % rank
    order[a], order[b] = order[b], order[a]
    return _reordered(input, tuple(order))


def _rank(value: Any) -> int:
    if isinstance(value, _Split):
        return 1 + len(value.factors) + len(value.value.space)
    return 1 + len(_tensor(value).shape)


def _reordered(value: Any, order: tuple[int, ...]) -> Any:
    if order == tuple(range(len(order))):
        return value
    axes = len(value.factors) if isinstance(value, _Split) else 1
    if order[0] != 0 or set(order[1 : 1 + axes]) != set(range(1, 1 + axes)):
        raise _RefusedError(
            f"permute to order {order} moves the channels out of dimension 1, where they are followed"
        )
    if order[1 + axes :] != tuple(range(1 + axes, len(order))):
        raise _RefusedError(f"permute to order {order} swaps height and width, which is not supported")
    moved = tuple(value.order[axis - 1] for axis in order[1 : 1 + axes])
    return _Split(value.value, value.factors, moved)


def _native_shuffle(low: _Lowering, input: Any, groups: int) -> _Value:
    x = _tensor(input)
    attributes = {"factors": [groups, x.shape[0] // groups], "order": [1, 0]}
    return low.emit("channel_shuffle", [x], attributes)


def _getitem(low: _Lowering, input: Any, index: Any) -> Any:
    """Pieces of a tuple, or of a tensor; `x[:, :, None]` makes dimensions of space."""
    if isinstance(input, (tuple, list)):
        return input[index]
    x = _tensor(input)
    with_new = list(index) if isinstance(index, tuple) else [index]
    kept = [item for item in with_new if item is not None]
    if len(kept) < len(with_new) and (len(kept) < 2 or None in with_new[:2] or isinstance(kept[1], int)):
        raise _RefusedError(f"index {index!r} makes a dimension before the channels")
    result = _piece(low, x, tuple(kept))
    wanted = low.call.meta["value"].shape[1:] if low.call is not None else ()
    if len(kept) < len(with_new) and isinstance(result, _Value):
        return low.emit("reshape", [result], {"space": list(wanted[1:])})
    return result


def _piece(low: _Lowering, x: _Value, index: tuple[Any, ...]) -> Any:
    items = _full_index(index, 1 + len(x.shape))
    if items[0] != slice(None):
        raise _RefusedError(f"index {index!r} picks images out of the batch")
    if not all(isinstance(item, (int, slice)) for item in items):
        raise _RefusedError(f"index {index!r}: only numbers, slices and … are supported")
    channel, space = items[1], items[2:]
    sliced = _spatially_sliced(low, x, space)
    if isinstance(channel, int):
        at = channel % x.shape[0]
        return _OneChannel(_channel_slice(low, sliced, at, at + 1))
    start, stop, step = channel.indices(x.shape[0])
    return (
        sliced
        if (start, stop, step) == (0, x.shape[0], 1)
        else _channel_slice(low, sliced, start, stop, step)
    )


def _full_index(index: Any, rank: int) -> list[Any]:
    """The index with `...` written out: one entry per dimension."""
    items = list(index) if isinstance(index, tuple) else [index]
    at = next((i for i, item in enumerate(items) if item is Ellipsis), None)
    if at is not None:
        items[at : at + 1] = [slice(None)] * (rank - len(items) + 1)
    return items + [slice(None)] * (rank - len(items))


def _spatially_sliced(low: _Lowering, x: _Value, space: Sequence[Any]) -> _Value:
    if all(item == slice(None) for item in space):
        return x
    bounds = []
    for item, size in zip(space, x.space, strict=True):
        at = slice(item % size, item % size + 1) if isinstance(item, int) else item
        bounds.append(list(at.indices(size)))
    value = low.emit("spatial_slice", [x], {"slices": bounds})
    kept = [size for item, size in zip(space, value.space, strict=True) if isinstance(item, slice)]
    return value if len(kept) == len(space) else low.emit("reshape", [value], {"space": kept})


def _channel_slice(low: _Lowering, x: _Value, start: int, stop: int, step: int = 1) -> _Value:
    return low.emit("channel_slice", [x], {"start": start, "stop": stop, "step": step})


def _chunk(low: _Lowering, input: Any, chunks: int, dim: int = 0) -> tuple[_Value, ...]:
    x = _tensor(input)
    size = -(-x.shape[0] // chunks)
    return _split(low, input, size, dim)


def _split(
    low: _Lowering, tensor: Any, split_size_or_sections: Any = None, dim: int = 0, split_size: Any = None
) -> tuple[_Value, ...]:
    x, sizes = _tensor(tensor), split_size if split_size_or_sections is None else split_size_or_sections
    if _without_batch_sign(dim, x) != 1:
        raise _RefusedError(f"split over dimension {dim}; only channels (dim=1) may be split")
    if isinstance(sizes, int):
        ends = [*range(sizes, x.shape[0], sizes), x.shape[0]]
    else:
        ends = [int(end) for end in np.cumsum(sizes)]
    starts = [0, *ends[:-1]]
    return tuple(_channel_slice(low, x, a, b) for a, b in zip(starts, ends, strict=True))


def _narrow(low: _Lowering, input: Any, dim: int, start: int, length: int) -> Any:
    x = _tensor(input)
    index = [slice(None)] * (1 + len(x.shape))
    index[_without_batch_sign(dim, x)] = slice(start, start + length)
    return _piece(low, x, tuple(index))


def _select(low: _Lowering, input: Any, dim: int, index: int) -> Any:
    x = _tensor(input)
    items: list[Any] = [slice(None)] * (1 + len(x.shape))
    items[_without_batch_sign(dim, x)] = index
    return _piece(low, x, tuple(items))


def _unbind(low: _Lowering, input: Any, dim: int = 0) -> tuple[Any, ...]:
    x = _tensor(input)
    if _without_batch_sign(dim, x) != 1:
        raise _RefusedError(f"unbind over dimension {dim}; only channels (dim=1) may be taken apart")
    return tuple(_OneChannel(_channel_slice(low, x, i, i + 1)) for i in range(x.shape[0]))


def _pad(low: _Lowering, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> _Value:
    x, fill = _tensor(input), float(value or 0.0)
    widths = [int(width) for width in pad]
    around, channels = widths[: 2 * len(x.space)], widths[2 * len(x.space) :]
    if len(channels) > 2 or (channels and mode != "constant"):
        raise _RefusedError(f"pad of {widths} in mode {mode!r} pads the batch, or channels not by a constant")
    if any(around):
        x = low.emit("spatial_pad", [x], {"pad": around, "mode": mode, "value": fill})
    if any(channels):
        if min(channels) < 0:
            raise _RefusedError("channels are padded by a negative number; slice them instead")
        x = _channel_padded(low, x, channels[0], channels[1], fill)
    return x


def _interpolate(
    low: _Lowering,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> _Value:
    assert low.call is not None
    if antialias:
        raise _RefusedError("interpolate with antialias=True is not supported")
    x, wanted = _tensor(input), shape_of(low.call)
    attributes: dict[str, Any] = {"size": list(wanted[1:]), "mode": mode, "align_corners": align_corners}
    if scale_factor is not None and not recompute_scale_factor:
        # torch then samples by the factor given, which the sizes tell only when it divides them
        attributes["scale_factor"] = _plain(scale_factor)
    return low.emit("resize", [x], attributes)


def _dropout(function: str) -> Callable[..., _Value]:
    def lowering(low: _Lowering, input: Any, p: float = 0.5, training: bool = False) -> _Value:
        if training:
            raise _RefusedError(
                f"{function} with training=True (the default of F.{function}) is random in evaluation mode "
                "too; pass training=self.training"
            )
        return low.emit("dropout", [_tensor(input)], {"function": function, "p": float(p)})

    return lowering


def _stochastic_depth(low: _Lowering, input: Any, p: float, mode: str, training: bool = False) -> _Value:
    return low.emit("stochastic_depth", [_tensor(input)], {"p": float(p), "mode": mode})


def _same(low: _Lowering, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls that change where or how a tensor is stored, not what it is."""
    return input


def _cast(low: _Lowering, input: Any, *args: Any, **kwargs: Any) -> Any:
    assert low.call is not None
    result = low.call.meta["value"].dtype
    if result != low.trace.dtype:
        raise _RefusedError(f"it casts features to {result}; expected the network's own {low.trace.dtype}")
    return input


def _refuse_options(function: str, given: Mapping[str, Any], ignorable: set[str]) -> None:
    unknown = {key for key, value in given.items() if key not in ignorable and value is not None}
    if unknown:
        raise _RefusedError(f"{function} with {', '.join(sorted(unknown))} is not supported")


# --- the table: torch's name → lowering ---------------------------------------------------------------

_POOL2D = ("kernel_size", "stride", "padding")

_SYNONYMS: Mapping[str, str] = {
    "iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div", "true_divide": "div",
    "subtract": "sub", "multiply": "mul", "divide": "div", "concat": "cat", "concatenate": "cat",
    "_threshold": "threshold", "clip": "clamp", "negative": "neg", "absolute": "abs", "arctan": "atan",
    "special_expit": "sigmoid", "radd": "add", "rmul": "mul", "rtruediv": "rdiv", "expand_as": "expand",
    "view_as": "view", "reshape_as": "reshape", "mm": "matmul", "swapaxes": "transpose",
    "swapdims": "transpose", "upsample": "interpolate", "_max_pool2d": "max_pool2d",
    "_max_pool1d": "max_pool1d", "_adaptive_max_pool2d": "adaptive_max_pool2d",
}  # fmt: skip

_TABLE: Mapping[str, Callable[..., Any]] = {
    # layers
    "conv2d": _conv2d,
    "padded_conv2d": _padded_conv2d,
    "linear": _linear,
    "matmul": _matmul,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "log_softmax": _log_softmax,
    "softmax": _softmax,
    "glu": _glu,
    # activations and other element-wise functions
    **{name: _pointwise(name) for name in (
        "relu", "relu6", "selu", "hardswish", "hardsigmoid", "silu", "mish", "sigmoid", "logsigmoid",
        "softsign", "tanh", "tanhshrink", "abs", "neg", "exp", "log", "sqrt", "rsqrt", "square", "erf",
        "log1p", "reciprocal",
    )},
    "leaky_relu": _pointwise("leaky_relu", "negative_slope"),
    "elu": _pointwise("elu", "alpha"),
    "celu": _pointwise("celu", "alpha"),
    "gelu": _pointwise("gelu", "approximate"),
    "hardtanh": _pointwise("hardtanh", "min_val", "max_val"),
    "hardshrink": _pointwise("hardshrink", "lambd"),
    "softshrink": _pointwise("softshrink", "lambd"),
    "threshold": _pointwise("threshold", "threshold", "value"),
    "softplus": _pointwise("softplus", "beta", "threshold"),
    "clamp": _pointwise("clamp", "min", "max"),
    "clamp_min": _pointwise("clamp", "min"),
    "clamp_max": _pointwise("clamp", "max"),
    "pow": _pow,
    "prelu": _prelu,
    "rrelu": _relu_like_rrelu,
    # pooling and reductions over space
    "max_pool2d": _pool("max_pool2d", *_POOL2D, "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": _pool("avg_pool2d", *_POOL2D, "ceil_mode", "count_include_pad", "divisor_override"),
    "lp_pool2d": _pool("lp_pool2d", "norm_type", "kernel_size", "stride", "ceil_mode"),
    "adaptive_avg_pool2d": _pool("adaptive_avg_pool2d", "output_size"),
    "adaptive_max_pool2d": _pool("adaptive_max_pool2d", "output_size", "return_indices"),
    "max_pool1d": _pool("max_pool1d", *_POOL2D, "dilation", "ceil_mode", "return_indices"),
    "avg_pool1d": _pool("avg_pool1d", *_POOL2D, "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool1d": _pool("adaptive_avg_pool1d", "output_size"),
    "adaptive_max_pool1d": _pool("adaptive_max_pool1d", "output_size", "return_indices"),
    "mean": _reduction("mean"),
    "sum": _reduction("sum"),
    "amax": _reduction("amax"),
    "max": _max,
    # two tensors, or a tensor and a constant
    "add": _binary("add"),
    "sub": _binary("sub"),
    "rsub": _binary("sub", swapped=True),
    "rdiv": _binary("div", swapped=True),
    "rpow": _binary("pow", swapped=True),
    "mul": _binary("mul"),
    "div": _binary("div"),
    "maximum": _binary("maximum"),
    "minimum": _binary("minimum"),
    # channels and shapes
    "cat": _cat,
    "expand": _expand,
    "repeat": _repeat,
    "stack": _stack,
    "zeros": _zeros,
    "zeros_like": _zeros,
    "new_zeros": _zeros,
    "flatten": _reshape,
    "unflatten": _reshape,
    "view": _reshape,
    "reshape": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "channel_shuffle": _native_shuffle,
    "native_channel_shuffle": _native_shuffle,
    "getitem": _getitem,
    "chunk": _chunk,
    "split": _split,
    "narrow": _narrow,
    "select": _select,
    "getattr": _getattr,
    "unbind": _unbind,
    "pad": _pad,
    "interpolate": _interpolate,
    # regularisation
    "dropout": _dropout("dropout"),
    "dropout1d": _dropout("dropout1d"),
    "dropout2d": _dropout("dropout2d"),
    "feature_dropout": _dropout("dropout2d"),
    "alpha_dropout": _dropout("alpha_dropout"),
    "feature_alpha_dropout": _dropout("feature_alpha_dropout"),
    "stochastic_depth": _stochastic_depth,
    # storage only
    **dict.fromkeys(("identity", "contiguous", "detach", "clone", "cuda", "cpu", "alias"), _same),
    **dict.fromkeys(("to", "type_as", "float"), _cast),
}  # fmt: skip

_WHY_NOT: Mapping[str, str] = {
    "layer_norm": "operator 'layer_norm' normalises across channels: no stage could run alone",
    "LayerNorm": "operator 'LayerNorm' normalises across channels: no stage could run alone",
    "local_response_norm": "operator 'local_response_norm' mixes neighbouring channels; use batch norm",
    "LocalResponseNorm": "operator 'LocalResponseNorm' mixes neighbouring channels; use batch norm",
    "Conv1d": "operator 'Conv1d' mixes neighbouring channels (as ECA does) or has no rule: only 2-d "
    "convolutions are read",
    "conv1d": "operator 'conv1d' mixes neighbouring channels (as ECA does) or has no rule: only 2-d "
    "convolutions are read",
    "bmm": "operator 'bmm' of two computed tensors (attention) mixes all channels",
    "DataParallel": "operator 'DataParallel' only wraps the network; give the network itself, .module",
    "MultiheadAttention": "operator 'MultiheadAttention' mixes all channels",
    "ConvTranspose2d": "operator 'ConvTranspose2d' has no channel rule: classifiers rarely have one",
    "PixelShuffle": "operator 'PixelShuffle' moves channels into pixels, which cannot be divided",
    "PixelUnshuffle": "operator 'PixelUnshuffle' moves pixels into channels, which cannot be divided",
    "conv_transpose2d": "operator 'conv_transpose2d' has no channel rule: classifiers rarely have one",
    "pixel_shuffle": "operator 'pixel_shuffle' moves channels into pixels, which cannot be divided",
    "pixel_unshuffle": "operator 'pixel_unshuffle' moves pixels into channels, which cannot be divided",
}
