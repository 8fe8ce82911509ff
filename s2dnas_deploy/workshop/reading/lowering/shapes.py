"""Lowerings of what moves channels or changes shapes: cat, slices, views, shuffles, padding.

Each has the signature of the torch function it stands for.
"""
# Lowerings take torch's arguments under torch's names, `input` among them, in torch's order; what one does
# is what the function it is named after does.
# ruff: noqa: A002, D103

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2dnas_deploy.workshop.reading.lowering.growing import GrowingGraph
from s2dnas_deploy.workshop.reading.lowering.values import (
    OneChannel,
    RefusedError,
    SplitChannels,
    Value,
    Zeros,
    from_the_front,
    refuse_options,
    tensor_of,
)
from s2dnas_deploy.workshop.reading.trace import BATCH, shape_of


def lower_cat(low: GrowingGraph, tensors: Any, dim: int = 0, **axis: Any) -> Value:
    dim = axis.pop("axis", dim)
    refuse_options("cat", axis, set())
    values = [t for t in tensors if isinstance(t, Value)]
    if not values:
        raise RefusedError("cat of no tensor with channels")
    along = from_the_front(dim, values[0])
    if along == 0:
        raise RefusedError("cat over the batch dimension")
    if along != 1 or all(isinstance(t, Value) for t in tensors):
        return low.emit("cat", [tensor_of(t) for t in tensors], {"dim": along})
    return _cat_with_zeros(low, list(tensors))


def lower_hstack(low: GrowingGraph, tensors: Any) -> Value:
    return lower_cat(low, tensors, 1)


def lower_pixel_unshuffle(low: GrowingGraph, input: Any, downscale_factor: int) -> Value:
    """Output c·r² + i·r + j is every r-th pixel of channel c from row i and column j on."""
    x, r = tensor_of(input), int(downscale_factor)
    if r == 1:
        return x
    height, width = x.space
    corners = [
        low.emit("spatial_slice", [x], {"slices": [[i, height, r], [j, width, r]]})
        for i in range(r)
        for j in range(r)
    ]
    together = low.emit("cat", corners, {"dim": 1})
    attributes = {"factors": [r * r, x.shape[0]], "order": [1, 0]}
    return low.emit("channel_shuffle", [together], attributes)


def _cat_with_zeros(low: GrowingGraph, tensors: list[Any]) -> Value:
    """Zeros beside a tensor are channel padding of it."""
    parts: list[Value] = []
    leading = 0
    for tensor in tensors:
        if not isinstance(tensor, Zeros):
            value = tensor_of(tensor)
            parts.append(_channel_padded(low, value, leading, 0) if leading else value)
            leading = 0
        elif parts:
            parts[-1] = _channel_padded(low, parts[-1], 0, tensor.shape[0])
        else:
            leading += tensor.shape[0]
    return parts[0] if len(parts) == 1 else low.emit("cat", parts, {"dim": 1})


def _channel_padded(low: GrowingGraph, x: Value, before: int, after: int, value: float = 0.0) -> Value:
    return low.emit("channel_pad", [x], {"before": before, "after": after, "value": value})


def lower_expand(low: GrowingGraph, input: Any, *sizes: Any, **kwargs: Any) -> Any:
    """Repeats along space, or of a single channel; told by the shape it gives."""
    if isinstance(input, Zeros):
        return Zeros(shape_of(low.call))
    x, wanted = tensor_of(input), shape_of(low.call)
    if len(wanted) != len(x.shape) or low.call.meta["value"].shape[0] != BATCH:
        raise RefusedError(f"expand from {x.shape} to {wanted} an image makes new dimensions")
    if wanted[0] != x.shape[0]:
        x = low.emit("cat", [x] * wanted[0], {"dim": 1})
    return x if x.shape == wanted else low.emit("expand", [x], {"space": list(wanted[1:])})


