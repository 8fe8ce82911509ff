"""How many images export takes at a time: as many as what is computed of them leaves room for.

Place in the flow: the stages' graphs ──▶ what one image takes ──▶ the size of the batches in which they are
calibrated and judged. So memory depends on the network, and not on how many images there are.

    bytes of an image = 4 · the largest tensor of any graph + all that stages give

A layer holds what it reads and what it makes, a branch beside it what it will be added to, and rounding is
looked at in copies; what stages give is held until the last of them has read it.
"""

from collections.abc import Iterable, Sequence
from math import prod

import onnx
from onnx import ModelProto, ValueInfoProto

_HELD, _BATCH_BYTES = 4, 2**28
_FLOAT32_BYTES = 4


def at_once(most: int, *, largest: int, given: int = 0) -> int:
    """How many images, `most` at the most: by the largest tensor of one, and all that stages give of it."""
    return max(1, min(most, _BATCH_BYTES // max(1, _HELD * largest + given)))


def at_once_in(models: Sequence[ModelProto], most: int) -> int:
    """How many images, as the graphs of all stages say."""
    inferred = [onnx.shape_inference.infer_shapes(model).graph for model in models]
    tensors = [value for graph in inferred for value in (*graph.value_info, *graph.input, *graph.output)]
    given = sum(_bytes_of(value) for graph in inferred for value in graph.output)
    return at_once(most, largest=max(map(_bytes_of, tensors)), given=given)


def largest_of(shapes: Iterable[Sequence[int]]) -> int:
    """Bytes of the largest of the tensors, in float32."""
    return _FLOAT32_BYTES * max(map(prod, shapes))


def _bytes_of(value: ValueInfoProto) -> int:
    """For one image: a size that is not known is that of the batch; without one, it is a weight."""
    kind = value.type.tensor_type
    if not kind.elem_type or all(dim.dim_value for dim in kind.shape.dim):
        return 0
    count = prod(dim.dim_value or 1 for dim in kind.shape.dim)
    return int(count * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize)
