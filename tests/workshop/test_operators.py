"""What operators compute where they choose how."""

import pytest
import torch
import torch.nn.functional as F

from s2dnas_deploy.workshop.network.operators import OPERATORS


def depthwise(x, weight, *, stride):
    attributes = {"stride": (stride, stride), "padding": (1, 1), "dilation": (1, 1), "groups": x.shape[1]}
    return OPERATORS["grouped_conv"].forward([x], {"weight": weight}, attributes, True)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_in_bfloat16_is_close_to_float32_in_value_and_gradient(stride):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 10, 10, generator=generator).requires_grad_()
    weight = torch.randn(8, 1, 3, 3, generator=generator).requires_grad_()
    exact = F.conv2d(x, weight, stride=stride, padding=1, groups=8)
    expected = torch.autograd.grad(exact.square().sum(), (x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        answer = depthwise(x.to(torch.bfloat16), weight, stride=stride)
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), exact, rtol=2e-2, atol=5e-2)
    found = torch.autograd.grad(answer.float().square().sum(), (x, weight))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=0.5)


def test_without_autocast_a_strided_depthwise_convolution_keeps_its_precision():
    x, weight = torch.randn(1, 4, 6, 6, dtype=torch.float64), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    answer = depthwise(x, weight, stride=2)
    assert torch.equal(answer, F.conv2d(x, weight, stride=2, padding=1, groups=4))
