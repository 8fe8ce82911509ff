"""The channel graph while it grows: lowerings append nodes to it, under names that a user would know."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from s2dnas_deploy.plan import OUTPUT
from s2dnas_deploy.workshop.network import operators
from s2dnas_deploy.workshop.network.graph import INPUT, ChannelGraph, Node
from s2dnas_deploy.workshop.reading.lowering.values import RefusedError, Value
from s2dnas_deploy.workshop.reading.trace import Trace, line_of, shape_of


class GrowingGraph:
    """Nodes and weights so far; `call` is the one being lowered, whose name and line new nodes get."""

    def __init__(self, trace: Trace, input_shape: tuple[int, ...]) -> None:
        self.trace = trace
        self.image = Value(INPUT, input_shape)
        self.nodes = [
            Node(name=INPUT, operator=INPUT, inputs=(), attributes={}, weights={}, shape=input_shape)
        ]
        self.weights: dict[str, Tensor] = {}
        self.call: fx.Node = next(iter(trace.calls.nodes))
        self._names = {INPUT, OUTPUT}  # words of plans: no node may have them
        self._weight_names = set(trace.names.values())

    def emit(
        self,
        operator: str,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor | None] | None = None,
    ) -> Value:
        """Append a node; its shape comes from running it on meta tensors."""
        present = {role: tensor for role, tensor in (weights or {}).items() if tensor is not None}
        meta = [torch.empty(2, *value.shape, dtype=self.trace.dtype, device="meta") for value in inputs]
        node = Node(
            name=self._new_name(operator),
            operator=operator,
            inputs=tuple(value.name for value in inputs),
            attributes=dict(attributes or {}),
            weights={role: self._keep_weight(role, tensor) for role, tensor in present.items()},
            shape=(),
            source=line_of(self.call),
        )
        result = operators.run(node, meta, {role: w.to("meta") for role, w in present.items()})
        node = replace(node, shape=tuple(result.shape[1:]))
        if not node.channels:
            raise RefusedError("it gives a tensor without channels")
        self.nodes.append(node)
        return Value(node.name, node.shape)

    def stand_in(self) -> Value:
        """A node that only has the shape of the call's result, so that what follows can be looked at."""
        shape = shape_of(self.call)
        name = self._new_name(self.call.name)
        self.nodes.append(
            Node(name=name, operator="identity", inputs=(), attributes={}, weights={}, shape=shape)
        )
        return Value(name, shape)

    def finished(self, output: Value) -> tuple[ChannelGraph, dict[str, Tensor]]:
        """The nodes that the output depends on, and their weights."""
        whole = ChannelGraph(nodes=tuple(self.nodes), output=output.name)
        needed = whole.ancestors((output.name,)) | {INPUT}
        graph = ChannelGraph(nodes=tuple(n for n in self.nodes if n.name in needed), output=output.name)
        used = {key for node in graph.nodes for key in node.weights.values()}
        return graph, {key: tensor for key, tensor in self.weights.items() if key in used}

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether a tensor is one that the user's network would train."""
        return self.trace.names.get(id(tensor)) in self.trace.parameters

    def _new_name(self, fallback: str) -> str:
        base = name_of(self.call) or fallback
        name, count = base, 1
        while name in self._names:
            name, count = f"{base}_{count}", count + 1
        self._names.add(name)
        return name

    def _keep_weight(self, role: str, tensor: Tensor) -> str:
        """The name under which a tensor travels: its own in the network, or the node's and its role."""
        key = self.trace.names.get(id(tensor))
        if key is None:
            base = f"{name_of(self.call)}.{role}"
            key, count = base, 1
            while key in self.weights or key in self._weight_names:
                key, count = f"{base}_{count}", count + 1
        kept = self.weights.setdefault(key, tensor.detach())
        if kept.shape != tensor.shape:
            raise RefusedError(f"tensor {key!r} is used in two shapes, {kept.shape} and {tensor.shape}")
        return key


def name_of(call: fx.Node) -> str:
    """What a user would call the node: the module's path, or the function's within its module."""
    if call.op == "call_module":
        return str(call.target).removeprefix("network").removeprefix(".")
    if call.op == "output":
        return OUTPUT
    target = call.target if isinstance(call.target, str) else function_name(call.target)
    scope = call.meta.get("scope", "")
    return f"{scope}.{target.strip('_')}" if scope else target.strip("_")


def function_name(target: Any) -> str:
    """A function's bare name if it is torch's or Python's, else with its module."""
    module = getattr(target, "__module__", None) or ""
    name = str(getattr(target, "__name__", target))
    known = module.split(".")[0] in {"torch", "_operator", "operator", "builtins", "math", ""}
    if known or (name == "stochastic_depth" and module.startswith("torchvision")):
        return name
    return f"{module}.{name}"