def lower_repeat(low: GrowingGraph, input: Any, *sizes: Any) -> Value:
    x = tensor_of(input)
    counts = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if len(counts) != 1 + len(x.shape) or any(count != 1 for i, count in enumerate(counts) if i != 1):
        raise RefusedError(f"repeat by {tuple(counts)}; only channels (dim=1) may be repeated")
    return low.emit("cat", [x] * int(counts[1]), {"dim": 1})


def lower_getattr(low: GrowingGraph, input: Any, name: str) -> Any:
    if isinstance(input, tuple) and name == "values":
        return input[0]
    raise RefusedError(f"attribute {name!r} of a tensor has no channel rule")


def lower_stack(low: GrowingGraph, tensors: Any, dim: int = 0) -> Value:
    if dim == 1 and all(isinstance(t, OneChannel) for t in tensors):
        return low.emit("cat", [t.value for t in tensors], {"dim": 1})
    raise RefusedError("stack makes a new axis; only single channels may be stacked over dim=1")


def lower_zeros(low: GrowingGraph, *args: Any, **kwargs: Any) -> Zeros:
    return Zeros(shape_of(low.call))


def lower_reshape(low: GrowingGraph, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Any change of shape, told by the shape it gives: space, a vector, or split channels."""
    if isinstance(input, OneChannel):
        if shape_of(low.call) == input.value.shape:
            return input.value
        raise RefusedError("a single channel may only get its axis back (unsqueeze(1))")
    if isinstance(input, Zeros):
        return Zeros(shape_of(low.call))
    result = low.call.meta["value"]
    if result.dim() < 2 or result.shape[0] != BATCH:
        raise RefusedError(f"it mixes the batch into other dimensions: {_shown(result.shape)}")
    wanted = tuple(result.shape[1:])
    if isinstance(input, SplitChannels):
        return _merge(low, input, wanted)
    return _reshaped(low, tensor_of(input), wanted)


def _reshaped(low: GrowingGraph, x: Value, wanted: tuple[int, ...]) -> Any:
    if wanted == x.shape:
        return x
    if wanted[0] == x.shape[0]:
        return low.emit("reshape", [x], {"space": list(wanted[1:])})
    if wanted == (prod(x.shape),):
        return low.emit("flatten", [x])
    for cut in range(2, len(wanted) + 1):
        if prod(wanted[:cut]) == x.shape[0] and wanted[cut:] == x.space:
            return SplitChannels(x, wanted[:cut], tuple(range(cut)))
    raise RefusedError(
        f"reshape from {x.shape} to {wanted} an image moves pixels into channels, which cannot be divided"
    )


def _merge(low: GrowingGraph, split: SplitChannels, wanted: tuple[int, ...]) -> Any:
    """The end of a channel shuffle: the axes become channels again, in their new order."""
    if wanted != split.value.shape:
        raise RefusedError(f"channels split as {split.factors} must be merged to {split.value.shape} again")
    if split.order == tuple(range(len(split.order))):
        return split.value
    attributes = {"factors": list(split.factors), "order": list(split.order)}
    return low.emit("channel_shuffle", [split.value], attributes)


def _shown(shape: Sequence[int]) -> str:
    return "x".join("batch" if size == BATCH else str(size) for size in shape)


def lower_permute(low: GrowingGraph, input: Any, *dims: Any) -> Any:
    order = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    rank = _rank(input)
    return _reordered(input, tuple(d % rank for d in order))


def lower_transpose(low: GrowingGraph, input: Any, dim0: int, dim1: int) -> Any:
    rank = _rank(input)
    order = list(range(rank))
    a, b = dim0 % rank, dim1 % rank
    order[a], order[b] = order[b], order[a]
    return _reordered(input, tuple(order))


def _rank(value: Any) -> int:
    if isinstance(value, SplitChannels):
        return 1 + len(value.factors) + len(value.value.space)
    return 1 + len(tensor_of(value).shape)


def _reordered(value: Any, order: tuple[int, ...]) -> Any:
    if order == tuple(range(len(order))):
        return value
    axes = len(value.factors) if isinstance(value, SplitChannels) else 1
    if order[0] != 0 or set(order[1 : 1 + axes]) != set(range(1, 1 + axes)):
        raise RefusedError(
            f"permute to order {order} moves the channels out of dimension 1, where they are followed"
        )
    if order[1 + axes :] != tuple(range(1 + axes, len(order))):
        raise RefusedError(f"permute to order {order} swaps height and width, which is not supported")
    moved = tuple(value.order[axis - 1] for axis in order[1 : 1 + axes])
    return SplitChannels(value.value, value.factors, moved)


def lower_native_shuffle(low: GrowingGraph, input: Any, groups: int) -> Value:
    x = tensor_of(input)
    attributes = {"factors": [groups, x.shape[0] // groups], "order": [1, 0]}
    return low.emit("channel_shuffle", [x], attributes)


def lower_getitem(low: GrowingGraph, input: Any, index: Any) -> Any:
    """Pieces of a tuple, or of a tensor; `x[:, :, None]` makes dimensions of space."""
    if isinstance(input, (tuple, list)):
        return input[index]
    x = tensor_of(input)
    with_new = list(index) if isinstance(index, tuple) else [index]
    kept = [item for item in with_new if item is not None]
    if len(kept) < len(with_new) and (len(kept) < 2 or None in with_new[:2] or isinstance(kept[1], int)):
        raise RefusedError(f"index {index!r} makes a dimension before the channels")
    result = _piece(low, x, tuple(kept))
    wanted = low.call.meta["value"].shape[1:] if low.call is not None else ()
    if len(kept) < len(with_new) and isinstance(result, Value):
        return low.emit("reshape", [result], {"space": list(wanted[1:])})
    return result


def _piece(low: GrowingGraph, x: Value, index: tuple[Any, ...]) -> Any:
    items = _full_index(index, 1 + len(x.shape))
    if items[0] != slice(None):
        raise RefusedError(f"index {index!r} picks images out of the batch")
    channel, space = items[1], items[2:]
    listed = _channel_list(channel)
    if listed is not None and all(isinstance(item, slice) for item in space):
        return _picked(low, _spatially_sliced(low, x, space), listed)
    if not all(isinstance(item, (int, slice)) for item in items):
        raise RefusedError(f"index {index!r}: only numbers, slices, … and lists of channels are supported")
    sliced = _spatially_sliced(low, x, space)
    if isinstance(channel, int):
        at = channel % x.shape[0]
        return OneChannel(_channel_slice(low, sliced, at, at + 1))
    start, stop, step = channel.indices(x.shape[0])
    return (
        sliced
        if (start, stop, step) == (0, x.shape[0], 1)
        else _channel_slice(low, sliced, start, stop, step)
    )


def _channel_list(index: Any) -> list[int] | None:
    """The channels that a list names, or a tensor of whole numbers; None if it is neither."""
    if isinstance(index, Tensor) and index.dim() == 1 and index.dtype in (torch.int64, torch.int32):
        return [int(i) for i in index]
    if isinstance(index, list) and index and all(type(i) is int for i in index):
        return index
    return None


def _picked(low: GrowingGraph, x: Value, channels: Sequence[int]) -> Value:
    """Channels in any order, such as RGB from BGR: slices, one for each run of neighbours."""
    known = [channel % x.shape[0] for channel in channels]
    starts = [i for i, channel in enumerate(known) if i == 0 or channel != known[i - 1] + 1]
    runs = [known[a:b] for a, b in zip(starts, [*starts[1:], len(known)], strict=True)]
    parts = [_channel_slice(low, x, run[0], run[-1] + 1) for run in runs]
    return parts[0] if len(parts) == 1 else low.emit("cat", parts, {"dim": 1})


def lower_index_select(low: GrowingGraph, input: Any, dim: int, index: Any) -> Value:
    x, listed = tensor_of(input), _channel_list(index)
    if from_the_front(dim, x) != 1 or listed is None:
        raise RefusedError("index_select of anything but channels (dim=1) by a constant is not supported")
    return _picked(low, x, listed)


def _full_index(index: Any, rank: int) -> list[Any]:
    """The index with `...` written out: one entry per dimension."""
    items = list(index) if isinstance(index, tuple) else [index]
    at = next((i for i, item in enumerate(items) if item is Ellipsis), None)
    if at is not None:
        items[at : at + 1] = [slice(None)] * (rank - len(items) + 1)
    return items + [slice(None)] * (rank - len(items))


def _spatially_sliced(low: GrowingGraph, x: Value, space: Sequence[Any]) -> Value:
    if all(item == slice(None) for item in space):
        return x
    bounds = []
    for item, size in zip(space, x.space, strict=True):
        at = slice(item % size, item % size + 1) if isinstance(item, int) else item
        bounds.append(list(at.indices(size)))
    value = low.emit("spatial_slice", [x], {"slices": bounds})
    kept = [size for item, size in zip(space, value.space, strict=True) if isinstance(item, slice)]
    return value if len(kept) == len(space) else low.emit("reshape", [value], {"space": kept})


def _channel_slice(low: GrowingGraph, x: Value, start: int, stop: int, step: int = 1) -> Value:
    return low.emit("channel_slice", [x], {"start": start, "stop": stop, "step": step})


def lower_chunk(low: GrowingGraph, input: Any, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    x = tensor_of(input)
    size = -(-x.shape[0] // chunks)
    return lower_split(low, input, size, dim)


def lower_split(
    low: GrowingGraph, tensor: Any, split_size_or_sections: Any = None, dim: int = 0, split_size: Any = None
) -> tuple[Value, ...]:
    x, sizes = tensor_of(tensor), split_size if split_size_or_sections is None else split_size_or_sections
    if from_the_front(dim, x) != 1:
        raise RefusedError(f"split over dimension {dim}; only channels (dim=1) may be split")
    if isinstance(sizes, int):
        ends = [*range(sizes, x.shape[0], sizes), x.shape[0]]
    else:
        ends = [int(end) for end in np.cumsum(sizes)]
    starts = [0, *ends[:-1]]
    return tuple(_channel_slice(low, x, a, b) for a, b in zip(starts, ends, strict=True))


def lower_narrow(low: GrowingGraph, input: Any, dim: int, start: int, length: int) -> Any:
    x = tensor_of(input)
    index = [slice(None)] * (1 + len(x.shape))
    index[from_the_front(dim, x)] = slice(start, start + length)
    return _piece(low, x, tuple(index))


def lower_select(low: GrowingGraph, input: Any, dim: int, index: int) -> Any:
    x = tensor_of(input)
    items: list[Any] = [slice(None)] * (1 + len(x.shape))
    items[from_the_front(dim, x)] = index
    return _piece(low, x, tuple(items))


def lower_unbind(low: GrowingGraph, input: Any, dim: int = 0) -> tuple[Any, ...]:
    x = tensor_of(input)
    if from_the_front(dim, x) != 1:
        raise RefusedError(f"unbind over dimension {dim}; only channels (dim=1) may be taken apart")
    return tuple(OneChannel(_channel_slice(low, x, i, i + 1)) for i in range(x.shape[0]))


def lower_pad(low: GrowingGraph, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Value:
    x, fill = tensor_of(input), float(value or 0.0)
    widths = [int(width) for width in pad]
    around, channels = widths[: 2 * len(x.space)], widths[2 * len(x.space) :]
    if len(channels) > 2 or (channels and mode != "constant"):
        raise RefusedError(f"pad of {widths} in mode {mode!r} pads the batch, or channels not by a constant")
    if any(around):
        x = low.emit("spatial_pad", [x], {"pad": around, "mode": mode, "value": fill})
    if any(channels):
        if min(channels) < 0:
            raise RefusedError("channels are padded by a negative number; slice them instead")
        x = _channel_padded(low, x, channels[0], channels[1], fill)
    return x
