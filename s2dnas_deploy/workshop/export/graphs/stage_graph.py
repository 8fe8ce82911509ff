"""One stage as an ONNX graph: from the pixels of an image to label, confidence and shared features.

Place in the flow: `Link` ──to_onnx──▶ `ModelProto`, which `simplify` makes smaller and `write` puts on disk.

    inputs    image        uint8 [N, H, W, C], as image files hold it; float32 [N, C, H, W] with `float_input`
              rows_J       int64 [N], which rows of what stage J gave go on (rows_0 also of the image), if
                           survivors are gathered in the graph
              STAGE/NODE   float32 (or float16) [N, ...], the shared features of earlier stages
    outputs   label        int64 [N]
              confidence   float32 [N], see `confidence`
              probabilities float32 [N, classes]
              STAGE/NODE   the features that later stages read

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
from s2dnas_deploy.decide.flow import ANSWERS, IMAGE
from s2dnas_deploy.errors import ModelError
from s2dnas_deploy.quoting import in_a_line
from s2dnas_deploy.sessions.every_stage import rows_of
from s2dnas_deploy.workshop.export.chain import Link
from s2dnas_deploy.workshop.export.graphs.confidence import probabilities_and_confidence

TRACED_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """How every stage's graph of a bundle is written."""

    preprocessing: Preprocessing
    float_input: bool = False
    half: bool = False
    gather: bool = False
    opset: int = 17


class StageGraph(nn.Module):
    """A link between pixels and answers: what the ONNX graph of a stage computes, in torch."""

    scale: Tensor
    offset: Tensor

    def __init__(self, link: Link, exit_: Exit, form: GraphForm, *, first: bool) -> None:
        super().__init__()
        self.link, self.exit, self.form = link, exit_, form
        self.module = copy.deepcopy(link.module).half() if form.half else link.module
        sources = {feature.stage for feature in link.reads} | ({0} if link.reads_image else set())
        self.gathered = sorted(sources) if form.gather and not first else []
        scale = torch.tensor([1 / (255 * std) for std in form.preprocessing.std])
        self.register_buffer("scale", scale.reshape(-1, 1, 1))
        pairs = zip(form.preprocessing.mean, form.preprocessing.std, strict=True)
        self.register_buffer("offset", torch.tensor([-mean / std for mean, std in pairs]).reshape(-1, 1, 1))

    @property
    def input_names(self) -> list[str]:
        """What `forward` takes, in order."""
        image = [IMAGE] if self.link.reads_image else []
        return [*image, *map(rows_of, self.gathered), *(feature.name for feature in self.link.reads)]

    @property
    def rows(self) -> dict[str, tuple[str, ...]]:
        """By input that picks samples, what it picks them of."""
        givers = {feature.name: feature.stage for feature in self.link.reads}
        givers |= {IMAGE: 0} if self.link.reads_image else {}
        return {
            rows_of(stage): tuple(name for name, giver in givers.items() if giver == stage)
            for stage in self.gathered
        }

    @property
    def output_names(self) -> list[str]:
        """What `forward` gives, in order."""
        return [*ANSWERS, *(feature.name for feature in self.link.gives)]

    def batch_of(self, name: str) -> str:
        """What the first dimension of an input or output is called: the same name, the same size."""
        given = {feature.name: feature.stage for feature in self.link.reads}
        if not self.gathered or name in self.output_names or name.startswith("rows_"):
            return "batch"
        return f"batch_{given.get(name, 0)}"

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Label, confidence, probabilities, then the features that later stages read."""
        left = list(inputs)
        image = left.pop(0) if self.link.reads_image else torch.empty(0)
        if self.gathered:
            rows = {stage: left.pop(0) for stage in self.gathered}
            pairs = zip(left, self.link.reads, strict=True)
            left = [x.index_select(0, rows[feature.stage]) for x, feature in pairs]
            image = image.index_select(0, rows[0]) if self.link.reads_image else image
        logits, *features = self.module(self.normalised(image), *left)
        logits = logits.float()  # a float16 is too coarse to tell 0.9995 from 1
        rule, temperature = self.exit.rule, self.exit.temperature
        probabilities, confidence = probabilities_and_confidence(logits, rule, temperature)
        return (logits.argmax(1), confidence, probabilities, *features)

    def normalised(self, image: Tensor) -> Tensor:
        """What the network reads: (pixel / 255 - mean) / std, in one multiplication and one addition."""
        if not self.link.reads_image:
            return image
        if not self.form.float_input:
            image = image.permute(0, 3, 1, 2).float() * self.scale + self.offset
        return image.half() if self.form.half else image

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of the shapes and types of a batch, for a trace."""
        channels, height, width = self.form.preprocessing.input_shape
        batch, dtype = TRACED_BATCH, torch.float16 if self.form.half else torch.float32
        pixels = torch.zeros(batch, height, width, channels, dtype=torch.uint8)
        image = torch.zeros(batch, channels, height, width) if self.form.float_input else pixels
        return (
            *([image] if self.link.reads_image else []),
            *(torch.arange(batch) for _ in self.gathered),
            *(torch.zeros(batch, *feature.shape, dtype=dtype) for feature in self.link.reads),
        )


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
    _state_shapes(model, graph)
    return model


def _state_shapes(model: onnx.ModelProto, graph: StageGraph) -> None:
    """Write the outputs' shapes, which are known here, where the exporter may not have seen through."""
    features = {feature.name: feature.shape for feature in graph.link.gives}
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims[1:], features.get(value.name, ()), strict=False):
            dim.dim_value = size
