"""Kernels turn by an angle, part by part; everything else goes down its gradients as ever."""

import math

import pytest
import torch
from small_networks import example_network
from torch import nn

from s2dnas_deploy import plan as plans
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.training.descent import make_optimizer
from s2dnas_deploy.workshop.training.muon import Muon, orthogonal
from s2dnas_deploy.workshop.training.settings import Settings

ANGLE = 0.1


def turned(kernel, gradient, parts=None):
    """The kernel after one step."""
    weight = nn.Parameter(kernel.clone())
    group = {"params": [weight], "parts": parts or (torch.arange(len(kernel)),), "angle": ANGLE}
    weight.grad = gradient
    Muon([group], lr=1.0, momentum=0.9).step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(16, 16), (8, 72), (72, 8), (1, 9), (9, 1)])
def test_singular_values_come_near_one_and_their_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    along = u.T @ made @ v.T
    values = along.diagonal()
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    assert float((along - values.diag()).abs().max()) < 1e-3


def test_a_gradient_of_nothing_turns_nothing():
    kernel = torch.randn(8, 4, 3, 3)
    after = turned(kernel, torch.zeros_like(kernel))
    assert torch.allclose(after, kernel / math.sqrt(1 + ANGLE**2))
    assert torch.isfinite(after).all()


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_kernel_turns_by_the_angle_however_large_it_or_its_gradient_is(size):
    torch.manual_seed(0)
    kernel, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    after = turned(kernel * size, gradient / size)
    assert torch.allclose(after / size, turned(kernel, gradient), rtol=1e-3, atol=1e-5)
    cosine = torch.cosine_similarity(after.flatten(), kernel.flatten(), 0)
    # A random direction is nearly at a right angle.
    assert float(cosine) == pytest.approx(math.cos(math.atan(ANGLE)), abs=0.02)
    assert float(after.norm()) == pytest.approx(size * float(kernel.norm()), rel=0.02)


def test_what_later_rows_learn_moves_no_earlier_ones():
    torch.manual_seed(0)
    kernel, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    parts = (torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4, 6, 7]))
    other = gradient.clone()
    other[parts[1]] = 100 * torch.randn(5, 4, 3, 3)
    before, after = turned(kernel, gradient, parts), turned(kernel, other, parts)
    assert torch.equal(before[parts[0]], after[parts[0]])
    assert not torch.allclose(before[parts[1]], after[parts[1]])


def test_what_is_masked_stays_zero():
    torch.manual_seed(0)
    kernel, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    for tensor in (kernel, gradient):
        tensor[:, 2:] = 0
    after = turned(kernel, gradient)
    assert not after[:, 2:].any()
    alone = turned(kernel[:, :2], gradient[:, :2])
    assert torch.allclose(after[:, :2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_other_weights_go_down_as_by_torchs_own(momentum):
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = Muon([{"params": [ours], "weight_decay": 0.01}], lr=0.1, momentum=momentum)
    torchs = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, nesterov=momentum > 0, weight_decay=0.01)
    for _ in range(4):
        ours.grad = torch.randn(5, 3)
        theirs.grad = ours.grad.clone()
        mine.step()
        torchs.step()
    assert torch.allclose(ours, theirs, rtol=1e-5)


def digits_network():
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    return carry_over(static, plans.from_text("uniform:0.25,0.75", static.divisible.space))


def turning(network, **settings):
    """The names of the parameters that turn."""
    groups = make_optimizer(network, Settings(epochs=1, **settings)).param_groups
    ours = {id(p) for group in groups if group["parts"] is not None for p in group["params"]}
    return {name for name, p in network.named_parameters() if id(p) in ours}


def test_kernels_turn_unless_they_look_at_one_channel():
    network = digits_network()
    kernels = {name for name, p in network.named_parameters() if p.dim() == 4}
    of_the_image = {name for name in kernels if dict(network.named_parameters())[name].shape[1] == 1}
    assert of_the_image
    assert turning(network) == kernels - of_the_image
    assert not turning(network, optimizer="sgd")


def test_the_rows_of_each_stage_turn_together():
    network = digits_network()
    groups = make_optimizer(network, Settings(epochs=1)).param_groups
    parts = {id(p): group["parts"] for group in groups if group["parts"] for p in group["params"]}
    weights, levels = network.weights(), network.division.levels
    turning = [node for node in network.division.body if id(weights.get(node.weights.get("weight"))) in parts]
    assert len(turning) > 1
    for node in turning:
        first, second = parts[id(weights[node.weights["weight"]])]
        assert set(levels[node.name][first.numpy()]) == {0}
        assert set(levels[node.name][second.numpy()]) == {1}
        assert len(first) + len(second) == node.channels
