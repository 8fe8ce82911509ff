"""One stage as an ONNX graph: from the pixels of an image to label, confidence and shared features.

Place in the flow: `Link` ──to_onnx──▶ `ModelProto`, which `simplify` makes smaller and `write` puts on disk.

    inputs    image        uint8 [N, H, W, C], as image files hold it; float32 [N, C, H, W] with `float_input`
              rows_J       int64 [N], which rows of what stage J gave go on (and of the image, if samples
                           begin there); rows_TENSOR of what several stages give; if survivors are
                           gathered in the graph
              TENSOR       float32 (or float16) [N, ...], what earlier stages gave
    outputs   label        int64 [N]
              confidence   float32 [N], see `confidence`
              probabilities float32 [N, classes]
              TENSOR       what later stages read, or a rule looks at; TENSOR/again, if the stage reads it

Written by torch's exporter of traced graphs. A stage is a flat list of plain operators, so torch.export would
see nothing that a trace does not; it takes some twenty times as long, and starts at opset 18.
"""

import copy
import io
import warnings
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.flow import ANSWERS, IMAGE, Flow
from s2dnas_deploy.errors import ModelError
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.sessions.every_stage import rows_of
from s2dnas_deploy.workshop.export.graphs.confidence import probabilities_and_confidence
from s2dnas_deploy.workshop.export.staged import Link
from s2dnas_deploy.workshop.network.stages import StageNetwork

TRACED_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """How every stage's graph of a bundle is written."""

    preprocessing: Preprocessing
    float_input: bool = False
    half: bool = False
    gather: bool = False
    opset: int = 17


def rows_for(flow: Flow, place: int) -> dict[str, tuple[str, ...]]:
    """The inputs by which a stage's graph picks its samples, and what each picks them of.

    What one stage alone has given is picked together. Where samples only begin, there is nothing to pick.
    """
    if not any(place in targets for targets in flow.targets):
        return {}
    names = sorted(flow.stops[place].reads, key=lambda name: name == IMAGE)
    givers = {name: flow.givers[place][name] for name in names}
    sole = {name: min(stages) for name, stages in givers.items() if len(stages) == 1}
    together = {
        rows_of(stage): tuple(name for name in names if sole.get(name) == stage)
        for stage in sorted(set(sole.values()))
    }
    return {**together, **{f"rows_{name}": (name,) for name in names if name not in sole}}


