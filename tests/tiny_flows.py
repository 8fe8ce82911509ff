"""Flows of tiny stages, and what a plain loop over their samples says: to test whoever takes samples through.

A stage adds up a column of each tensor that it reads, and all that it gives is made of that sum:

    s = Σ read[column]        given[j] = s · a[j] + b[j]        confidence = frac(s · c)

Every step is one rounding of float32, to onnxruntime as to NumPy, so answers are equal to the bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from handmade import handmade_bundle
from onnx import TensorProto, helper, numpy_helper

from s2dnas_deploy.bundle.bundle import Bundle
from s2dnas_deploy.bundle.entries import Tensor
from s2dnas_deploy.decide.flow import ANSWER, DONE, IMAGE, Choices, Flow, Route, Stop
from s2dnas_deploy.decide.rules import CONFIDENCE, Always, Largest, Setting, Threshold

CLASSES = 8
NUMBERS = 4  # of an image
F = np.float32


def exits_if(at: float, following: str) -> Route:
    return Route(to=(ANSWER, following), by=Threshold(of=CONFIDENCE, at=at))


def stop(name: str, reads=(), gives=(), then=DONE, *, answers: bool = True) -> Stop:
    return Stop(name=name, reads=tuple(reads), gives=tuple(gives), then=then, answers=answers)


CHAIN = Flow(
    start=Route(to=("a",)),
    stops=(
        stop("a", [IMAGE], ["x", "y"], exits_if(0.5, "b")),
        stop("b", [IMAGE, "x"], ["z"], exits_if(0.4, "c")),
        stop("c", ["y", "z"]),
    ),
)
GATE = Flow(
    start=Route(to=("prefix",)),
    stops=(
        stop(
            "prefix", [IMAGE], ["x", "gate"], Route(to=("s", "m", "l"), by=Largest(of="gate")), answers=False
        ),
        stop("s", ["x"]),
        stop("m", ["x", IMAGE]),
        stop("l", ["x", IMAGE]),
    ),
)
SETTING = Flow(
    start=Route(to=("quarter", "half", "full"), by=Setting(name="width")),
    stops=(stop("quarter", [IMAGE]), stop("half", [IMAGE]), stop("full", [IMAGE])),
    settings={"width": Choices(choices=("quarter", "half", "full"), default="half", macs=(1, 2, 3))},
)
SKIPPED = Flow(  # two blocks that renew what they read, each left out where its column of the gate says so
    start=Route(to=("head",)),
    stops=(
        stop(
            "head",
            [IMAGE],
            ["x", "gate"],
            Route(to=("between", "block_1"), by=Threshold(of="gate", at=0.1, column=0)),
            answers=False,
        ),
        stop("block_1", ["x"], ["x"], Route(to=("between",)), answers=False),
        stop(
            "between",
            ["x"],
            ["side"],
            Route(to=("tail", "block_2"), by=Threshold(of="gate", at=-0.2, column=2)),
            answers=False,
        ),
        stop("block_2", ["side", "x"], ["x"], Route(to=("tail",)), answers=False),
        stop("tail", ["x"]),
    ),
)
GATE_THEN_EXITS = Flow(
    start=Route(to=("prefix",)),
    stops=(
        stop("prefix", [IMAGE], ["x", "gate"], Route(to=("s", "l"), by=Largest(of="gate"))),
        stop("s", ["x"], ["y"], exits_if(0.6, "s_more")),
        stop("s_more", ["x", "y"], [], exits_if(0.5, "last")),
        stop("l", ["x", IMAGE], ["y"], exits_if(0.3, "last")),
        stop("last", ["x", "y"]),
    ),
)
LATE = Flow(  # a stage without an answer of its own may be a sample's last
    start=Route(to=("a",)),
    stops=(
        stop("a", [IMAGE], ["x"], Route(to=("judge",))),
        stop(
            "judge",
            ["x"],
            ["worth"],
            Route(to=(ANSWER, "b"), by=Threshold(of="worth", at=-0.4)),
            answers=False,
        ),
        stop("b", ["x", IMAGE]),
    ),
)
WIDTHS = {"gate": 3, "worth": 0}
FLOWS = {
    "chain": (CHAIN, {}),
    "gate": (GATE, WIDTHS),
    "setting": (SETTING, {}),
    "skipped": (SKIPPED, {"gate": 3}),
    "gate then exits": (GATE_THEN_EXITS, {"gate": 2}),
    "late": (LATE, WIDTHS),
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """What is said of one sample."""

    label: int
    confidence: np.float32
    exit: int
    way: tuple[str, ...]


def tiny_bundle(
    folder: Path, flow: Flow, widths: Mapping[str, int] | None = None, *, gathers: bool = False
) -> Bundle:
    """A bundle of the flow; tensors have four numbers each, or as `widths` say; 0: a number by itself."""
    widths = widths_of(flow, widths)
    fed = {name for stop in flow.stops for name in stop.then.to}
    rows = {
        stop.name: {f"rows_{i}": (name,) for i, name in enumerate(stop.reads)}
        for stop in flow.stops
        if gathers and stop.name in fed
    }
    outputs = {
        stop.name: {name: f"{name} after" for name in stop.gives if name in stop.reads} for stop in flow.stops
    }
    return handmade_bundle(
        folder,
        flow,
        [
            _graph(k, stop, widths, outputs[stop.name], list(rows.get(stop.name, {})))
            for k, stop in enumerate(flow.stops)
        ],
        image_shape=(NUMBERS, 1, 1),
        tensors={
            name: Tensor(type="float32", shape=(width,) if width else ())
            for name, width in widths.items()
            if name != IMAGE
        },
        labels=[f"class {i}" for i in range(CLASSES)],
        outputs=outputs,
        rows=rows,
    )


def widths_of(flow: Flow, widths: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many numbers each tensor has."""
    given = {name for stop in flow.stops for name in stop.gives}
    return {IMAGE: NUMBERS} | {name: (widths or {}).get(name, NUMBERS) for name in sorted(given)}


