"""Tracing: run the user's network once on symbols that know their shapes, and record what it calls.

Place in the flow: static network ──trace──▶ `torch.fx` graph ──lowering──▶ channel graph. Every proxy
carries a meta tensor of the real shape, so Python code that asks for shapes runs as usual, and code that
asks for values is refused with its line. Computations on weights alone run as they are; their results
become constants. This module decides nothing about channels.
"""

import copy
import linecache
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from s2dnas_deploy.errors import ModelError, UnsupportedNetworkError

# A batch size that no one writes into a network: a shape that starts with it is a batch. Meta tensors
# have no memory, so its size costs nothing.
BATCH = 1_000_003

_TORCH_FOLDER = str(Path(torch.__file__).parent) + os.sep
_OWN_FOLDER = str(Path(__file__).parents[1]) + os.sep
_FACTORIES = frozenset({"zeros", "ones", "full", "empty"})
_RANDOM = frozenset({"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"})
_VALUE_METHODS = frozenset({"item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__"})
_DEVICE_METHODS = frozenset({"cuda", "cpu", "xpu", "mps", "pin_memory"})
_STOCHASTIC_DEPTH = frozenset({"StochasticDepth", "DropPath"})
MAX_CALLS = 10_000  # the largest networks known make a third as many; a loop over the batch makes a million


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
    if len(input_shape) != 3 or not all(type(size) is int and size > 0 for size in input_shape):
        raise ModelError(f"expected an image shape (channels, height, width), got {tuple(input_shape)}")
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    if dtype not in {torch.float32, torch.float64}:
        raise ModelError(f"the network's weights are {dtype}; expected float32: call network.float() first")
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_meta:
            raise ModelError(
                f"weight {name!r} is on the meta device and has no values; load the weights first"
            )
    tracer = _ShapeTracer(torch.empty(BATCH, *input_shape, dtype=dtype, device="meta"))
    try:
        with torch.no_grad(), evaluation_mode(network), _FactoriesFollow(tracer):
            calls = tracer.trace(_OneInput(network))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_why_tracing_failed(error, input_shape)) from error
    for call in calls.nodes:
        if "refusal" in call.meta:  # raised, and caught by the network's own try
            raise call.meta["refusal"]
    return Trace(
        calls=calls,
        constants=tracer.constants,
        modules=tracer.leaves,
        names=tracer.names,
        parameters=frozenset(name for name, _ in network.named_parameters()),
        dtype=dtype,
    )


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[nn.Module]:
    """The network in evaluation mode; afterwards every module has the mode it had, frozen ones too."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield network.eval()
    finally:
        for module, mode in modes:
            module.training = mode


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

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in {"node", "tracer"}:
            raise AttributeError(name)
        value = getattr(self.node.meta["value"], name)  # what a tensor lacks, its proxy lacks
        return value if _is_plain(value) else super().__getattr__(name)

    @property
    def data(self) -> Any:
        return self

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
            return iter([operator.getitem(cast(Any, self), i) for i in range(len(value))])
        raise UnsupportedNetworkError(
            f"the network walks over a tensor (node {self.node.name!r}), so its calls depend on the batch\n"
            f"  at {_user_line()}"
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


def _is_plain(value: Any) -> bool:
    """Whether a value is known without numbers: a size, a count, a type."""
    return value is None or isinstance(value, (int, float, str, torch.Size, torch.dtype, torch.layout))


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
        if "forward" in vars(m):
            return False  # someone put another forward in this one's place
        # Stochastic depth is one call to keep: traced through in evaluation mode it would vanish.
        return type(m).__name__ in _STOCHASTIC_DEPTH or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(m, torch.jit.ScriptModule):
            raise UnsupportedNetworkError(
                f"{m.original_name!r} is a TorchScript module, whose calls cannot be followed; give the "
                f"Python module that it was made from\n  at {_user_line()}"
            )
        # What reads no image is weights alone. A layer without weights may be made where it is used:
        # `nn.ReLU()(x)` is F.relu(x).
        reads_image = any(issubclass(type(leaf), fx.Proxy) for leaf in tree_leaves((args, kwargs)))
        is_part = any(m is part for part in self.root.modules())
        if not reads_image or (not is_part and not m.state_dict()):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError as error:
            raise ModelError(
                f"forward() calls a {type(mod).__name__} that is no registered part of the network, so its "
                "weights would be missed; keep layers as attributes or in an nn.ModuleList\n"
                f"  at {_user_line()}"
            ) from error

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        # Weights stay real tensors, so what a network computes from weights alone is folded.
        return attr_val

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self._constant(a)
        if isinstance(a, np.generic):
            return a.item()
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        line = _user_line() if kind != "output" else _definition_of(self.root.network)
        if len(self.graph.nodes) > MAX_CALLS:
            raise UnsupportedNetworkError(
                f"forward() makes more than {MAX_CALLS} calls; does it loop over the images of a batch?\n"
                f"  at {line}"
            )
        _refuse_autograd_function(sys._getframe(1))
        node.meta.setdefault("line", line)
        node.meta.setdefault("scope", self.scope.module_path.removeprefix("network").lstrip("."))
        return node

    def proxy(self, node: fx.Node) -> Any:
        if node.op != "output":
            _refuse_single_images(node)
            node.meta["value"] = self._value_of(node)
            if _is_plain(node.meta["value"]):
                return node.meta["value"]  # an answer about shape or type; no one needs the call
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
            if node.target in _DEVICE_METHODS:
                return args[0]
            args, kwargs = _on_meta(args, kwargs, str(node.target) == "to")
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        args, kwargs = _on_meta(args, kwargs, False)
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
            try:
                self._meta_leaves[path] = copy.deepcopy(leaf).to("meta")
            except (RuntimeError, NotImplementedError, ValueError) as error:
                raise ModelError(
                    f"module {path.removeprefix('network.')!r} ({type(leaf).__name__}) cannot be copied: "
                    f"{error}"
                ) from error
        return self._meta_leaves[path]


class _FactoriesFollow(TorchFunctionMode):
    """Records `torch.zeros(batch, …)` and its kin: a tensor of the batch's size must not be made for real."""

    def __init__(self, tracer: _ShapeTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").removesuffix("_like").rstrip("_")
        if name in _RANDOM:
            raise UnsupportedNetworkError(
                f"forward() draws random numbers ({func.__name__}) in evaluation mode, so the network gives "
                f"no one answer; draw them under `if self.training`\n  at {_user_line()}"
            )
        made_by_user = name in _FACTORIES and str(kwargs.get("device")) != "meta"
        if made_by_user and BATCH in _flat_ints((args, kwargs.get("size"))):
            return self.tracer.create_proxy("call_function", func, args, kwargs)
        return func(*args, **kwargs)


def _on_meta(args: Any, kwargs: Any, moves: bool) -> tuple[Any, Any]:
    """The arguments with every device replaced by meta, where the values are; `.to("cuda")` names one."""
    named = ("cpu", "cuda", "xpu", "mps")

    def moved(value: Any) -> Any:
        is_name = moves and isinstance(value, str) and value.startswith(named)
        return torch.device("meta") if is_name or isinstance(value, torch.device) else value

    given = {
        key: torch.device("meta") if key == "device" and v is not None else v for key, v in kwargs.items()
    }
    return tuple(moved(value) for value in args), given


def _refuse_single_images(node: fx.Node) -> None:
    """`x[i]` takes one image out of the batch; a loop over them would be as long as the batch."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return
    first = node.args[1][0] if isinstance(node.args[1], tuple) and node.args[1] else node.args[1]
    value = node.args[0].meta["value"]
    if isinstance(value, Tensor) and value.shape[0] == BATCH and type(first) is int:
        raise UnsupportedNetworkError(
            f"index {node.args[1]!r} (getitem) picks one image out of the batch; a network must treat all "
            f"images alike\n  at {_user_line()}"
        )


def _refuse_autograd_function(frame: FrameType | None) -> None:
    """A function with a backward of its own would train differently once it is taken apart."""
    while frame is not None:
        name = _autograd_function_in(frame)
        if name:
            raise UnsupportedNetworkError(_why_not_autograd_function(name, _user_line(frame)))
        frame = frame.f_back


def _autograd_function_in(frame: FrameType) -> str:
    """The user's `torch.autograd.Function` that a frame applies, or nothing; torch's own do not count."""
    apply: Any = torch.autograd.Function.apply
    if frame.f_code is not apply.__func__.__code__:
        return ""
    function = frame.f_locals.get("cls")
    return "" if function is None or function.__module__.startswith("torch.") else str(function.__name__)


def _why_not_autograd_function(name: str, line: str) -> str:
    return (
        f"{name!r} is a torch.autograd.Function with a backward of its own, which is not followed; write it "
        f"with torch's functions (torch.nn.functional.silu for a memory-saving swish)\n  at {line}"
    )


def _flat_ints(value: Any) -> list[int]:
    if isinstance(value, (tuple, list)):
        return [number for item in value for number in _flat_ints(item)]
    return [value] if isinstance(value, int) else []


def _data_dependent(node: fx.Node) -> UnsupportedNetworkError:
    node.meta["refusal"] = UnsupportedNetworkError(
        f"control flow depends on the values in node {node.name!r} ({node.target}), so the network is not "
        "one fixed graph; move the decision out of forward(), or make it depend on shapes only\n"
        f"  at {_user_line()}"
    )
    refusal: UnsupportedNetworkError = node.meta["refusal"]
    return refusal


def _definition_of(network: Any) -> str:
    """Where a network's forward() begins."""
    code = getattr(type(network).forward, "__code__", None)
    return _describe_line(code.co_filename, code.co_firstlineno) if code else "an unknown line"


def _user_line(frame: FrameType | None = None) -> str:
    """The innermost line on the stack, or at or below a frame, that is neither torch's nor this module's."""
    frame = frame or sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__ and name.startswith(_OWN_FOLDER):
            return "the network's own call"
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
        function = _autograd_function_in(traceback.tb_frame)
        if function:
            return _why_not_autograd_function(function, line)
        if not name.startswith((_TORCH_FOLDER, _OWN_FOLDER, "<")):
            line = _describe_line(name, traceback.tb_lineno)
        traceback = traceback.tb_next
    if "Unable to cast Proxy" in str(error):
        message = "a TorchScript function (@torch.jit.script) cannot be followed; call the plain function"
    elif isinstance(error, RuntimeError):
        message += "\n  if it reads images of another shape, give that: --input CxHxW"
    return f"{message}\n  at {line}" if line else message


def _describe_line(filename: str, number: int) -> str:
    return f"{filename}:{number}: {linecache.getline(filename, number).strip()}"
