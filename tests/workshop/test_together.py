"""Statistics of a whole batch: as torch has them alone, and of two parts those of both."""

import pytest
import torch
import torch.nn.functional as F

from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.together import adding_up, are_several, mean_and_variance

ATTRIBUTES = {"momentum": 0.1, "eps": 1e-5}


def weights(channels, *, affine=True):
    draw = torch.Generator().manual_seed(1)
    found = {"mean": torch.randn(channels, generator=draw), "variance": torch.rand(channels, generator=draw)}
    if affine:
        for name in ("weight", "bias"):
            found[name] = torch.randn(channels, generator=draw).requires_grad_()
    return found


def normed(x, w):
    return OPERATORS["batch_norm"].forward([x], w, ATTRIBUTES, True)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (9, 5)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_alone_they_are_those_of_torch(shape, affine, offset):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + offset).requires_grad_()
    ours, theirs = weights(5, affine=affine), weights(5, affine=affine)
    ours["mean"] += offset
    theirs["mean"] += offset
    steer = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    expected = F.batch_norm(
        x, theirs["mean"], theirs["variance"], theirs.get("weight"), theirs.get("bias"), True, 0.1, 1e-5
    )
    (gradient,) = torch.autograd.grad((expected * steer).sum(), [x])
    with adding_up(lambda sums: sums):
        assert are_several()
        found = normed(x, ours)
        (own_gradient,) = torch.autograd.grad((found * steer).sum(), [x])
    assert not are_several()
    tolerance = 1e-5 if offset == 0 else 1e-3  # of float32, around 300
    assert torch.allclose(found, expected, atol=tolerance)
    assert torch.allclose(own_gradient, gradient, atol=tolerance)
    for name in ("mean", "variance"):
        assert torch.allclose(ours[name], theirs[name], atol=1e-4)


def test_two_parts_have_the_statistics_of_both():
    whole = torch.randn(10, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    parts, sums, about = (whole[::2], whole[1::2]), [], torch.zeros(4)
    with adding_up(lambda own: sums.append(own) or own):
        for part in parts:
            mean_and_variance(part, [0, 2, 3], about)
    with adding_up(lambda own: sums[0] + sums[1]):
        mean, variance, count = mean_and_variance(parts[0], [0, 2, 3], about)
    assert count == 90
    assert torch.allclose(mean, whole.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(variance, whole.var((0, 2, 3), unbiased=False), atol=1e-6)


def test_in_evaluation_nothing_is_added_up():
    def refuse(sums):
        raise AssertionError("nobody asked")

    x, own = torch.randn(2, 3, 4, 4), weights(3)
    plain = OPERATORS["batch_norm"].forward([x], own, ATTRIBUTES, False)
    with adding_up(refuse):
        assert torch.equal(OPERATORS["batch_norm"].forward([x], own, ATTRIBUTES, False), plain)
