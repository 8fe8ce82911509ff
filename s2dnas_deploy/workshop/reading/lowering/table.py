"""The table of lowerings: torch's name for a function ▶ how it becomes a node, or why it cannot.

Modules, functions and methods share it: `leaves` spells a module as a function, SYNONYMS a name as another.
"""

from collections.abc import Callable, Mapping
from typing import Any

from s2dnas_deploy.workshop.reading.lowering.elementwise import (
    binary,
    lower_cast,
    lower_glu,
    lower_interpolate,
    lower_max,
    lower_pow,
    lower_rrelu,
    lower_same,
    pointwise,
    pool,
    reduction,
)
from s2dnas_deploy.workshop.reading.lowering.layers import (
    dropout,
    lower_batch_norm,
    lower_conv2d,
    lower_group_norm,
    lower_instance_norm,
    lower_linear,
    lower_log_softmax,
    lower_matmul,
    lower_padded_conv2d,
    lower_prelu,
    lower_softmax,
    lower_stochastic_depth,
)
from s2dnas_deploy.workshop.reading.lowering.shapes import (
    lower_cat,
    lower_chunk,
    lower_expand,
    lower_getattr,
    lower_getitem,
    lower_hstack,
    lower_index_select,
    lower_narrow,
    lower_native_shuffle,
    lower_pad,
    lower_permute,
    lower_pixel_unshuffle,
    lower_repeat,
    lower_reshape,
    lower_select,
    lower_split,
    lower_stack,
    lower_transpose,
    lower_unbind,
    lower_zeros,
)

_POOL2D = ("kernel_size", "stride", "padding")


SYNONYMS: Mapping[str, str] = {
    "iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div", "true_divide": "div",
    "subtract": "sub", "multiply": "mul", "divide": "div", "concat": "cat", "concatenate": "cat",
    "_threshold": "threshold", "clip": "clamp", "negative": "neg", "absolute": "abs", "arctan": "atan",
    "special_expit": "sigmoid", "radd": "add", "rmul": "mul", "rtruediv": "rdiv", "expand_as": "expand",
    "view_as": "view", "reshape_as": "reshape", "mm": "matmul", "swapaxes": "transpose",
    "swapdims": "transpose", "upsample": "interpolate", "_max_pool2d": "max_pool2d",
    "_max_pool1d": "max_pool1d", "_adaptive_max_pool2d": "adaptive_max_pool2d", "log_sigmoid": "logsigmoid",
}  # fmt: skip


