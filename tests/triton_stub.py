"""What Triton is to a model of its Python backend: tensors, requests, and the other models of a repository.

The others are run by onnxruntime as their `config.pbtxt` says: what is not in it is an error, and so is a
batch that is too large.
"""

import importlib.util
import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format

from s2dnas_deploy.serve.grpc.messages import messages_of

_TENSOR = ("string name 1", "string data_type 2", "repeated int64 dims 3", "Reshape reshape 5")
CONFIG = messages_of(
    {
        "Reshape": ("repeated int64 shape 1",),
        "Tensor": _TENSOR,
        "DynamicBatching": ("uint64 max_queue_delay_microseconds 2",),
        "InstanceGroup": ("string kind 4", "int32 count 2"),
        "WarmupInput": ("string data_type 1", "repeated int64 dims 2", "bool zero_data 3"),
        "InputsEntry": ("string key 1", "WarmupInput value 2"),
        "Warmup": ("string name 1", "uint32 batch_size 2", "repeated InputsEntry inputs 3"),
        "ModelConfig": (
            "string name 1",
            "int32 max_batch_size 4",
            "repeated Tensor input 5",
            "repeated Tensor output 6",
            "repeated InstanceGroup instance_group 7",
            "DynamicBatching dynamic_batching 11",
            "repeated Warmup model_warmup 16",
            "string backend 17",
        ),
    }
)["ModelConfig"]
"""As Triton's `model_config.proto` has it, but for enums, which are words here."""
_WORDS = ("TYPE_UINT8", "TYPE_INT8", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_STRING", "KIND_CPU")


def config_of(path: Path) -> Any:
    """A configuration, read as protobuf's text form."""
    text = path.read_text()
    for word in _WORDS:
        text = text.replace(f": {word} ", f': "{word}" ')
    return text_format.Parse(text, CONFIG())


class TritonModelException(Exception):  # noqa: N818 - so Triton calls it
    pass


@dataclass
class Tensor:
    called: str
    values: np.ndarray

    def name(self):
        return self.called

    def as_numpy(self):
        return self.values

    def is_cpu(self):
        return True


@dataclass
class TritonError:
    said: str

    def message(self):
        return self.said


@dataclass
class InferenceResponse:
    output_tensors: list
    error: TritonError | None = None

    def has_error(self):
        return self.error is not None


@dataclass
class Asked:
    """A request as the router gets it."""

    image: np.ndarray
    given: dict = field(default_factory=dict)

    def parameters(self):
        return json.dumps(self.given)


class Repository:
    """The models of a folder. `calls` are the batches that each was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs = {path.parent.name: config_of(path) for path in folder.glob("*/config.pbtxt")}
        self.sessions = {
            path.parent.parent.name: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            for path in folder.glob("*/1/model.onnx")
        }
        self.calls = {name: [] for name in self.sessions}

    def router(self, name: str) -> Any:
        """The routing model, begun as Triton begins it."""
        stub = types.ModuleType("triton_python_backend_utils")
        stub.Tensor, stub.InferenceResponse, stub.TritonError = Tensor, InferenceResponse, TritonError
        stub.TritonModelException = TritonModelException
        stub.PreferredMemory, stub.TRITONSERVER_MEMORY_CPU = lambda kind, number: kind, "cpu"
        stub.get_input_tensor_by_name = lambda request, name: Tensor(name, request.image)
        stub.get_output_tensor_by_name = lambda response, name: next(
            tensor for tensor in response.output_tensors if tensor.called == name
        )
        stub.InferenceRequest = lambda **asked: types.SimpleNamespace(exec=lambda: self.run(**asked))
        spec = importlib.util.spec_from_file_location(f"router_{name}", self.folder / name / "1" / "model.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["triton_python_backend_utils"] = stub
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules["triton_python_backend_utils"]
        model = module.TritonPythonModel()
        config = json_format.MessageToDict(self.configs[name], preserving_proto_field_name=True)
        model.initialize(
            {
                "model_repository": str(self.folder / name),
                "model_version": "1",
                "model_config": json.dumps(config),
            }
        )
        return model

    def run(
        self, model_name: str, requested_output_names: list, inputs: list, preferred_memory: str
    ) -> InferenceResponse:
        """A stage, as its configuration says."""
        assert preferred_memory == "cpu", "numbers are to be looked at"
        config = self.configs[model_name]
        expected = {each.name: each for each in config.input}
        assert {tensor.called for tensor in inputs} == set(expected)
        count = len(inputs[0].values)
        assert 0 < count <= config.max_batch_size
        self.calls[model_name].append(count)
        fed = {}
        for tensor in inputs:
            each = expected[tensor.called]
            assert tensor.values.shape == (count, *each.dims), tensor.called
            fed[tensor.called] = tensor.values.reshape(count) if each.HasField("reshape") else tensor.values
        said = {}
        for each in config.output:
            (value,) = self.sessions[model_name].run([each.name], fed)
            said[each.name] = value.reshape(count, *each.dims)
        return InferenceResponse([Tensor(name, said[name]) for name in requested_output_names])
