"""The protocol's messages, as protobuf makes them of a table: names, numbers and types of their fields.

Place in the flow: this table ──▶ classes, by which gRPC reads requests and writes answers. There are no
generated files: a table says the same in less, and fits every version of protobuf.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE, SERVICE = "inference", "GRPCInferenceService"

_PARAMETERS = "map InferParameter parameters"
_ENUM = "TYPE_INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING"
_DATA_TYPES = tuple(name if "_" in name else f"TYPE_{name}" for name in _ENUM.split())

# A field is: `repeated`, `map` or `oneof` if it is, its type, its name and its number.
_TABLE: Mapping[str, Sequence[str]] = {
    "InferParameter": (
        "oneof bool bool_param 1",
        "oneof int64 int64_param 2",
        "oneof string string_param 3",
        "oneof double double_param 4",
        "oneof uint64 uint64_param 5",
    ),
    "InferTensorContents": (
        "repeated bool bool_contents 1",
        "repeated int32 int_contents 2",
        "repeated int64 int64_contents 3",
        "repeated uint32 uint_contents 4",
        "repeated uint64 uint64_contents 5",
        "repeated float fp32_contents 6",
        "repeated double fp64_contents 7",
        "repeated bytes bytes_contents 8",
    ),
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready 1",),
    "ModelReadyRequest": ("string name 1", "string version 2"),
    "ModelReadyResponse": ("bool ready 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name 1", "string version 2", "repeated string extensions 3"),
    "ModelMetadataRequest": ("string name 1", "string version 2"),
    "ModelMetadataResponse": (
        "string name 1",
        "repeated string versions 2",
        "string platform 3",
        "repeated ModelMetadataResponse.TensorMetadata inputs 4",
        "repeated ModelMetadataResponse.TensorMetadata outputs 5",
    ),
    "ModelMetadataResponse.TensorMetadata": ("string name 1", "string datatype 2", "repeated int64 shape 3"),
    "ModelInferRequest": (
        "string model_name 1",
        "string model_version 2",
        "string id 3",
        f"{_PARAMETERS} 4",
        "repeated ModelInferRequest.InferInputTensor inputs 5",
        "repeated ModelInferRequest.InferRequestedOutputTensor outputs 6",
        "repeated bytes raw_input_contents 7",
    ),
    "ModelInferRequest.InferInputTensor": (
        "string name 1",
        "string datatype 2",
        "repeated int64 shape 3",
        f"{_PARAMETERS} 4",
        "InferTensorContents contents 5",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": ("string name 1", f"{_PARAMETERS} 2"),
    "ModelInferResponse": (
        "string model_name 1",
        "string model_version 2",
        "string id 3",
        f"{_PARAMETERS} 4",
        "repeated ModelInferResponse.InferOutputTensor outputs 5",
        "repeated bytes raw_output_contents 6",
    ),
    "ModelInferResponse.InferOutputTensor": (
        "string name 1",
        "string datatype 2",
        "repeated int64 shape 3",
        f"{_PARAMETERS} 4",
        "InferTensorContents contents 5",
    ),
    "ModelStreamInferResponse": ("string error_message 1", "ModelInferResponse infer_response 2"),
    "ModelConfigRequest": ("string name 1", "string version 2"),
    "ModelConfigResponse": ("ModelConfig config 1",),
    "ModelConfig": (
        "string name 1",
        "string platform 2",
        "int32 max_batch_size 4",
        "repeated ModelInput input 5",
        "repeated ModelOutput output 6",
        "ModelDynamicBatching dynamic_batching 11",
        "string backend 17",
    ),
    "ModelInput": ("string name 1", "DataType data_type 2", "repeated int64 dims 4"),
    "ModelOutput": ("string name 1", "DataType data_type 2", "repeated int64 dims 3"),
    "ModelDynamicBatching": ("uint64 max_queue_delay_microseconds 2",),
    "ModelStatisticsRequest": ("string name 1", "string version 2"),
    "ModelStatisticsResponse": ("repeated ModelStatistics model_stats 1",),
    "ModelStatistics": (
        "string name 1",
        "string version 2",
        "uint64 inference_count 4",
        "uint64 execution_count 5",
        "InferStatistics inference_stats 6",
    ),
    "InferStatistics": (
        "StatisticDuration success 1",
        "StatisticDuration fail 2",
        "StatisticDuration queue 3",
        "StatisticDuration compute_input 4",
        "StatisticDuration compute_infer 5",
        "StatisticDuration compute_output 6",
    ),
    "StatisticDuration": ("uint64 count 1", "uint64 ns 2"),
    "RepositoryIndexRequest": ("string repository_name 1", "bool ready 2"),
    "RepositoryIndexResponse": ("repeated RepositoryIndexResponse.ModelIndex models 1",),
    "RepositoryIndexResponse.ModelIndex": (
        "string name 1",
        "string version 2",
        "string state 3",
        "string reason 4",
    ),
    "RepositoryModelLoadRequest": ("string repository_name 1", "string model_name 2"),
    "RepositoryModelLoadResponse": (),
    "RepositoryModelUnloadRequest": ("string repository_name 1", "string model_name 2"),
    "RepositoryModelUnloadResponse": (),
}

_Field = descriptor_pb2.FieldDescriptorProto


def messages_of(table: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
    """The classes of a table's messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="s2dnas_inference.proto", package=PACKAGE, syntax="proto3")
    file.enum_type.add(
        name="DataType",
        value=[
            descriptor_pb2.EnumValueDescriptorProto(name=name, number=number)
            for number, name in enumerate(_DATA_TYPES)
        ],
    )
    messages: dict[str, Any] = {}
    for path, fields in table.items():
        outer, _, name = path.rpartition(".")
        message = (messages[outer].nested_type if outer else file.message_type).add(name=name or path)
        messages[path] = message
        for each in fields:
            _add(message, each.split(), f".{PACKAGE}.{path}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        path: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{path}"))
        for path in table
    }


def _add(message: Any, words: Sequence[str], path: str) -> None:
    """One field of a message."""
    *how, kind, name, number = words
    if how == ["map"]:  # an entry of key and value, as protobuf has it
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add(entry, ("string", "key", "1"), path)
        _add(entry, (kind, "value", "2"), path)
        how, kind = ["repeated"], f"{path.removeprefix(f'.{PACKAGE}.')}.ParametersEntry"
    label = _Field.LABEL_REPEATED if how == ["repeated"] else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), label=label)
    scalar = getattr(_Field, f"TYPE_{kind.upper()}", None)
    if scalar is not None:
        field.type = scalar
    else:
        field.type = _Field.TYPE_ENUM if kind == "DataType" else _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
    if how == ["oneof"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


MESSAGES = messages_of(_TABLE)
"""The classes, by name."""
