"""Leaf modules: each `torch.nn` layer, spelled as the function call it stands for.

Place in the flow: `lowering` meets a module in a trace and asks here which function, with which arguments,
the module calls on its input; so one table of lowerings serves modules, functions and methods alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class LeafCall:
    """`function(x, *args, **kwargs)`, which is what the module computes of x."""

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def call_of_leaf(leaf: nn.Module) -> LeafCall | None:
    """The function that a layer stands for; None for a layer that is not known."""
    for kind in type(leaf).__mro__:
        if kind in _LEAVES:
            return _LEAVES[kind](leaf)
    if type(leaf).__name__ in {"StochasticDepth", "DropPath"}:
        return _stochastic_depth(leaf)
    return None


def _stochastic_depth(leaf: Any) -> LeafCall | None:
    """The (p, mode) of torchvision, or the DropPath that many repositories copy (drop_prob, per image)."""
    if hasattr(leaf, "p") and hasattr(leaf, "mode"):
        return LeafCall("stochastic_depth", (leaf.p, leaf.mode))
    if hasattr(leaf, "drop_prob") and getattr(leaf, "scale_by_keep", True):
        return LeafCall("stochastic_depth", (leaf.drop_prob or 0.0, "row"))
    return None


def _named(function: str, *attributes: str) -> Callable[[Any], LeafCall]:
    """A layer whose attributes are the function's keyword arguments, under the same names."""
    return lambda leaf: LeafCall(function, (), {name: getattr(leaf, name) for name in attributes})


def _conv(leaf: Any) -> LeafCall:
    """Padding other than by zeros is a `pad` that comes first; `PaddedConv` says so to the lowering."""
    arguments = (leaf.weight, leaf.bias, leaf.stride, leaf.padding, leaf.dilation, leaf.groups)
    if leaf.padding_mode == "zeros":
        return LeafCall("conv2d", arguments)
    return LeafCall(
        "padded_conv2d",
        (leaf.weight, leaf.bias, leaf.stride, leaf.dilation, leaf.groups),
        {"pad": leaf._reversed_padding_repeated_twice, "mode": leaf.padding_mode},
    )


def _batch_norm(leaf: Any) -> LeafCall:
    statistics = (leaf.running_mean, leaf.running_var, leaf.weight, leaf.bias)
    return LeafCall("batch_norm", statistics, {"momentum": leaf.momentum, "eps": leaf.eps})


def _instance_norm(leaf: Any) -> LeafCall:
    arguments = {
        "running_mean": leaf.running_mean,
        "running_var": leaf.running_var,
        "weight": leaf.weight,
        "bias": leaf.bias,
        "use_input_stats": not leaf.track_running_stats,
        "eps": leaf.eps,
    }
    return LeafCall("instance_norm", (), arguments)


def _padding(mode: str) -> Callable[[Any], LeafCall]:
    return lambda leaf: LeafCall(
        "pad", (leaf.padding,), {"mode": mode, "value": getattr(leaf, "value", None)}
    )


def _upsample(leaf: Any) -> LeafCall:
    arguments = {"size": leaf.size, "scale_factor": leaf.scale_factor, "mode": leaf.mode}
    return LeafCall("interpolate", (), {**arguments, "align_corners": leaf.align_corners})


_POOL = ("kernel_size", "stride", "padding")

_LEAVES: Mapping[type[nn.Module], Callable[[Any], LeafCall]] = {
    nn.Conv2d: _conv,
    nn.Linear: lambda leaf: LeafCall("linear", (leaf.weight, leaf.bias)),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm,
    nn.GroupNorm: lambda leaf: LeafCall("group_norm", (leaf.num_groups, leaf.weight, leaf.bias, leaf.eps)),
    nn.LogSoftmax: _named("log_softmax", "dim"),
    nn.Softmax: _named("softmax", "dim"),
    nn.GLU: _named("glu", "dim"),
    nn.ReLU: _named("relu"),
    nn.ReLU6: _named("relu6"),
    nn.LeakyReLU: _named("leaky_relu", "negative_slope"),
    nn.ELU: _named("elu", "alpha"),
    nn.CELU: _named("celu", "alpha"),
    nn.SELU: _named("selu"),
    nn.GELU: _named("gelu", "approximate"),
    nn.SiLU: _named("silu"),
    nn.Mish: _named("mish"),
    nn.Hardswish: _named("hardswish"),
    nn.Hardsigmoid: _named("hardsigmoid"),
    nn.Hardtanh: _named("hardtanh", "min_val", "max_val"),
    nn.Hardshrink: _named("hardshrink", "lambd"),
    nn.Softshrink: _named("softshrink", "lambd"),
    nn.Tanhshrink: _named("tanhshrink"),
    nn.Threshold: _named("threshold", "threshold", "value"),
    nn.Sigmoid: _named("sigmoid"),
    nn.LogSigmoid: _named("logsigmoid"),
    nn.Softplus: _named("softplus", "beta", "threshold"),
    nn.Softsign: _named("softsign"),
    nn.Tanh: _named("tanh"),
    nn.PReLU: _named("prelu", "weight"),
    nn.RReLU: _named("rrelu"),
    nn.MaxPool2d: _named("max_pool2d", *_POOL, "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: _named("avg_pool2d", *_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
    nn.LPPool2d: _named("lp_pool2d", "norm_type", "kernel_size", "stride", "ceil_mode"),
    nn.AdaptiveAvgPool2d: _named("adaptive_avg_pool2d", "output_size"),
    nn.AdaptiveMaxPool2d: _named("adaptive_max_pool2d", "output_size", "return_indices"),
    nn.MaxPool1d: _named("max_pool1d", *_POOL, "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool1d: _named("avg_pool1d", *_POOL, "ceil_mode", "count_include_pad"),
    nn.AdaptiveAvgPool1d: _named("adaptive_avg_pool1d", "output_size"),
    nn.AdaptiveMaxPool1d: _named("adaptive_max_pool1d", "output_size", "return_indices"),
    nn.Flatten: _named("flatten"),
    nn.Unflatten: _named("unflatten"),
    nn.PixelUnshuffle: _named("pixel_unshuffle", "downscale_factor"),
    nn.ChannelShuffle: _named("channel_shuffle", "groups"),
    nn.ZeroPad2d: _padding("constant"),
    nn.ConstantPad2d: _padding("constant"),
    nn.ReflectionPad2d: _padding("reflect"),
    nn.ReplicationPad2d: _padding("replicate"),
    nn.CircularPad2d: _padding("circular"),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.UpsamplingBilinear2d: _upsample,
    nn.Identity: _named("identity"),
    nn.Dropout: _named("dropout", "p"),
    nn.Dropout1d: _named("dropout1d", "p"),
    nn.Dropout2d: _named("dropout2d", "p"),
    nn.AlphaDropout: _named("alpha_dropout", "p"),
    nn.FeatureAlphaDropout: _named("feature_alpha_dropout", "p"),
}
