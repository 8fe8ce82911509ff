"""A request to infer, out of a message, and its answers into one.

Place in the flow: `ModelInferRequest` ──decoded──▶ `Ask` ──▶ … ──encoded──▶ `ModelInferResponse`. Answers are
in binary always, as the clients that there are want them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.serve.ask import (
    BYTES,
    Ask,
    Tensors,
    as_bytes,
    check_input,
    check_outputs,
    from_binary,
    from_numbers,
    options_from,
)
from s2dnas_deploy.serve.grpc.messages import MESSAGES

_CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents", BYTES: "bytes_contents"}


def decoded(request: Any, tensors: Tensors) -> Ask:
    """Read a request to infer; a `DataError` says what is wrong with it."""
    if len(request.inputs) != 1:
        raise DataError(f"expected one input, got {len(request.inputs)}")
    outputs = check_outputs([each.name for each in request.outputs], tensors)
    return Ask(
        id=request.id,
        images=_images(request.inputs[0], list(request.raw_input_contents), tensors),
        options=options_from({name: _value(each) for name, each in request.parameters.items()}, outputs),
        outputs=outputs,
    )


def encoded(ask: Ask, answers: Mapping[str, Array], tensors: Tensors, *, model: str, version: str) -> Any:
    """The message of the answers."""
    response = MESSAGES["ModelInferResponse"](model_name=model, model_version=version, id=ask.id)
    for name, values in answers.items():
        datatype = tensors.answers[name].datatype
        response.outputs.add(name=name, datatype=datatype, shape=values.shape)
        content = as_bytes(values) if datatype == BYTES else np.ascontiguousarray(values).tobytes()
        response.raw_output_contents.append(content)
    return response


def _images(tensor: Any, raw: list[bytes], tensors: Tensors) -> Array | tuple[bytes, ...]:
    shape = list(tensor.shape)
    check_input(tensor.name, tensor.datatype, shape, tensors)
    if len(raw) > 1:
        raise DataError(f"expected one raw content, got {len(raw)}")
    if raw:
        return from_binary(raw[0], tensor.datatype, shape)
    values = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    if tensor.datatype != BYTES:
        return from_numbers(np.array(values), tensor.datatype, shape)
    if len(values) != shape[0]:
        raise DataError(f"expected {shape[0]} items of bytes_contents, got {len(values)}")
    return tuple(values)


def _value(parameter: Any) -> Any:
    which = parameter.WhichOneof("parameter_choice")
    return None if which is None else getattr(parameter, which)
