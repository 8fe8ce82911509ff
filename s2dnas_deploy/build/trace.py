"""Tracing: run the user's network once on symbols that know their shapes, and record what it calls.

Place in the flow: static network ──trace──▶ `torch.fx` graph ──lowering──▶ channel graph. Every proxy
carries a meta tensor of the real shape, so Python code that asks for shapes runs as usual, and code that
asks for values is refused with its line. Computations on weights alone run as they are; their results
become constants. This module decides nothing about channels.
"""

import copy
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from s2dnas_deploy.errors import ModelError, UnsupportedNetworkError

# A batch size that no one writes into a network: a shape that starts with it is a batch. Meta tensors
# have no memory, so its size costs nothing.
BATCH = 1_000_003

_TORCH_FOLDER = str(Path(torch.__file__).parent) + os.sep
_FACTORIES = frozenset({"zeros", "ones", "full", "empty", "rand", "randn", "randint"})
_VALUE_METHODS = frozenset({"item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__"})


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What tracing recorded: the calls, and the tensors they use that depend on no input.

    `constants` are those that functions were given, `modules` the layers by path; `names` tells a tensor
    of the network (by its id) its own name, and `parameters` which of those names can be trained.
    """

    calls: fx.Graph
    constants: Mapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    names: Mapping[int, str]
    parameters: frozenset[str]
    dtype: torch.dtype


def trace(network: nn.Module, input_shape: tuple[int, ...]) -> Trace:
    """Record the calls that `network`, in evaluation mode, makes on a batch of `input_shape` images."""
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    tracer = _ShapeTracer(torch.empty(BATCH, *input_shape, dtype=dtype, device="meta"))
    was_training = network.training
    try:
        with torch.no_grad(), _FactoriesFollow(tracer):
            calls = tracer.trace(_OneInput(network.eval()))
    except (ModelError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ModelError(_why_tracing_failed(error, input_shape)) from error
    finally:
        network.train(was_training)
    return Trace(
        calls=calls,
        constants=tracer.constants,
        modules=tracer.leaves,
        names=tracer.names,
        parameters=frozenset(name for name, _ in network.named_parameters()),
        dtype=dtype,
    )


def line_of(call: fx.Node) -> str:
    """Where in the user's code a call was made: `file.py:12: the line`."""
    return str(call.meta.get("line", "an unknown line"))


def shape_of(call: fx.Node) -> tuple[int, ...]:
    """Shape of a call's result without its batch dimension."""
    return tuple(call.meta["value"].shape[1:])


