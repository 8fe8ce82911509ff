"""What calls become while they are lowered: tensors with channels, and the few things on the way to one.

A lowering takes these in place of torch's tensors; the functions here let it insist on the kind it needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class RefusedError(Exception):
    """Why one call cannot be lowered; `lower` adds the node and the line."""


@dataclass(frozen=True)
class Value:
    """A tensor of the channel graph, [C, *space]."""

    name: str
    shape: tuple[int, ...]

    @property
    def space(self) -> tuple[int, ...]:
        """Height and width, or what there is of them."""
        return self.shape[1:]


@dataclass(frozen=True)
class SplitChannels:
    """A tensor whose channel axis is seen as several axes, on the way to a channel shuffle."""

    value: Value
    factors: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class OneChannel:
    """A single channel without its axis: `x[:, 2]`, on the way to unsqueeze or stack."""

    value: Value


@dataclass(frozen=True)
class Zeros:
    """A tensor of zeros, [C, *space], on the way to a cat or an add."""

    shape: tuple[int, ...]


class Unused:
    """A second result (the indices of a max) that no one may use."""


def tensor_of(value: Any, what: str = "its input") -> Value:
    """The argument as a tensor with channels; anything else is refused."""
    if isinstance(value, Value):
        return value
    if isinstance(value, SplitChannels):
        raise RefusedError(
            f"{what} has its channels reshaped to {value.factors}, which only a channel shuffle "
            "(reshape, transpose, reshape) may do"
        )
    if isinstance(value, OneChannel):
        raise RefusedError(
            f"{what} is one channel without its axis (x[:, i]); keep the axis: x[:, i : i + 1]"
        )
    raise RefusedError(f"{what} is a {type(value).__name__.strip('_')}, expected a tensor with channels")


def weight_of(value: Any, what: str) -> Tensor:
    """The argument as a tensor that depends on no image; anything else is refused."""
    if isinstance(value, Tensor):
        return value
    raise RefusedError(f"{what} is computed from the image; expected a weight")


def optional_weight(value: Any, what: str) -> Tensor | None:
    """`weight_of`, where there may be none."""
    return None if value is None else weight_of(value, what)


def pair(value: Any) -> tuple[int, int]:
    """A number for both directions, or one for each."""
    if isinstance(value, (tuple, list)):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))


def plain(value: Any) -> Any:
    """Tuples as lists, which is how JSON gives them back."""
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_the_front(dim: Any, x: Value) -> int:
    """A dimension counted from the front, batch first."""
    rank = 1 + len(x.shape)
    if not isinstance(dim, int):
        raise RefusedError(f"expected a dimension as a number, got {dim!r}")
    return dim % rank


def refuse_options(function: str, given: Mapping[str, Any], ignorable: set[str]) -> None:
    """Refuse what was set and cannot be followed; what is None was not set."""
    unknown = {key for key, value in given.items() if key not in ignorable and value is not None}
    if unknown:
        raise RefusedError(f"{function} with {', '.join(sorted(unknown))} is not supported")


def describe(result: Any) -> str:
    """What a thing is, in a message."""
    if isinstance(result, (tuple, list)):
        return f"{len(result)} tensors"
    return "a dictionary" if isinstance(result, dict) else f"a {type(result).__name__.strip('_')}"
