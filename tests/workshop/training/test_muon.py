"""Kernels turn by an angle, part by part; everything else goes down its gradients as ever."""

import math

import pytest
import torch
from small_networks import example_network
from torch import nn

from s2dnas_deploy import plan as plans
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.training.descent import make_optimizer, set_rate
from s2dnas_deploy.workshop.training.muon import Muon, orthogonal
from s2dnas_deploy.workshop.training.settings import Settings

ANGLE = 0.1


def turned(kernel, gradient, parts=None, **options):
    """The kernel after one step."""
    weight = nn.Parameter(kernel.clone())
    group = {"params": [weight], "parts": parts or (torch.arange(len(kernel)),), "angle": ANGLE, **options}
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


def test_before_a_norm_rows_turn_whatever_their_lengths_and_keep_them():
    torch.manual_seed(0)
    kernel, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    after = turned(kernel, gradient, normed=True)
    lengths = torch.logspace(-6, 6, 8).reshape(8, 1, 1, 1)
    # What is read of a row is its direction, so the gradient of a longer one is as much shorter.
    torch.testing.assert_close(
        turned(kernel * lengths, gradient, normed=True), after * lengths, rtol=1e-4, atol=0
    )
    rows, before = after.flatten(1), kernel.flatten(1)
    torch.testing.assert_close(rows.norm(dim=1), before.norm(dim=1))
    angles = torch.cosine_similarity(rows, before).acos()
    assert float(angles.square().mean().sqrt()) == pytest.approx(math.atan(ANGLE), rel=0.1)
    still = turned(kernel, torch.zeros_like(kernel), normed=True)
    torch.testing.assert_close(still, kernel)
    kernel[3] = 0
    assert not turned(kernel, gradient, normed=True)[3].any()


def test_in_a_long_training_kernels_before_norms_do_not_grow():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    network = carry_over(
        static := read_network(nn.Sequential(*layers), (3, 8, 8)), plans.static(static.divisible.space)
    )
    kernel = next(p for p in network.parameters() if p.dim() == 4)
    start = kernel.detach().clone()
    before = start.flatten(1).norm(dim=1)
    settings = Settings(epochs=1, lr=0.5)
    optimizer = make_optimizer(network, settings)
    set_rate(optimizer, settings, 1.0)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images)[0], labels).backward()
        optimizer.step()
    assert not torch.allclose(kernel, start, atol=0.1)
    torch.testing.assert_close(kernel.detach().flatten(1).norm(dim=1), before, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("after", "normed"),
    [
        (nn.BatchNorm2d(8), True),
        (nn.GroupNorm(2, 8), True),
        (nn.InstanceNorm2d(8, affine=True), True),
        (nn.ReLU(), False),
    ],
)
def test_it_is_known_where_a_norm_follows(after, normed):
    layers = nn.Conv2d(3, 8, 3), after, nn.Flatten(), nn.Linear(8 * 36, 4)
    static = read_network(nn.Sequential(*layers), (3, 8, 8))
    network = carry_over(static, plans.uniform(static.divisible.space, [0.5, 0.5]))
    (group,) = (g for g in make_optimizer(network, Settings(epochs=1)).param_groups if g["parts"])
    assert group["normed"] == normed


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
