"""Reading a static network: the user's module, traced and lowered to a channel graph.

Place in the flow: the user's `nn.Module` ──read──▶ `StaticNetwork`. The reading is checked on the spot: the
channel graph must compute what the module computes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from s2dnas_deploy.errors import ModelError
from s2dnas_deploy.workshop.network.groups import divide_into_groups
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, run_graph
from s2dnas_deploy.workshop.reading.lowering import lower
from s2dnas_deploy.workshop.reading.trace import evaluation_mode, trace


def read_network(network: nn.Module, input_shape: tuple[int, ...]) -> StaticNetwork:
    """Trace `network` on [C, H, W] images and check that what was read computes the same logits."""
    _refuse_hooks(network)
    with evaluation_mode(network):  # some weights are computed, and differently in training
        graph, weights = lower(trace(network, input_shape), input_shape)
    _refuse_what_is_not_finite(weights)
    static = StaticNetwork(divisible=divide_into_groups(graph), weights=weights)
    _check_same(network, static)
    return static


def _refuse_hooks(network: nn.Module) -> None:
    if any(nn.parameter.is_lazy(p) for p in network.parameters()):
        lazy = [name for name, m in network.named_modules() if isinstance(m, nn.modules.lazy.LazyModuleMixin)]
        raise ModelError(
            f"module {', '.join(lazy[:3])!r} is lazy and has no weights yet; run the network once on an "
            "image, or load its weights, and try again"
        )
    for name, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise ModelError(
                f"module {name or 'network'!r} has forward hooks, which a trace does not see; remove them "
                "(torch.nn.utils.remove_weight_norm, remove_spectral_norm, handle.remove()) and try again"
            )


def _refuse_what_is_not_finite(weights: Mapping[str, Tensor]) -> None:
    bad = [key for key, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ModelError(f"weights are not finite: {', '.join(bad[:5])}; the network cannot answer with them")


@torch.no_grad()
def _check_same(network: nn.Module, static: StaticNetwork) -> None:
    """Two random images must give the network's own logits; anything else is a fault to report."""
    generator = torch.Generator().manual_seed(0)
    some = next(network.parameters(), torch.zeros(0))
    image = torch.randn(2, *static.graph.input_shape, generator=generator).to(some)
    with evaluation_mode(network):
        expected = network(image.clone())  # a network may write into its input
    got = run_graph(static.graph, static.weights, image)
    scale = float(expected.abs().max().clamp_min(1e-12))
    difference = float((expected - got).abs().max())
    if not difference <= 1e-4 * scale:
        raise ModelError(
            "the channel graph does not compute what the network does (largest difference "
            f"{difference:.3g} at scale {scale:.3g}); a subclass of a torch.nn module with its own forward, "
            "randomness or isinstance(x, Tensor) in forward() may be the cause"
        )