class StageGraph(nn.Module):
    """A link between pixels and answers: what the ONNX graph of a stage computes, in torch."""

    scale: Tensor
    offset: Tensor

    def __init__(self, link: Link, exit_: Exit | None, form: GraphForm, flow: Flow) -> None:
        super().__init__()
        self.link, self.exit, self.form = link, exit_, form
        self.module = copy.deepcopy(link.module).half() if form.half else link.module
        self.rows = rows_for(flow, flow.place[link.name]) if form.gather else {}
        self.looked_at = frozenset(flow.looked_at)
        """What rules look at stays float32: a float16 is too coarse to compare."""
        self.outputs = {name: f"{name}/again" if name in link.reads else name for name in link.gives}
        if exit_ is not None:
            self.outputs = {**{name: name for name in ANSWERS}, **self.outputs}
        scale = torch.tensor([1 / (255 * std) for std in form.preprocessing.std])
        self.register_buffer("scale", scale.reshape(-1, 1, 1))
        pairs = zip(form.preprocessing.mean, form.preprocessing.std, strict=True)
        self.register_buffer("offset", torch.tensor([-mean / std for mean, std in pairs]).reshape(-1, 1, 1))

    @property
    def input_names(self) -> list[str]:
        """What `forward` takes, in order."""
        image = [IMAGE] if self.link.reads_image else []
        return [*image, *self.rows, *self.link.reads]

    @property
    def output_names(self) -> list[str]:
        """What `forward` gives, in order."""
        return list(self.outputs.values())

    def batch_of(self, name: str) -> str:
        """What the first dimension of an input or output is called: the same name, the same size."""
        picked_by = (rows for rows, tensors in self.rows.items() if name in tensors)
        return next(picked_by, "rows").replace("rows", "batch", 1)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Label, confidence, probabilities, if it answers; then what later stages read."""
        values = dict(zip(self.input_names, inputs, strict=True))
        picked_by = {name: values[rows] for rows, names in self.rows.items() for name in names}
        for name in (*self.link.reads, IMAGE):
            if name in picked_by:
                values[name] = values[name].index_select(0, picked_by[name])
        image = self.normalised(values[IMAGE]) if self.link.reads_image else torch.empty(0)
        results = self.module(image, *(self._in_form(name, values[name]) for name in self.link.reads))
        tensors = [
            x.float() if self.form.half and name in self.looked_at else x
            for name, x in zip(self.link.gives, results[1:] if self.link.answers else results, strict=True)
        ]
        if self.exit is None:
            return tuple(tensors)
        logits = results[0].float()  # a float16 is too coarse to tell 0.9995 from 1
        rule, temperature = self.exit.rule, self.exit.temperature
        probabilities, confidence = probabilities_and_confidence(logits, rule, temperature)
        return (logits.argmax(1), confidence, probabilities, *tensors)

    def _in_form(self, name: str, x: Tensor) -> Tensor:
        return x.half() if self.form.half and name in self.looked_at else x

    def normalised(self, image: Tensor) -> Tensor:
        """What the network reads: (pixel / 255 - mean) / std, in one multiplication and one addition."""
        if not self.form.float_input:
            image = image.permute(0, 3, 1, 2).float() * self.scale + self.offset
        return image.half() if self.form.half else image

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of the shapes and types of a batch, for a trace."""
        channels, height, width = self.form.preprocessing.input_shape
        batch = TRACED_BATCH
        pixels = torch.zeros(batch, height, width, channels, dtype=torch.uint8)
        image = torch.zeros(batch, channels, height, width) if self.form.float_input else pixels
        return (
            *([image] if self.link.reads_image else []),
            *(torch.arange(batch) for _ in self.rows),
            *(
                torch.zeros(batch, *shape, dtype=self._type_of(name))
                for name, shape in self.link.reads.items()
            ),
        )

    def _type_of(self, name: str) -> torch.dtype:
        return torch.float16 if self.form.half and name not in self.looked_at else torch.float32


def to_onnx(graph: StageGraph) -> onnx.ModelProto:
    """The stage's graph with a free batch size, in evaluation mode."""
    assert not any(module.training for module in graph.module.modules()), "export wants evaluation mode"
    stream = io.BytesIO()
    batches = {name: graph.batch_of(name) for name in (*graph.input_names, *graph.output_names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Sizes become constants in a trace, which is what is wanted: all but the batch are.
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # onnxsim folds what is left
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            torch.onnx.export(
                graph.eval(),
                graph.example_inputs(),
                stream,  # type: ignore[arg-type]  # a stream is fine here, whatever the signature says
                input_names=graph.input_names,
                output_names=graph.output_names,
                dynamic_axes={name: {0: batch} for name, batch in batches.items()},
                opset_version=graph.form.opset,
                dynamo=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ModelError(
                f"torch cannot write this network as ONNX with opset {graph.form.opset}: "
                f"{in_a_line(error)}; another --opset may help"
            ) from error
    model = onnx.load_model_from_string(stream.getvalue())
    there = {value.name for value in model.graph.input}
    unused = [name for name in graph.link.read_names if name not in there]
    if unused:
        raise ModelError(
            f"stage {shown(graph.link.name)} reads {shown(unused[0])}, and computes nothing with it; leave "
            "it out of what the stage reads"
        )
    _state_shapes(model, graph)
    return model


def _state_shapes(model: onnx.ModelProto, graph: StageGraph) -> None:
    """Write the shapes that are known here, where the exporter or a runtime may not see through."""
    shapes = {graph.outputs[name]: shape for name, shape in graph.link.gives.items()}
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims[1:], shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    batches = {graph.batch_of(name) for name in graph.input_names}
    if isinstance(graph.module, StageNetwork) and len(batches) == 1:
        _state_batch(model, *batches)


def _state_batch(model: onnx.ModelProto, batch: str) -> None:
    """Write that resizing keeps the batch, which ONNX does not infer of it, nor of all that comes after."""
    resized = {node.output[0] for node in model.graph.node if node.op_type == "Resize"}
    for value in onnx.shape_inference.infer_shapes(model).graph.value_info if resized else ():
        if value.name in resized:
            value.type.tensor_type.shape.dim[0].dim_param = batch
            model.graph.value_info.append(value)