TABLE: Mapping[str, Callable[..., Any]] = {
    # layers
    "conv2d": lower_conv2d,
    "padded_conv2d": lower_padded_conv2d,
    "linear": lower_linear,
    "matmul": lower_matmul,
    "batch_norm": lower_batch_norm,
    "instance_norm": lower_instance_norm,
    "group_norm": lower_group_norm,
    "log_softmax": lower_log_softmax,
    "softmax": lower_softmax,
    "glu": lower_glu,
    # activations and other element-wise functions
    **{name: pointwise(name) for name in (
        "relu", "relu6", "selu", "hardswish", "hardsigmoid", "silu", "mish", "sigmoid", "logsigmoid",
        "softsign", "tanh", "tanhshrink", "abs", "neg", "exp", "log", "sqrt", "rsqrt", "square", "erf",
        "log1p", "reciprocal",
    )},
    "leaky_relu": pointwise("leaky_relu", "negative_slope"),
    "elu": pointwise("elu", "alpha"),
    "celu": pointwise("celu", "alpha"),
    "gelu": pointwise("gelu", "approximate"),
    "hardtanh": pointwise("hardtanh", "min_val", "max_val"),
    "hardshrink": pointwise("hardshrink", "lambd"),
    "softshrink": pointwise("softshrink", "lambd"),
    "threshold": pointwise("threshold", "threshold", "value"),
    "softplus": pointwise("softplus", "beta", "threshold"),
    "clamp": pointwise("clamp", "min", "max"),
    "clamp_min": pointwise("clamp", "min"),
    "clamp_max": pointwise("clamp", "max"),
    "pow": lower_pow,
    "prelu": lower_prelu,
    "rrelu": lower_rrelu,
    # pooling and reductions over space
    "max_pool2d": pool("max_pool2d", *_POOL2D, "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": pool("avg_pool2d", *_POOL2D, "ceil_mode", "count_include_pad", "divisor_override"),
    "lp_pool2d": pool("lp_pool2d", "norm_type", "kernel_size", "stride", "ceil_mode"),
    "adaptive_avg_pool2d": pool("adaptive_avg_pool2d", "output_size"),
    "adaptive_max_pool2d": pool("adaptive_max_pool2d", "output_size", "return_indices"),
    "max_pool1d": pool("max_pool1d", *_POOL2D, "dilation", "ceil_mode", "return_indices"),
    "avg_pool1d": pool("avg_pool1d", *_POOL2D, "ceil_mode", "count_include_pad"),
    "adaptive_avg_pool1d": pool("adaptive_avg_pool1d", "output_size"),
    "adaptive_max_pool1d": pool("adaptive_max_pool1d", "output_size", "return_indices"),
    "mean": reduction("mean"),
    "sum": reduction("sum"),
    "amax": reduction("amax"),
    "amin": reduction("amin"),
    "logsumexp": reduction("logsumexp"),
    "max": lower_max,
    # two tensors, or a tensor and a constant
    "add": binary("add"),
    "sub": binary("sub"),
    "rsub": binary("sub", swapped=True),
    "rdiv": binary("div", swapped=True),
    "rpow": binary("pow", swapped=True),
    "mul": binary("mul"),
    "div": binary("div"),
    "maximum": binary("maximum"),
    "minimum": binary("minimum"),
    # channels and shapes
    "cat": lower_cat,
    "hstack": lower_hstack,
    "pixel_unshuffle": lower_pixel_unshuffle,
    "expand": lower_expand,
    "repeat": lower_repeat,
    "stack": lower_stack,
    "zeros": lower_zeros,
    "zeros_like": lower_zeros,
    "new_zeros": lower_zeros,
    "flatten": lower_reshape,
    "unflatten": lower_reshape,
    "view": lower_reshape,
    "reshape": lower_reshape,
    "squeeze": lower_reshape,
    "unsqueeze": lower_reshape,
    "permute": lower_permute,
    "transpose": lower_transpose,
    "channel_shuffle": lower_native_shuffle,
    "native_channel_shuffle": lower_native_shuffle,
    "getitem": lower_getitem,
    "chunk": lower_chunk,
    "split": lower_split,
    "index_select": lower_index_select,
    "narrow": lower_narrow,
    "select": lower_select,
    "getattr": lower_getattr,
    "unbind": lower_unbind,
    "pad": lower_pad,
    "interpolate": lower_interpolate,
    # regularisation
    "dropout": dropout("dropout"),
    "dropout1d": dropout("dropout1d"),
    "dropout2d": dropout("dropout2d"),
    "feature_dropout": dropout("dropout2d"),
    "alpha_dropout": dropout("alpha_dropout"),
    "feature_alpha_dropout": dropout("feature_alpha_dropout"),
    "stochastic_depth": lower_stochastic_depth,
    # storage only
    **dict.fromkeys(("identity", "contiguous", "detach", "clone", "cuda", "cpu", "alias"), lower_same),
    **dict.fromkeys(("to", "type_as", "float"), lower_cast),
}  # fmt: skip


WHY_NOT: Mapping[str, str] = {
    "layer_norm": "operator 'layer_norm' normalises across channels: no stage could run alone",
    "LayerNorm": "operator 'LayerNorm' normalises across channels: no stage could run alone",
    "local_response_norm": "operator 'local_response_norm' mixes neighbouring channels; use batch norm",
    "LocalResponseNorm": "operator 'LocalResponseNorm' mixes neighbouring channels; use batch norm",
    "Conv1d": "operator 'Conv1d' mixes neighbouring channels (as ECA does) or has no rule: only 2-d "
    "convolutions are read",
    "conv1d": "operator 'conv1d' mixes neighbouring channels (as ECA does) or has no rule: only 2-d "
    "convolutions are read",
    "bmm": "operator 'bmm' of two computed tensors (attention) mixes all channels",
    "DataParallel": "operator 'DataParallel' only wraps the network; give the network itself, .module",
    "MultiheadAttention": "operator 'MultiheadAttention' mixes all channels",
    "ConvTranspose2d": "operator 'ConvTranspose2d' has no channel rule: classifiers rarely have one",
    "PixelShuffle": "operator 'PixelShuffle' moves channels into pixels, which cannot be divided",
    "conv_transpose2d": "operator 'conv_transpose2d' has no channel rule: classifiers rarely have one",
    "pixel_shuffle": "operator 'pixel_shuffle' moves channels into pixels, which cannot be divided",
}
