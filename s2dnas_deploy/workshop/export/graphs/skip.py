"""Leave a branch out where its gate is shut: the same function, under an `If`.

Place in the flow: a finished graph ──skipping──▶ the same with `If`s. What is looked for, whoever built it:

    y = u + F · spread(s),  s = Clip(…, min 0)        ──▶  y = If(any s > 0) {u + F · spread(s)} else {u}

Where s is 0, F · spread(s) is 0 as well, so both are the same for any batch; of one image, F need not run.
All that only F needs is moved into the branch, its weights too: onnxruntime lays a convolution's weight out
well only where the graph that runs it holds it.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

_PASSES_ZERO = frozenset(
    {"Resize", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Cast"}
)
_LINEAR = frozenset({"Conv", "MatMul", "Gemm"})


@dataclass(frozen=True, kw_only=True)
class _Skip:
    """A branch that can be left out: `adds` brings it and `shortcut` together, `gate` is 0 if it is shut."""

    adds: NodeProto
    shortcut: str
    gate: str
    inside: tuple[NodeProto, ...]


def skipping(model: ModelProto) -> ModelProto:
    """The same graph, in which every branch behind a gate that can shut runs only where it is open."""
    skips = list(_skips(model.graph))
    if not skips:
        return model
    changed = ModelProto()
    changed.CopyFrom(model)
    types = _types(model)
    graph = changed.graph
    moved = {node.output[0] for skip in skips for node in skip.inside}
    by_adds = {skip.adds.output[0]: skip for skip in skips}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    outside = [node for node in model.graph.node if node.output[0] not in moved | by_adds.keys()]
    needed = {name for node in outside for name in node.input} | {skip.shortcut for skip in skips}
    taken = {n for skip in skips for node in skip.inside for n in node.input if n in held and n not in needed}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in by_adds:
            nodes += _conditional(by_adds[node.output[0]], types, {n: held[n] for n in taken})
        elif node.output[0] not in moved:
            nodes.append(node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for name, tensor in held.items() if name not in taken)
    infos = [value for value in graph.value_info if value.name not in moved]
    del graph.value_info[:]
    graph.value_info.extend(infos)
    return changed


def _skips(graph: GraphProto) -> Iterator[_Skip]:
    """The branches that can be left out, none within another."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in graph.node if _is_constant(n)}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, shortcut in (tuple(node.input), tuple(reversed(node.input))):
            times = makers.get(product)
            if times is None or times.op_type != "Mul" or [*map(id, readers[product])] != [id(node)]:
                continue
            gates = [_gate(name, makers, constants) for name in times.input]
            gate = next((each for each in gates if each is not None), None)
            if gate is None or product in outputs:
                continue
            inside = _only_for(times, graph, readers, outputs, _before(gate, makers) | {shortcut})
            if any(each.op_type in _LINEAR for each in inside):
                yield _Skip(adds=node, shortcut=shortcut, gate=gate, inside=inside)
            break


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].name == "value"


def _gate(name: str, makers: Mapping[str, NodeProto], constants: Mapping[str, np.ndarray]) -> str | None:
    """The tensor from 0 on whose zeros make this one zero, if there is such; else None."""
    while (node := makers.get(name)) is not None:
        if node.op_type == "Clip":
            least = constants.get(node.input[1]) if len(node.input) > 1 else None
            return name if least is not None and least.size == 1 and float(least) == 0.0 else None
        has_bias = len(node.input) > 2 and bool(node.input[2])
        if node.op_type not in _PASSES_ZERO and not (node.op_type in _LINEAR and not has_bias):
            return None
        if node.op_type == "Resize" and not _repeats(node):
            return None
        name = node.input[0]
    return None


def _repeats(node: NodeProto) -> bool:
    """Whether a resize only repeats what is there."""
    return any(attribute.name == "mode" and attribute.s == b"nearest" for attribute in node.attribute)


def _before(name: str, makers: Mapping[str, NodeProto]) -> set[str]:
    """A tensor with all that it is made of."""
    found, due = set[str](), [name]
    while due:
        each = due.pop()
        if each not in found:
            found.add(each)
            due += list(makers[each].input) if each in makers else []
    return found


def _only_for(
    last: NodeProto,
    graph: GraphProto,
    readers: Mapping[str, Sequence[NodeProto]],
    outputs: Set[str],
    kept: Set[str],
) -> tuple[NodeProto, ...]:
    """The nodes that nothing but `last` needs, in order, itself among them."""
    inside = [last]
    names = {last.output[0]}
    for node in reversed(graph.node):
        made = set(node.output)
        if node is last or made & (outputs | kept) or not any(name in readers for name in made):
            continue
        if all(reader.output[0] in names for name in made for reader in readers.get(name, ())):
            names |= made
            inside.append(node)
    return tuple(reversed(inside))


def _conditional(
    skip: _Skip, types: Mapping[str, ValueInfoProto], weights: Mapping[str, TensorProto]
) -> list[NodeProto]:
    """The nodes in place of a branch and the addition after it."""
    result = skip.adds.output[0]
    runs, past = f"{result}/added", f"{result}/past"
    read = {name for node in skip.inside for name in node.input}
    branch = helper.make_graph(
        [*skip.inside, _named(skip.adds, runs)],
        f"{result}/branch",
        [],
        [_called(types[result], runs)],
        [tensor for name, tensor in weights.items() if name in read],
    )
    beyond = helper.make_graph(
        [helper.make_node("Identity", [skip.shortcut], [past])],
        f"{result}/beyond",
        [],
        [_called(types[result], past)],
    )
    number, most, zero, is_open = (f"{result}/gate/{each}" for each in ("number", "most", "zero", "open"))
    return [
        helper.make_node("Cast", [skip.gate], [number], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", [number], [most], keepdims=0),
        helper.make_node(
            "Constant", [], [zero], value=numpy_helper.from_array(np.array(0, np.float32), zero)
        ),
        helper.make_node("Greater", [most, zero], [is_open]),
        helper.make_node("If", [is_open], [result], then_branch=branch, else_branch=beyond),
    ]


def _named(node: NodeProto, output: str) -> NodeProto:
    renamed = NodeProto()
    renamed.CopyFrom(node)
    renamed.output[:] = [output]
    return renamed


def _called(value: ValueInfoProto, name: str) -> ValueInfoProto:
    renamed = ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = name
    return renamed


def _types(model: ModelProto) -> dict[str, ValueInfoProto]:
    """What is known of every tensor's type and shape."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}
