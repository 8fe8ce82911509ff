"""What does handing features over cost, and what would make it cheaper? On one CPU thread.

    python benchmarks/hand_over.py --network STATIC.pt --data DIR --plan plans/aligned.json

Exports the network divided by the plan, rewrites its graphs in several ways, and takes the time of each in
alternating blocks, over the static network's: the chain at one image, and stage 1 at survivors of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import onnx
from chain_cost import measure
from onnx import ModelProto, TensorProto, helper
from pages import put_record
from sessions import BoundSessions, bundle_of, images_from

from s2dnas_deploy.decide.flow import ANSWERS, IMAGE
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.network.network import as_static, carry_over
from s2dnas_deploy.workshop.reading.static_source import read_plan

Task = Callable[[], None]
BATCH, SURVIVORS = 32, 16


@click.command()
@click.option("--network", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--plan", required=True)
@click.option("--blocks", type=int, default=40, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(network: Path, data: str, plan: str, blocks: int, *, record: bool) -> None:
    """Print the times, over the static network's."""
    static = load_model(network)
    images = images_from(data, static)
    chosen = read_plan(plan, as_static(static.network), align=1, seed=0)
    divided = replace(static, network=carry_over(as_static(static.network), chosen).eval())
    whole = bundle_of(static, images, split=False, precision="float32").graphs
    summed = bundle_of(divided, images, split=True, precision="float32").graphs
    joined = bundle_of(divided, images, split=False, precision="float32").graphs
    gathering = bundle_of(divided, images, split=True, precision="float32", gather=True).graphs
    shown = images.validation[:BATCH]
    tasks: dict[str, Task] = {"static": _chain(whole, shown)}
    tasks["chain: convolutions summed"] = _chain(summed, shown)
    tasks["chain: features concatenated"] = _chain(joined, shown)
    tasks["chain: concatenated, stage 1 hands stage 0's on with its own"] = _chain(_merged(joined), shown)
    tasks["chain: summed, handed over in float16"] = _chain(_in_float16(summed), shown)
    survivors = np.arange(0, BATCH, BATCH // SURVIVORS, dtype=np.int64)
    name = f"stage 1 on {SURVIVORS} of {BATCH}: picked by"
    tasks[f"{name} numpy"] = _picked_by_numpy(summed, shown, survivors)
    tasks[f"{name} the graph (--gather)"] = _picked_by_graph(gathering, shown, survivors)
    ratios = measure(tasks, blocks)
    click.echo(table(ratios))
    if record:
        put_record("hand_over", ratios, table(ratios))


def table(ratios: dict[str, float]) -> str:
    """The record as a Markdown table."""
    lines = ["| what | time over the static network's |", "| --- | ---: |"]
    lines += [f"| {name} | {ratio:.3f} |" for name, ratio in ratios.items() if name != "static"]
    return "\n".join(lines) + "\n"


def _chain(graphs: Sequence[bytes], images: np.ndarray) -> Task:
    sessions = BoundSessions(graphs)
    return lambda: sessions.run_all(images)


# --- rewritten graphs --------------------------------------------------------------------------------------


def _in_float16(graphs: Sequence[bytes]) -> list[bytes]:
    """Features cross between stages in half the bytes, and are float32 within."""
    return [_cast(onnx.load_model_from_string(graph)).SerializeToString() for graph in graphs]


def _cast(model: ModelProto) -> ModelProto:
    graph, first, last = model.graph, [], []
    outputs = {value.name for value in graph.output} - set(ANSWERS)
    inputs = {value.name for value in graph.input} - {IMAGE}
    for node in graph.node:
        node.input[:] = [f"{x}/float32" if x in inputs | outputs else x for x in node.input]
        node.output[:] = [f"{x}/float32" if x in outputs else x for x in node.output]
    for name in sorted(inputs):
        first.append(helper.make_node("Cast", [name], [f"{name}/float32"], to=TensorProto.FLOAT))
    for name in sorted(outputs):
        last.append(helper.make_node("Cast", [f"{name}/float32"], [name], to=TensorProto.FLOAT16))
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        if value.name in inputs | outputs:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.value_info[:]
    return model


def _merged(graphs: Sequence[bytes]) -> list[bytes]:
    """Stage 1 hands over what it concatenated, so that stage 2 reads one tensor for two."""
    first, second, third = (onnx.load_model_from_string(graph) for graph in graphs)
    declared = {value.name: value for value in third.graph.input}
    for node in list(third.graph.node):
        a, b = f"{node.input[0]}", f"{node.input[1]}" if len(node.input) > 1 else ""
        if node.op_type != "Concat" or not (a in declared and b in declared):
            continue
        name = f"merged/{b}"
        second.graph.node.append(helper.make_node("Concat", [a, b], [name], axis=1))
        shape = [declared[x].type.tensor_type.shape.dim for x in (a, b)]
        sizes = ["batch", shape[0][1].dim_value + shape[1][1].dim_value, *(d.dim_value for d in shape[0][2:])]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
        second.graph.output.append(value)
        third.graph.input.append(value)
        node.input[:] = [name, *node.input[2:]]
    _drop_unread_inputs(third)
    read = {value.name for value in third.graph.input} | set(ANSWERS)
    kept = [value for value in second.graph.output if value.name in read]
    del second.graph.output[:]
    second.graph.output.extend(kept)
    return [model.SerializeToString() for model in (first, second, third)]


def _drop_unread_inputs(model: ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    kept = [value for value in model.graph.input if value.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)


# --- survivors ---------------------------------------------------------------------------------------------


def _picked_by_numpy(graphs: Sequence[bytes], images: np.ndarray, rows: np.ndarray) -> Task:
    """Rows are copied into the buffers that stage 1 reads, and stage 1 runs on those."""
    before, after = BoundSessions(graphs[:1], batch=len(images)), BoundSessions(graphs[1:2], batch=len(rows))
    before.arrays[IMAGE][:] = images
    before.run_stage(0)
    read = [value.name for value in after.stages[0].get_inputs()]

    def run() -> None:
        for name in read:
            np.take(before.arrays[name], rows, axis=0, out=after.arrays[name], mode="clip")
        after.run_stage(0)

    return run


def _picked_by_graph(graphs: Sequence[bytes], images: np.ndarray, rows: np.ndarray) -> Task:
    """Stage 1 gets all rows, and which of them go on."""
    sessions = BoundSessions(graphs[:2], batch=len(images))
    sessions.arrays[IMAGE][:] = images
    sessions.run_stage(0)
    stage = sessions.stages[1]
    binding = stage.io_binding()
    values = {value.name: sessions.arrays[value.name] for value in stage.get_inputs()} | {"rows_0": rows}
    for name, array in values.items():
        binding.bind_cpu_input(name, array)
    for value in stage.get_outputs():
        binding.bind_output(value.name)
    return lambda: stage.run_with_iobinding(binding)


if __name__ == "__main__":
    main()
