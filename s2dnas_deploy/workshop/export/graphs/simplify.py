"""Make a stage's graph smaller with onnxsim, and keep the result only if it still is the same function.

Place in the flow: `to_onnx` ──▶ simplify ──▶ bundle. What simplification breaks is kept as it was, and said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import onnxsim

from s2dnas_deploy.errors import VerificationError
from s2dnas_deploy.quoting import in_a_line

Arrays = Mapping[str, npt.NDArray[Any]]
_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Simplified:
    """A graph, its outputs on the inputs given, and why it is not a simpler one (empty if it is)."""

    model: onnx.ModelProto
    outputs: Arrays
    kept_because: str


def simplify(model: onnx.ModelProto, inputs: Arrays) -> Simplified:
    """The simpler graph, compared with `model` on `inputs`; `model` itself if that comparison fails."""
    outputs = run_graph(model, inputs)
    try:
        simpler, _ = onnxsim.simplify(model, check_n=0)
        check(simpler)
        worst = _largest_difference(outputs, run_graph(simpler, inputs))
        problem = "" if worst <= _TOLERANCE else f"simplified, it answered differently, by {worst:.1e}"
        if _signature(simpler) != _signature(model):
            problem = "simplification changed its inputs or outputs"
    except Exception as error:  # onnxsim, onnx and onnxruntime each raise kinds of their own
        problem = f"simplification failed: {in_a_line(error)}"
    return Simplified(model=model if problem else simpler, outputs=outputs, kept_because=problem)


def check(model: onnx.ModelProto) -> None:
    """Let onnx check the graph, with full inference of shapes."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's and the inference's errors have no common base
        raise VerificationError(f"onnx refuses the exported graph: {error}") from error


def run_graph(model: onnx.ModelProto, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Run a graph once with onnxruntime on the CPU; its outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # it runs once
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    results = session.run(names, {name: array for name, array in inputs.items() if name in wanted})
    return dict(zip(names, results, strict=True))


def _largest_difference(a: Arrays, b: Arrays) -> float:
    """Over all outputs: largest difference, relative to the output's largest value."""
    worst = 0.0
    for name, ours in a.items():
        x, y = ours.astype(np.float64), b[name].astype(np.float64)
        scale = max(float(np.abs(x).max(initial=0)), 1e-12)
        worst = max(worst, float(np.abs(x - y).max(initial=0)) / scale)
    return worst


def _signature(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    return [value.name for value in model.graph.input], [value.name for value in model.graph.output]