class _OneInput(nn.Module):
    """The network as a function of the image alone: its other arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        return self.network(image)


class _ShapedProxy(fx.Proxy):
    """A proxy that answers questions about its shape and type, and refuses those about its values."""

    @property
    def _value(self) -> Tensor:
        value: Tensor = self.node.meta["value"]
        return value

    @property
    def shape(self) -> torch.Size:
        return self._value.shape

    @property
    def ndim(self) -> int:
        return self._value.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self._value.dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def is_cuda(self) -> bool:
        return False

    @property
    def requires_grad(self) -> bool:
        return False

    @property
    def training(self) -> bool:
        return False

    def size(self, dim: int | None = None) -> Any:
        return self._value.shape if dim is None else self._value.shape[dim]

    def dim(self) -> int:
        return self._value.ndim

    def numel(self) -> int:
        return self._value.numel()

    def is_floating_point(self) -> bool:
        return self._value.is_floating_point()

    def is_contiguous(self, *args: Any, **kwargs: Any) -> bool:
        return True

    def __len__(self) -> int:
        value = self.node.meta["value"]
        return len(value)

    def __iter__(self) -> Iterator[Any]:
        value = self.node.meta["value"]
        if isinstance(value, (tuple, list)):
            return iter([self[i] for i in range(len(value))])
        raise UnsupportedNetworkError(
            f"the network walks over a tensor, so its calls depend on the batch\n  at {line_of(self.node)}"
        )

    def __int__(self) -> int:
        raise _data_dependent(self.node)

    def __float__(self) -> float:
        raise _data_dependent(self.node)

    def __index__(self) -> int:
        raise _data_dependent(self.node)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise UnsupportedNetworkError(
            f"node {self.node.name!r} is written into by assignment to a slice, which is not supported; "
            f"build the tensor with torch.cat or F.pad instead\n  at {_user_line()}"
        )


class _ShapeTracer(fx.Tracer):
    """`torch.fx` with shapes: each node carries its value on the meta device and its line of user code."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images
        self.constants: dict[str, Tensor] = {}
        self.leaves: dict[str, nn.Module] = {}
        self.names: dict[int, str] = {}
        self._meta_leaves: dict[str, nn.Module] = {}
        self._kept: list[Tensor] = []  # keeps ids in `names` from being used again

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
            self.names.setdefault(id(tensor), name.removeprefix("network."))
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Stochastic depth is one call to keep: traced through in evaluation mode it would vanish.
        return type(m).__name__ == "StochasticDepth" or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # Weights stay real tensors, so what a network computes from weights alone is folded.
        return attr_val

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self._constant(a)
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        node.meta.setdefault("line", _user_line())
        node.meta.setdefault("scope", self.scope.module_path.removeprefix("network").lstrip("."))
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if node.op != "output":
            node.meta["value"] = self._value_of(node)
        return _ShapedProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise _data_dependent(obj.node)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return _ShapedProxy.__iter__(obj)  # type: ignore[arg-type]

    def keys(self, obj: fx.Proxy) -> Any:
        raise UnsupportedNetworkError(f"a tensor is used as a mapping\n  at {_user_line()}")

    def _constant(self, tensor: Tensor) -> fx.Node:
        """The node that stands for a tensor that depends on no input; one node per use, one name each."""
        name = self.names.setdefault(id(tensor), f"constant_{len(self._kept)}")
        self._kept.append(tensor)
        self.constants[name] = tensor
        return self.create_node("get_attr", name, (), {})

    def _value_of(self, node: fx.Node) -> Any:
        """Run one call on meta tensors: shapes without numbers."""
        if node.op == "placeholder":
            return self.images
        args = fx.node.map_arg(node.args, self._meta)
        kwargs = fx.node.map_arg(node.kwargs, self._meta)
        if node.op == "call_module":
            return self._meta_leaf(str(node.target)).forward(*args, **kwargs)  # __call__ is being traced
        if node.op == "call_method":
            if node.target in _VALUE_METHODS:
                raise _data_dependent(node)
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        if getattr(function, "__name__", "") in _FACTORIES:
            kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)

    def _meta(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return self.constants[str(node.target)].detach().to("meta")
        return node.meta["value"]

    def _meta_leaf(self, path: str) -> nn.Module:
        if path not in self._meta_leaves:
            leaf = self.root.get_submodule(path)
            self.leaves[path.removeprefix("network.")] = leaf
            self._meta_leaves[path] = copy.deepcopy(leaf).to("meta")
        return self._meta_leaves[path]


class _FactoriesFollow(TorchFunctionMode):
    """Records `torch.zeros(batch, …)` and its kin: a tensor of the batch's size must not be made for real."""

    def __init__(self, tracer: _ShapeTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made_by_user = getattr(func, "__name__", "") in _FACTORIES and kwargs.get("device") != "meta"
        if made_by_user and BATCH in _flat_ints((args, kwargs.get("size"))):
            return self.tracer.create_proxy("call_function", func, args, kwargs)
        return func(*args, **kwargs)


def _flat_ints(value: Any) -> list[int]:
    if isinstance(value, (tuple, list)):
        return [number for item in value for number in _flat_ints(item)]
    return [value] if isinstance(value, int) else []


def _data_dependent(node: fx.Node) -> UnsupportedNetworkError:
    return UnsupportedNetworkError(
        f"control flow depends on the values in node {node.name!r} ({node.target}), so the network is not "
        "one fixed graph; move the decision out of forward(), or make it depend on shapes only\n"
        f"  at {_user_line()}"
    )


def _user_line() -> str:
    """The innermost line on the stack that is neither torch's nor this module's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__ and not name.startswith((_TORCH_FOLDER, "<")):
            return _describe_line(name, frame.f_lineno)
        frame = frame.f_back
    return "an unknown line"


def _why_tracing_failed(error: Exception, input_shape: tuple[int, ...]) -> str:
    shape = "x".join(map(str, input_shape))
    message = f"the network cannot be run on a {shape} image: {type(error).__name__}: {error}"
    traceback, line = error.__traceback__, ""
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if name != __file__ and not name.startswith((_TORCH_FOLDER, "<")):
            line = _describe_line(name, traceback.tb_lineno)
        traceback = traceback.tb_next
    return f"{message}\n  at {line}" if line else message


def _describe_line(filename: str, number: int) -> str:
    return f"{filename}:{number}: {linecache.getline(filename, number).strip()}"