def images_of(count: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((count, NUMBERS, 1, 1), np.float32) - F(0.5)) * F(6)


def by_a_plain_loop(
    flow: Flow,
    images: np.ndarray,
    widths: Mapping[str, int] | None = None,
    settings: Mapping[str, str] | None = None,
) -> list[Said]:
    """Each sample by itself, from stage to stage."""
    return [_one(flow, image.reshape(-1), widths_of(flow, widths), settings or {}) for image in images]


def _one(flow: Flow, image: np.ndarray, widths: Mapping[str, int], settings: Mapping[str, str]) -> Said:
    chosen = {name: settings.get(name, each.default) for name, each in flow.settings.items()}
    carried: dict[str, np.ndarray] = {IMAGE: image}
    route, way, answer = flow.start, [], None
    while True:
        rule = route.by
        if isinstance(rule, Always):
            following = route.to[0]
        elif isinstance(rule, Setting):
            following = route.to[flow.settings[rule.name].choices.index(chosen[rule.name])]
        elif isinstance(rule, Largest):
            following = route.to[int(np.argmax(carried[rule.of]))]
        else:
            assert isinstance(rule, Threshold)
            number = carried[rule.of] if rule.column is None else carried[rule.of][rule.column]
            never = rule.of == "confidence" and rule.at > 1
            following = route.to[0] if number >= F(rule.at) and not never else route.to[1]
        if following == ANSWER:
            assert answer is not None
            return Said(label=answer[0], confidence=answer[1], exit=answer[2], way=tuple(way))
        k = [stop.name for stop in flow.stops].index(following)
        stop = flow.stops[k]
        way.append(stop.name)
        s = F(0.25) * F(k)
        for i, name in enumerate(stop.reads):
            s = F(s + np.atleast_1d(carried[name])[_column(k, i, widths[name])])
        made = {name: _scaled(s, *_constants(k, j, widths[name])) for j, name in enumerate(stop.gives)}
        carried |= {name: value if widths[name] else value[0] for name, value in made.items()}
        if stop.answers:
            scaled = F(s * _factor(k))
            confidence = F(scaled - np.floor(scaled))
            carried["confidence"] = confidence
            answer = int(np.floor(F(confidence * F(CLASSES)))), confidence, k
        route = stop.then


