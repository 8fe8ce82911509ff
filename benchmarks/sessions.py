"""What benchmarks of bundles share: export one, and run it on one CPU thread, one image at a time."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from s2dnas_deploy.bundle.bundle import Bundle, load_bundle
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.decide.flow import IMAGE, LABEL
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.sessions.every_stage import StageAnswer, StageSession, run_chain
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.export.assemble import write_bundle
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.draft import Export
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.samples import ExportImages, Pixels
from s2dnas_deploy.workshop.network.model_file import Model

_BATCH = 100


def images_from(data: str, static: Model) -> ExportImages:
    """A few hundred labelled images, to calibrate and to verify on."""
    splits = load_images(data, input_shape=static.preprocessing.input_shape, seed=0, limit=512)
    train, val = pixels(splits.train), pixels(splits.val)
    return ExportImages(source=data, calibration=train, validation=val, labels=splits.val.labels.numpy())


def splits_of(model: Model, data: str) -> ImageSplits:
    """The images, divided as they were when this network was trained: others would look too easy."""
    shape = model.preprocessing.input_shape
    limit = model.provenance["data"]["limit"]
    return load_images(
        data,
        input_shape=shape,
        seed=model.seed,
        val_fraction=model.val_fraction,
        resize=model.preprocessing.resize,
        limit=limit,
    )


def pixels(images: LabelledImages) -> Pixels:
    """As bundles take them, uint8 [N, H, W, C]."""
    return images.read().permute(0, 2, 3, 1).contiguous().numpy()


def bundle_of(
    model: Model, images: ExportImages, *, split: bool, precision: str, gather: bool = False
) -> Bundle:
    """Export to a folder that is gone afterwards: a bundle keeps its graphs in memory."""
    with tempfile.TemporaryDirectory() as folder, Console(quiet=True) as console:
        out = Path(folder) / "bundle"
        options = ExportOptions(precision=precision, gather=gather)  # type: ignore[arg-type]
        chain = chain_of(model, name="benchmark", split=split, blocks=options.in_blocks)
        write_bundle(Export(network=chain, options=options, images=images), out, console)
        return load_bundle(out)


def answers_of(files: Sequence[bytes], images: Pixels) -> list[StageAnswer]:
    """Every stage's answers on all images, in a chain where nobody exits early; without the features."""
    sessions = [StageSession(content) for content in files]
    parts = [run_chain(sessions, images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)]
    return [_joined([part[k] for part in parts]) for k in range(len(files))]


def _joined(parts: Sequence[StageAnswer]) -> StageAnswer:
    return StageAnswer(
        label=np.concatenate([part.label for part in parts]),
        confidence=np.concatenate([part.confidence for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        features={},
    )


class BoundSessions:
    """A chain of graphs in onnxruntime, on one thread, each bound to buffers that the next ones read."""

    def __init__(self, graphs: Sequence[bytes], *, batch: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.stages = [onnxruntime.InferenceSession(graph, options) for graph in graphs]
        self.arrays: dict[str, np.ndarray] = {}
        self.bindings = []
        for stage in self.stages:
            for value in (*stage.get_inputs(), *stage.get_outputs()):
                shape = [size if isinstance(size, int) else batch for size in value.shape]
                self.arrays.setdefault(value.name, np.zeros(shape, dtype=_DTYPES[value.type]))
        # An OrtValue made from an array on the CPU uses the array's own memory.
        buffers = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in self.arrays.items()}
        for stage in self.stages:
            binding = stage.io_binding()
            for value in stage.get_inputs():
                binding.bind_ortvalue_input(value.name, buffers[value.name])
            for value in stage.get_outputs():
                binding.bind_ortvalue_output(value.name, buffers[value.name])
            self.bindings.append(binding)

    def run_stage(self, k: int) -> None:
        """One stage, on what is in the buffers."""
        self.stages[k].run_with_iobinding(self.bindings[k])

    def run_all(self, images: Pixels) -> None:
        """All stages on every image, one at a time."""
        for image in images:
            self.answer(image, (2.0,) * (len(self.stages) - 1))

    def answer(self, image: Pixels, thresholds: Sequence[float]) -> tuple[int, int]:
        """Label and exit of one image: stages run until one is sure enough."""
        self.arrays[IMAGE][0] = image
        for k, threshold in enumerate((*thresholds, None)):
            self.run_stage(k)
            if threshold is None or self.arrays[CONFIDENCE][0] >= threshold:
                break
        return int(self.arrays[LABEL][0]), k


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}
