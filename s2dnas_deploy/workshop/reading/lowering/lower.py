"""Walk a trace call by call: each becomes nodes of the channel graph, or is refused by name and line."""

import difflib
import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from s2dnas_deploy.errors import UnsupportedNetworkError
from s2dnas_deploy.workshop.network.graph import ChannelGraph
from s2dnas_deploy.workshop.reading.leaves import call_of_leaf
from s2dnas_deploy.workshop.reading.lowering.growing import GrowingGraph, function_name, name_of
from s2dnas_deploy.workshop.reading.lowering.table import SYNONYMS, TABLE, WHY_NOT
from s2dnas_deploy.workshop.reading.lowering.values import RefusedError, Unused, Value, Zeros, describe
from s2dnas_deploy.workshop.reading.trace import BATCH, Trace, line_of, shape_of

_MOST_SHOWN = 8
_CONSEQUENCE = "uses a result that cannot be followed"  # of another refusal, as a rule
_IN_PLACE_OPERATORS = frozenset(
    {"iadd", "isub", "imul", "itruediv", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
)


def lower(trace: Trace, input_shape: tuple[int, ...]) -> tuple[ChannelGraph, dict[str, Tensor]]:
    """The channel graph of a traced network, and its weights under the names that the graph uses."""
    walk = _Walk(trace, input_shape)
    refusals: list[str] = []
    for call in _live_calls(trace):
        try:
            walk.lower(call)
        except RefusedError as refusal:
            refusals.append(f"node {name_of(call) or 'network'!r}: {refusal}\n    at {line_of(call)}")
            walk.give_up_on(call)
    if refusals:
        raise UnsupportedNetworkError(_describe_refusals(refusals))
    return walk.graph.finished(walk.output)


def _describe_refusals(refusals: Sequence[str]) -> str:
    """The first refusal of each kind, in the order of the network."""
    causes = [refusal for refusal in refusals if _CONSEQUENCE not in refusal]
    kinds: dict[str, str] = {}
    for refusal in causes or refusals:
        kinds.setdefault(re.sub(r"\d+", "", refusal.partition(": ")[2].partition("\n")[0]), refusal)
    shown = list(kinds.values())[:_MOST_SHOWN]
    lines = "\n".join(f"  {refusal}" for refusal in shown)
    left = len(refusals) - len(shown)
    more = f"\n  … and {left} more nodes like these" if left else ""
    return f"this network cannot be divided by channels:\n{lines}{more}"


class _Walk:
    """What each call became, and the graph that grows on the way."""

    def __init__(self, trace: Trace, input_shape: tuple[int, ...]) -> None:
        self.trace = trace
        self.graph = GrowingGraph(trace, input_shape)
        self.results: dict[fx.Node, Any] = {}
        self.order = {call: i for i, call in enumerate(trace.calls.nodes)}
        self.output = self.graph.image

    def lower(self, call: fx.Node) -> None:
        """Lower one call, whose arguments have been lowered before."""
        self.graph.call = call
        if call.op == "placeholder":
            self.results[call] = self.graph.image
        elif call.op == "get_attr":
            self.results[call] = self.trace.constants[str(call.target)]
        elif call.op == "output":
            self._finish(call)
        else:
            self.results[call] = self._call(call)

    def give_up_on(self, call: fx.Node) -> None:
        """Let the rest go on as if the call's result had been read by a node, to find more refusals."""
        value = call.meta.get("value")
        has_channels = isinstance(value, Tensor) and value.dim() >= 2 and value.shape[0] == BATCH
        self.results[call] = self.graph.stand_in() if has_channels else Unused()

    def _call(self, call: fx.Node) -> Any:
        if isinstance(call.target, type):
            raise RefusedError(f"it packs tensors into a {call.target.__name__}; return the logits alone")
        name, args, kwargs = self._spelled_as_function(call)
        lowering = TABLE.get(name)
        if lowering is None:
            raise RefusedError(WHY_NOT.get(name) or _unknown(name))
        if any(isinstance(arg, Unused) for arg in [*args, *kwargs.values()]):
            raise RefusedError(f"operator {name!r} {_CONSEQUENCE}")
        try:
            bound = inspect.signature(lowering).bind(self.graph, *args, **kwargs)
        except TypeError as error:
            raise RefusedError(f"operator {name!r} is called in a way that is not known: {error}") from error
        try:
            result = lowering(*bound.args, **bound.kwargs)
        except RefusedError:
            raise
        except Exception as error:  # whatever a lowering trips over, the user learns which call it was
            raise RefusedError(f"operator {name!r} is used in a way that is not known: {error}") from error
        _check_shape(call, result)
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
        name = call.target if isinstance(call.target, str) else function_name(call.target)
        name = name.rstrip("_").removeprefix("__")
        kwargs.pop("inplace", None)
        return SYNONYMS.get(name, name), args, kwargs

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
            raise RefusedError("it writes in place into a tensor that is not its first argument")
        memory, before = _storages(written), self.results[written]
        for other, result in list(self.results.items()):
            if not memory & _storages(other):
                continue
            if not any(self.order[user] > self.order[call] for user in other.users):
                continue
            if result != before or not isinstance(before, (Value, Zeros)):
                raise RefusedError(
                    f"it writes in place into memory that {name_of(other)!r} shares and later code "
                    "reads; use the form that makes a new tensor"
                )
            self.results[other] = after

    def _finish(self, call: fx.Node) -> None:
        result = self._resolved(call.args[0])
        if isinstance(result, Unused):
            raise RefusedError("the network returns a result that cannot be followed")
        if not isinstance(result, Value):
            raise RefusedError(
                f"the network returns {describe(result)}; expected one tensor of logits "
                "[batch, classes]: return the logits alone"
            )
        if len(result.shape) != 1:
            raise RefusedError(
                f"the network returns shape {result.shape} an image; expected logits (classes,): "
                "only image classifiers can be divided into exits"
            )
        self.output = result


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


def _unknown(name: str) -> str:
    """Of an operator that is not in the table; perhaps another form of it is."""
    close = difflib.get_close_matches(name, [*TABLE, *SYNONYMS], n=3, cutoff=0.7)
    return f"operator {name!r} has no channel rule" + (f"; {', '.join(close)} has" if close else "")


def _leaf(call: fx.Node, trace: Trace) -> torch.nn.Module:
    return trace.modules[str(call.target).removeprefix("network.")]


def _storages(call: fx.Node) -> set[int]:
    """Which memory a call's result lives in: views and in-place results have their origin's."""
    value = call.meta.get("value")
    tensors = value if isinstance(value, (tuple, list)) else (value,)
    return {t.untyped_storage()._cdata for t in tensors if isinstance(t, Tensor)}


def _check_shape(call: fx.Node, result: Any) -> None:
    if isinstance(result, (Value, Zeros)) and result.shape != shape_of(call):
        raise RefusedError(
            f"it should give shape {shape_of(call)} an image, and was read as {result.shape}: "
            "the batch dimension must stay first"
        )