def _scaled(s: np.float32, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (s * a).astype(F) + b


def _column(k: int, i: int, width: int) -> int:
    return (k + i) % max(width, 1)


def _constants(k: int, j: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines of which each is the largest somewhere, so that a gate of them opens every way."""
    place = np.arange(max(width, 1), dtype=F) - F(0.7)
    return place * F(0.9) + F(0.1) * F(k), F(0.2) * F(j) - F(0.4) * place * place


def _factor(k: int) -> np.float32:
    return F(7.31) + F(k) * F(1.77)


def _graph(
    k: int, stop: Stop, widths: Mapping[str, int], outputs: Mapping[str, str], rows: Sequence[str]
) -> bytes:
    nodes, inputs, results, constants = [], [], [], {}

    def constant(name: str, value: np.ndarray) -> str:
        constants[name] = value
        return name

    total = constant("begin", np.array([[F(0.25) * F(k)]], F))
    batch = "M" if rows else "N"
    for i, name in enumerate(stop.reads):
        width = widths[name]
        shape = [NUMBERS, 1, 1] if name == IMAGE else [width] if width else []
        inputs.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"N{i}" if rows else "N", *shape])
        )
        flat = f"{i} flat"
        nodes.append(
            helper.make_node("Reshape", [name, constant(f"{i} shape", np.array([-1, max(width, 1)]))], [flat])
        )
        if rows:
            inputs.append(helper.make_tensor_value_info(rows[i], TensorProto.INT64, ["M"]))
            nodes.append(helper.make_node("Gather", [flat, rows[i]], [f"{i} picked"], axis=0))
            flat = f"{i} picked"
        column = constant(f"{i} column", np.array([_column(k, i, width)]))
        nodes.append(helper.make_node("Gather", [flat, column], [f"{i} one"], axis=1))
        nodes.append(helper.make_node("Add", [total, f"{i} one"], [f"sum {i}"]))
        total = f"sum {i}"
    for j, name in enumerate(stop.gives):
        a, b = _constants(k, j, widths[name])
        output = outputs.get(name, name)
        whole = output if widths[name] else f"{name} column"
        nodes.append(helper.make_node("Mul", [total, constant(f"a {j}", a)], [f"scaled {j}"]))
        nodes.append(helper.make_node("Add", [f"scaled {j}", constant(f"b {j}", b)], [whole]))
        if not widths[name]:
            nodes.append(helper.make_node("Squeeze", [whole, constant(f"one {j}", np.array([1]))], [output]))
        shape = [widths[name]] if widths[name] else []
        results.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, *shape]))
    if stop.answers:
        nodes += [
            helper.make_node("Mul", [total, constant("factor", np.array([_factor(k)]))], ["scaled"]),
            helper.make_node("Floor", ["scaled"], ["whole"]),
            helper.make_node("Sub", ["scaled", "whole"], ["sure"]),
            helper.make_node("Squeeze", ["sure", constant("axis", np.array([1]))], ["confidence"]),
            helper.make_node("Mul", ["confidence", constant("classes", np.array(CLASSES, F))], ["place"]),
            helper.make_node("Floor", ["place"], ["below"]),
            helper.make_node("Cast", ["below"], ["label"], to=TensorProto.INT64),
            helper.make_node("Tile", ["sure", constant("times", np.array([1, CLASSES]))], ["probabilities"]),
        ]
        results += [
            helper.make_tensor_value_info("label", TensorProto.INT64, [batch]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, [batch]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, CLASSES]),
        ]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, stop.name, inputs, results, held)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
