"""CNNs in the many ways people write them: read and divided without a change, or refused with the line."""

import math
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from full_check import check_network
from torch import nn

from s2dnas_deploy.errors import ModelError, UnsupportedNetworkError
from s2dnas_deploy.workshop.reading.read import read_network

READABLE = {}
SHAPE = (3, 12, 10)


def readable(shape=SHAPE):
    """Register a network class, or a function that makes a network, as one that must be read."""

    def register(make):
        READABLE[make.__name__] = (make, shape)
        return make

    return register


def conv_bn(c_in, c_out, stride=1):
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out))


class Base(nn.Module):
    """Stem, body, another layer and a pooled linear classifier; each test says what lies between."""

    def __init__(self, width=16, out=None):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.mix = nn.Linear(out or width, 32)
        self.fc = nn.Linear(32, 5)

    def body(self, x):
        return x

    def pool(self, x):
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(torch.relu(self.mix(self.pool(self.body(self.stem(x))))))


class Layers(Base):
    """A body of layers one after the other."""

    def __init__(self, *layers, width=16, out=None):
        super().__init__(width, out)
        self.layers = nn.Sequential(*layers)

    def body(self, x):
        return self.layers(x)


# --- activations and in-place writes ---------------------------------------------------------------------


@readable()
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 4, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, stride=1, padding=1)
        x = F.avg_pool2d(F.leaky_relu(self.conv2(x), 0.1), 2, ceil_mode=True)
        x = torch.flatten(x, 1)
        x = F.dropout(F.elu(self.fc1(x)), 0.3, self.training)
        return F.log_softmax(self.fc2(x), dim=1)


@readable()
class InPlaceStatements(Base):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def body(self, x):
        F.relu(x, inplace=True)
        y = self.conv(input=x)
        self.relu(y)
        y += x
        y.mul_(0.5).clamp_(min=-1.0, max=4.0)
        return y


@readable()
class PreActivationInPlace(Base):
    """The shortcut sees the activated tensor, as the in-place form makes it."""

    def __init__(self):
        super().__init__()
        self.bn, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def body(self, x):
        shortcut = x
        return self.conv(self.bn(self.relu(x))) + shortcut


@readable()
class InPlaceOnTheImage(Base):
    def forward(self, x):
        x.sub_(0.5).div_(0.25)
        return super().forward(x)


@readable()
class CloneThenWrite(Base):
    """The clone is written into and the original is not."""

    def body(self, x):
        y = x.clone()
        y.relu_()
        return x + 2 * y


@readable()
class HandWrittenActivations(Base):
    def body(self, x):
        x = x * torch.sigmoid(x)
        x = x * F.relu6(x + 3.0) / 6.0
        x = x * torch.tanh(F.softplus(x))
        x = x * x.sigmoid_() + 1 - x
        x = 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))
        return x * (x.mul(1.702).sigmoid()) + x**2 - (-x).abs() + 1.0 / (1.0 + x.exp())


@readable()
class ManyActivations(Base):
    def __init__(self):
        super().__init__()
        kinds = [
            nn.SiLU(),
            nn.Hardswish(),
            nn.Mish(),
            nn.GELU(),
            nn.PReLU(),
            nn.PReLU(16),
            nn.ELU(),
            nn.CELU(),
        ]
        kinds += [
            nn.SELU(),
            nn.Hardtanh(-2, 2),
            nn.Softplus(),
            nn.Softsign(),
            nn.Hardsigmoid(),
            nn.Tanhshrink(),
        ]
        self.acts = nn.Sequential(*kinds)

    def body(self, x):
        return self.acts(x) + F.hardshrink(x) + F.softshrink(x) + F.threshold(x, 0.1, 0.2) + F.relu6(x, True)


@readable()
class OnePreluForAll(Base):
    """One slope serves layers of different widths."""

    def __init__(self):
        super().__init__(out=24)
        self.act, self.conv = nn.PReLU(), nn.Conv2d(16, 24, 3)

    def body(self, x):
        return self.act(self.conv(self.act(x)))


# --- reshapes and pooling -------------------------------------------------------------------------


@readable()
class ViewBySize(Functional):
    def forward(self, x):
        x = F.avg_pool2d(self.conv2(self.conv1(x)), 2)
        return self.fc2(F.relu(self.fc1(self.resized(x))))

    def resized(self, x):
        x = F.adaptive_max_pool2d(x, (5, 4))
        return x.view(x.size(0), -1)


@readable()
class ViewByNumber(ViewBySize):
    def resized(self, x):
        return F.interpolate(x, size=(5, 4), mode="bilinear", align_corners=False).view(-1, 320)


@readable()
class ManyPoolings(Base):
    def __init__(self):
        super().__init__(out=16 * 9)
        self.pools = nn.ModuleList(
            [
                nn.AdaptiveAvgPool2d(1),
                nn.AdaptiveMaxPool2d((1, 1)),
                nn.LPPool2d(2, (6, 5)),
                nn.AvgPool2d((12, 10)),
            ]
        )

    def pool(self, x):
        x = x.abs() + 0.1
        vectors = [torch.flatten(pool(x), 2).sum(-1) for pool in self.pools]
        vectors += [x.mean([2, 3]), x.mean(2).mean(2), torch.mean(x.view(x.size(0), x.size(1), -1), dim=2)]
        vectors += [x.amax((-2, -1), keepdim=True).squeeze(), x.flatten(2).max(dim=2)[0]]
        return torch.cat(vectors, 1)


@readable()
class GeneralisedMean(Base):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def pool(self, x):
        x = x.clamp(min=1e-3).pow(self.p)
        x = F.avg_pool2d(x, (x.size(-2), x.size(-1))).pow(1.0 / self.p)
        return x.squeeze(-1).squeeze(-1)


@readable()
class CeilAndPadding(Base):
    def body(self, x):
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
        return F.pad(F.pad(x, (1, 2, 0, 1)), [1, 1, 1, 1], mode="reflect")


@readable()
class UnevenUpsampling(Base):
    """A factor that does not divide the size samples elsewhere than the sizes would tell."""

    def body(self, x):
        y = F.interpolate(x, scale_factor=0.7, mode="bilinear", align_corners=False)
        return F.interpolate(nn.Upsample(scale_factor=2)(y), size=x.shape[2:], mode="bicubic") + x


@readable()
class SpatialSlicing(Base):
    def body(self, x):
        corners = x[..., ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2]
        return corners[:, :, :, :-1] + x.narrow(2, 0, 6)[:, :, :, 1:5] + x[:, :, 3:4, :1]


@readable()
class ConvAfterPoolClassifier(Base):
    def __init__(self):
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(16, 32, 3), nn.Conv2d(32, 5, 1)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(F.relu(self.conv(self.stem(x))), 1)
        return self.classifier(F.dropout(x, training=self.training)).flatten(1)


@readable()
class DeepClassifier(Base):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 24), nn.Tanh()
        )
        self.last = nn.Linear(24, 5)

    def forward(self, x):
        return self.last(super().forward(x))


# --- shortcuts ------------------------------------------------------------------------------------


class Shortcut(Base):
    def __init__(self):
        super().__init__(out=32)
        self.conv1, self.conv2 = conv_bn(16, 32, 2), conv_bn(32, 32)

    def body(self, x):
        out = F.relu(self.conv1(x))
        return F.relu(self.conv2(out) + self.shortcut(x))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@readable()
class ShortcutByPadLambda(Shortcut):
    def __init__(self):
        super().__init__()
        self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), "constant", 0))


@readable()
class ShortcutByZeros(Shortcut):
    def shortcut(self, x):
        x = F.avg_pool2d(x, 1, 2)
        zeros = torch.zeros(x.size(0), 16, x.size(2), x.size(3), device=x.device, dtype=x.dtype)
        return torch.cat([x, zeros], dim=1)


@readable()
class ShortcutByZerosLike(Shortcut):
    def shortcut(self, x):
        x = F.avg_pool2d(x, 2)
        return torch.cat((x.data, torch.zeros_like(x.data)), 1)


@readable()
class ShortcutByZeroTimes(Shortcut):
    def shortcut(self, x):
        x = x[:, :, ::2, ::2]
        return torch.cat((x, x.mul(0)), 1)


@readable()
class ShortcutByNewZeros(Shortcut):
    def shortcut(self, x):
        x = nn.AvgPool2d(2)(x)
        total = x.new_zeros(x.shape[0], 32, *x.shape[2:], device=x.device)
        total += torch.cat([x.new_zeros(x.shape[0], 8, *x.shape[2:]), x, x.new_zeros(x[:, :8].shape)], 1)
        return total


@readable()
class PoolingAfterShortcut(Shortcut):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32))

    def shortcut(self, x):
        return self.down(x)

    def body(self, x):
        return F.avg_pool2d(super().body(x), 2)


# --- attention that keeps channels apart ----------------------------------------------------------


@readable()
class SqueezeByLinear(Base):
    def __init__(self):
        super().__init__()
        self.squeeze = nn.Sequential(
            nn.Linear(16, 4, bias=False), nn.ReLU(True), nn.Linear(4, 16), nn.Sigmoid()
        )

    def body(self, x):
        b, c, _, _ = x.size()
        y = self.squeeze(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


@readable()
class SqueezeByConv(Base):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def body(self, x):
        gate = self.up(F.silu(self.down(x.mean((2, 3), keepdim=True))))
        return F.hardsigmoid(gate).expand(-1, -1, x.shape[2], x.shape[3]) * x


@readable()
class ChannelShuffle(Base):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.shuffle = nn.ChannelShuffle(2)

    def body(self, x):
        b, c, h, w = x.shape
        x = self.conv(x).view(b, 4, c // 4, h, w)
        return self.shuffle(torch.transpose(x, 1, 2).contiguous().view(b, -1, h, w))


@readable()
class ChunksAndSplits(Base):
    def __init__(self):
        super().__init__(out=44)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def body(self, x):
        left, right = x.chunk(2, dim=1)
        left = F.relu(self.conv(left))
        a, b, c = torch.split(x, [4, 4, 8], 1)
        first, *_ = x.split(split_size=4, dim=1)
        return torch.cat([left, right, a * b, c, first, x[:, ::2], x[:, 1:5]], dim=1)


# --- weights --------------------------------------------------------------------------------------


@readable()
class CalledTwice(Base):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())

    def body(self, x):
        return self.block(F.max_pool2d(self.block(x) + x, 2))


@readable()
class TiedWeights(Base):
    def __init__(self):
        super().__init__(out=24)
        self.a, self.b = nn.Conv2d(16, 24, 3), nn.Conv2d(16, 24, 3, dilation=2)
        self.b.weight = self.a.weight

    def body(self, x):
        return F.adaptive_avg_pool2d(self.a(x), 4) - F.adaptive_avg_pool2d(self.b(x.relu()), 4)


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


@readable()
def weight_standardised():
    return Layers(StandardisedConv(16, 24, 3), nn.GroupNorm(4, 24), nn.ReLU(), nn.InstanceNorm2d(24), out=24)


@readable()
def weight_normalised():
    return Layers(nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 24, 3)), nn.ReLU(), out=24)


class FrozenBatchNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        for name, value in [("weight", 1.0), ("bias", 0.5), ("running_mean", 0.0), ("running_var", 1.0)]:
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift[None, :, None, None]


@readable()
def frozen_batch_norm():
    return Layers(FrozenBatchNorm(16), nn.Conv2d(16, 24, 3), FrozenBatchNorm(24), nn.ReLU(), out=24)


@readable()
class ScalesAndGates(Base):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.layer_scale = nn.Parameter(torch.rand(16, 1, 1))
        self.alpha, self.gate = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.rand(1, 1, 1, 1))
        self.wide = nn.Conv2d(16, 8, 1)
        self.narrow = nn.Conv2d(8, 16, 1)

    def mean_gate(self, x):
        return (x.flatten(2) * F.softmax(x.flatten(2), dim=-1)).sum(-1)

    def body(self, x):
        x = x + self.layer_scale * self.conv(x)
        y = self.narrow(self.wide(x) * self.gate) * self.gate
        y = y * self.alpha.sigmoid() + self.mean_gate(x)[:, :, None, None]
        return self.alpha - y * torch.sigmoid(self.alpha) + (1 - self.alpha) * x / (2 + self.alpha)


@readable()
class MatrixOfWeights(Base):
    def __init__(self):
        super().__init__()
        self.matrix, self.bias = nn.Parameter(torch.rand(16, 24)), nn.Parameter(torch.rand(24))
        self.mix = nn.Linear(24, 32)

    def pool(self, x):
        return torch.relu(x.mean((2, 3)) @ self.matrix + self.bias)


# --- convolutions ---------------------------------------------------------------------------------


@readable()
def grouped_convolutions():
    return Layers(
        nn.Conv2d(24, 36, 3, groups=6, padding="same"),
        nn.ReLU(),
        nn.Conv2d(36, 36, 3, groups=36, padding=2, dilation=2),
        nn.Conv2d(36, 24, 1, groups=4),
        nn.Conv2d(24, 48, 3, groups=24, padding=1, padding_mode="reflect"),
        nn.Conv2d(48, 48, (3, 1), padding=(1, 0), padding_mode="circular"),
        width=24,
        out=48,
    )


@readable()
class BlurPool(Base):
    """A depthwise convolution with weights that are a buffer."""

    def __init__(self):
        super().__init__()
        kernel = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (kernel[:, None] * kernel[None] / 16).repeat(16, 1, 1, 1))

    def body(self, x):
        x = F.pad(x, [1, 1, 1, 1], "reflect")
        return F.conv2d(x, self.kernel, stride=2, groups=x.shape[1])


@readable()
class ManyBranches(Base):
    def __init__(self):
        super().__init__(out=6 * 8 + 16)
        self.branches = nn.ModuleList([nn.Conv2d(16, 8, k, padding=k // 2) for k in (1, 3, 5)])

    def body(self, x):
        features = [x]
        for branch in self.branches:
            features.append(branch(F.relu(x)))
            features.append(features[-1].relu())
        return torch.cat(features, 1)


# --- ways to write a module -----------------------------------------------------------------------


@readable()
class NormalisesItsInput(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.std = [0.2, 0.3, 0.4]

    def forward(self, x):
        x = (x - self.mean) / torch.tensor(self.std, dtype=x.dtype, device=x.device)[:, None, None]
        red = x[:, 0].unsqueeze(1) * 0.5
        return super().forward(torch.cat((red, x[:, 1:2], torch.unsqueeze(x[:, 2], 1)), 1))


@readable((1, 9, 14))
class GreyImage(Base):
    def forward(self, x):
        return super().forward(x.repeat(1, 3, 1, 1))


@readable((1, 9, 14))
class GreyImageExpanded(Base):
    def forward(self, x):
        return super().forward(x.expand(-1, 3, -1, -1))


@readable()
class DefaultArguments(Base):
    def forward(self, x, targets=None, *, return_features=False, scale=2.0, **options):
        x = super().forward(x=x) * scale
        return (x, targets) if return_features or targets is not None else x


@readable()
class NamedLikeThePackagesOwn(nn.Module):
    """Names that plans, exits and modules of this package use themselves."""

    def __init__(self):
        super().__init__()
        self.input, self.output = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 24, 3)
        self.network = nn.Conv2d(24, 16, 1)
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        return self.linear(self.network(self.output(self.input(x)).relu()).relu().mean((2, 3)))


class Block(nn.Sequential):
    def __init__(self, c_in, c_out):
        super().__init__(OrderedDict(conv=nn.Conv2d(c_in, c_out, 3, padding=1), act=nn.ReLU(inplace=True)))

    def forward(self, x):
        out = super().forward(x)
        if x.shape == out.shape and not isinstance(x, (tuple, list)):
            out += x
        return out


@readable()
def sequential_subclasses():
    blocks = OrderedDict(a=Block(3, 16), b=Block(16, 16), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    return nn.Sequential(OrderedDict(**blocks, fc=nn.Linear(16, 5)))


@readable()
class AsksWhatATensorKnows(Base):
    def body(self, x):
        known = [x.ndim == 4, x.nelement() > 0, hasattr(x, "device"), not x.is_cuda, not hasattr(x, "foo")]
        assert all(known)
        assert x.dtype.is_floating_point
        assert x.stride()[-1] == 1
        x = x.contiguous(memory_format=torch.channels_last).to(x.device).to(self.fc.weight.dtype)
        x = F.glu(torch.cat([x, nn.ReLU()(x)], 1), dim=1)
        return x.to(self.fc.weight.device, non_blocking=True).type_as(self.fc.weight).cpu()


@readable()
class ManyForms(Base):
    """The same sum written in the operators that torch has for it."""

    def body(self, x):
        y = torch.add(x, x.relu(), alpha=0.5).sub(x.abs(), alpha=2)
        y = (
            torch.maximum(y, torch.max(x, -y))
            + sum([x, y, x.neg()])
            + torch.rsub(x, 1.0, alpha=0.5)
            - torch.rsub(x, y, alpha=3)
        )
        return y.div(2).mul(torch.true_divide(x, 3)).add_(y, alpha=-1) + torch.minimum(x, y)


class DropPath(nn.Module):
    """As many repositories have it."""

    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(1 - self.drop_prob)
        return x * keep / (1 - self.drop_prob)


@readable()
class WithDropPath(Base):
    def __init__(self):
        super().__init__()
        self.conv, self.drop_path = nn.Conv2d(16, 16, 3, padding=1), DropPath(0.2)

    def body(self, x):
        return x + self.drop_path(self.conv(x))


@readable()
class ClassesAreReadAgain(Base):
    """Layers after the logits are the classifier's as well."""

    def __init__(self):
        super().__init__()
        self.again, self.back = nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x):
        logits = super().forward(x)
        return logits + self.back(torch.relu(self.again(logits)))


@readable()
class PixelsToChannels(Base):
    """As a stem, and in between, where channels are divided."""

    def __init__(self):
        super().__init__()
        self.fold, self.first = nn.PixelUnshuffle(2), nn.Conv2d(12, 16, 3, padding=1)
        self.conv = nn.Conv2d(64, 16, 1)

    def forward(self, x):
        x = F.relu(self.first(self.fold(x)))
        return self.fc(torch.relu(self.mix(self.pool(self.conv(F.pixel_unshuffle(x[..., :4], 2))))))


@readable()
class ChannelsInAnotherOrder(Base):
    """BGR images, and channels picked by a list, a buffer and an index_select."""

    def __init__(self):
        super().__init__(out=22)
        self.register_buffer("order", torch.tensor([3, 4, 5, 0, 15, 7]))

    def forward(self, x):
        return super().forward(x[:, [2, 1, 0]])

    def body(self, x):
        picked = torch.index_select(x, 1, self.order)
        lists = [x[:, [8, 9, 10, 2]], x[:, self.order], x[:, [5, -5]], x[:, [1, 2, 3, 4], :12, 0:]]
        return torch.cat([F.avg_pool2d(part, 3) for part in (*lists, picked)], 1)


@readable()
class OtherReductions(Base):
    def __init__(self):
        super().__init__(out=48)

    def pool(self, x):
        x = torch.hstack([x, x.amin((2, 3), keepdim=True).expand_as(x), x])
        return torch.hstack((x[:, :32].logsumexp((2, 3)), x[:, 32:].amin((2, 3))))


@readable()
class AveragesForEver(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16, momentum=None)

    def body(self, x):
        return self.norm(x)


@readable()
class MoreChannelsThanClasses(Base):
    """The classes are some channels of a wider layer; the others are read on."""

    def __init__(self):
        super().__init__()
        self.conv, self.wide, self.second = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 12, 1), nn.Linear(7, 5)

    def forward(self, x):
        x = self.wide(F.relu(self.conv(self.stem(x)))).mean((2, 3))
        return x[:, :5] + self.second(x[:, 5:])


@pytest.mark.parametrize("name", READABLE)
def test_every_exit_of_random_plans_is_what_its_stages_compute(name):
    make, shape = READABLE[name]
    check_network(make(), shape)


def test_drop_path_is_kept_for_training():
    static = read_network(WithDropPath(), SHAPE)
    assert [node.attributes["p"] for node in static.graph.nodes if node.operator == "stochastic_depth"] == [
        0.2
    ]


def test_one_slope_for_all_layers_ties_no_channels():
    static = read_network(OnePreluForAll(), SHAPE)
    assert sorted(group.channels for group in static.divisible.space.groups) == [16, 24, 32]


def test_reading_leaves_each_module_in_its_own_mode():
    network = DeepClassifier().train()
    network.fc[1].eval()
    read_network(network, SHAPE)
    assert network.training
    assert network.fc[0].training
    assert not network.fc[1].training


# --- refusals -------------------------------------------------------------------------------------

REFUSED = {}


def refused(*words, error=UnsupportedNetworkError):
    """Register a network class as one that must be refused, with these words in the message."""

    def register(make):
        REFUSED[make.__name__] = (make, error, words)
        return make

    return register


@refused("layer_norm", "return F.layer_norm(x, x.shape[1:])  # here")
class LayerNorm(Base):
    def body(self, x):
        return F.layer_norm(x, x.shape[1:])  # here


@refused("norm", "LayerNorm", "permute", "x = x.permute(0, 2, 3, 1)  # ConvNeXt")
class ConvNeXtBlock(Base):
    def __init__(self):
        super().__init__()
        self.norm, self.point = nn.LayerNorm(16), nn.Linear(16, 16)

    def body(self, x):
        x = x.permute(0, 2, 3, 1)  # ConvNeXt
        return self.point(self.norm(x)).permute(0, 3, 1, 2)


@refused("softmax", "attention = torch.softmax(q @ q.transpose(1, 2), -1)")
class Attention(Base):
    def body(self, x):
        q = x.flatten(2)
        attention = torch.softmax(q @ q.transpose(1, 2), -1)
        return (attention @ q).view(x.shape)


@refused("mean", "control flow", "if x.mean() > 0:")
class DataDependentBranch(Base):
    def body(self, x):
        if x.mean() > 0:
            return x
        return -x


@refused("item", "return x * x.max().item()")
class ReadsAValue(Base):
    def body(self, x):
        return x * x.max().item()


@refused("getitem", "one image", "return torch.stack([x[i].relu() for i in range(x.size(0))])")
class LoopsOverTheBatch(Base):
    def body(self, x):
        return torch.stack([x[i].relu() for i in range(x.size(0))])


@refused("walks over a tensor", "return torch.stack([image.relu() for image in x])")
class IteratesOverTheBatch(Base):
    def body(self, x):
        return torch.stack([image.relu() for image in x])


@refused("loop", "x = x + 1.0  # once for each image")
class CountsTheBatch(Base):
    def body(self, x):
        for _ in range(len(x)):
            x = x + 1.0  # once for each image
        return x


@refused("'output'", "2 tensors", "logits", "test_reading.py", "def forward(self, x):")
class ReturnsATuple(Base):
    def forward(self, x):
        return super().forward(x), x


@refused("Answer", "logits")
class ReturnsANamedTuple(Base):
    def forward(self, x):
        return namedtuple("Answer", "logits image")(super().forward(x), x)


@refused("'output'", "a dictionary", "logits")
class ReturnsADictionary(Base):
    def forward(self, x):
        return {"logits": super().forward(x)}


@dataclass
class Answer:
    logits: torch.Tensor


@refused("Answer", "logits")
class ReturnsADataclass(Base):
    def forward(self, x):
        return Answer(logits=super().forward(x))


@refused("'output'", "(16, 12, 10)", "classes")
class ReturnsAMap(Base):
    def forward(self, x):
        return self.stem(x)


@refused("view", "batch", "return x.view(-1, 8, 12, 10).repeat(1, 2, 1, 1)")
class ReshapesTheBatch(Base):
    def body(self, x):
        return x.view(-1, 8, 12, 10).repeat(1, 2, 1, 1)


@refused("mean", "channels", "return x * torch.sigmoid(x.mean(dim=1, keepdim=True))")
class SpatialAttention(Base):
    def body(self, x):
        return x * torch.sigmoid(x.mean(dim=1, keepdim=True))


@refused(
    "adaptive_avg_pool1d", "channels", "return F.adaptive_avg_pool1d(x.mean((2, 3)), 16)[:, :, None, None]"
)
class PoolsOverChannels(Base):
    def body(self, x):
        return F.adaptive_avg_pool1d(x.mean((2, 3)), 16)[:, :, None, None]


@refused("max_pool2d", "channels", "return F.max_pool2d(x.flatten(2), 3, 1, 1).unsqueeze(3)")
class PoolsWithoutABatch(Base):
    def body(self, x):
        return F.max_pool2d(x.flatten(2), 3, 1, 1).unsqueeze(3)


@refused("assignment", "x[:, :4] = 0")
class AssignsToASlice(Base):
    def body(self, x):
        x[:, :4] = 0
        return x


@refused("in place", "x[:, :4].relu_()")
class WritesIntoAView(Base):
    def body(self, x):
        x[:, :4].relu_()
        return x


@refused("add", "out", "torch.add(x, x, out=y)")
class WritesOut(Base):
    def body(self, x):
        y = x.relu()
        torch.add(x, x, out=y)
        return y


@refused("shares", "y.relu_()")
class WritesIntoADropout(Base):
    def body(self, x):
        y = F.dropout(x, training=self.training)
        y.relu_()
        return x + y


@refused("TorchScript", "return self.scripted(x)")
class Scripted(Base):
    def __init__(self):
        super().__init__()
        self.scripted = torch.jit.script(nn.Sequential(nn.Conv2d(16, 16, 1)))

    def body(self, x):
        return self.scripted(x)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Negated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return -x

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


@refused("Doubled", "autograd.Function", "return Doubled.apply(x)")
class OwnBackward(Base):
    def body(self, x):
        return Doubled.apply(x)


@refused("Negated", "autograd.Function", "return Negated.apply(x)")
class OwnBackwardThatSavesNothing(Base):
    def body(self, x):
        return Negated.apply(x)


@refused("one channel without its axis", "return x * (x[:, 0] * 0.3)[:, None]")
class ChannelWithoutItsAxis(Base):
    def body(self, x):
        return x * (x[:, 0] * 0.3)[:, None]


@refused("'up'", "ConvTranspose2d", "return self.up(x)")
class TransposedConvolution(Base):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)

    def body(self, x):
        return self.up(x)


@refused("rnn", "LSTM", "x, _ = self.rnn(x.mean(3).transpose(1, 2))")
class Recurrent(Base):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(16, 16, batch_first=True)

    def body(self, x):
        x, _ = self.rnn(x.mean(3).transpose(1, 2))
        return x.transpose(1, 2).unsqueeze(3)


@refused("'stem'", "hooks", error=ModelError)
class Hooked(Base):
    def __init__(self):
        super().__init__()
        self.stem.register_forward_hook(lambda module, inputs, output: output * 2)


@refused("'stem'", "lazy", error=ModelError)
class Lazy(Base):
    def __init__(self):
        super().__init__()
        self.stem = nn.LazyConv2d(16, 3)


@refused("3x12x10", "ZeroDivisionError", "return x / (1 // 0)", error=ModelError)
class Raises(Base):
    def body(self, x):
        return x / (1 // 0)


@refused("3x12x10", "RuntimeError", "return self.fc(self.stem(x).flatten(1))", error=ModelError)
class WrongWidth(Base):
    def forward(self, x):
        return self.fc(self.stem(x).flatten(1))


@refused("Conv2d", "registered", "return self.hidden[0](x)", error=ModelError)
class LayersInAPlainList(Base):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Conv2d(16, 16, 1)]

    def body(self, x):
        return self.hidden[0](x)


@refused("dropout", "training=self.training", "return F.dropout(x, 0.5)")
class DropoutForEver(Base):
    def body(self, x):
        return F.dropout(x, 0.5)


@refused("rand", "random", "return x * (torch.rand(1) + 1)")
class RandomInEvaluation(Base):
    def body(self, x):
        return x * (torch.rand(1) + 1)


@refused("mean", "conv2d", "return F.conv2d(x, x.mean(0)[:, None], groups=16)")
class KernelFromTheImage(Base):
    def body(self, x):
        return F.conv2d(x, x.mean(0)[:, None], groups=16)


@refused("batch norm", "running statistics", "return self.norm(x)")
class BatchStatistics(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16, track_running_stats=False)

    def body(self, x):
        return self.norm(x)


@refused("broadcasts over channels", "return x * torch.sigmoid(self.mask(x))")
class OneMaskForAllChannels(Base):
    def __init__(self):
        super().__init__()
        self.mask = nn.Conv2d(16, 1, 1)

    def body(self, x):
        return x * torch.sigmoid(self.mask(x))


@refused("pixel_shuffle", "return F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1)")
class PixelShuffle(Base):
    def body(self, x):
        return F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1)


@refused("half", "return x.half().to(x.dtype)")
class HalfPrecision(Base):
    def body(self, x):
        return x.half().to(x.dtype)


@refused("nothing is left to divide", "return self.only(x.flatten(1))")
class OnlyAClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Linear(360, 5)

    def forward(self, x):
        return self.only(x.flatten(1))


@refused("image", "'widen'", "x + self.widen(x)")
class AddsToTheImage(Base):
    def __init__(self):
        super().__init__()
        self.widen = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return super().forward(x + self.widen(x))


def swish(x):
    return x * torch.sigmoid(x)


@refused("@torch.jit.script", "call the plain function", "return self.swish(x)", error=ModelError)
class ScriptedFunction(Base):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.swish = torch.jit.script(swish)

    def body(self, x):
        return self.swish(x)


@refused("operator 'cumsum' has no channel rule", "return x.cumsum(1)")
class Unknown(Base):
    def body(self, x):
        return x.cumsum(1)


@refused("be run on a 3x12x10 image", "give that: --input CxHxW", "self.mix(x.flatten(1))", error=ModelError)
class OfAnotherShape(Base):
    def pool(self, x):
        return self.mix(x.flatten(1))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_divided_is_refused_with_its_name_and_line(name):
    make, error, words = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        read_network(make(), SHAPE)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("shape", [(12, 10), (3, 12, 0), (2, 3, 12, 10), (3, 12.0, 10)])
def test_an_image_shape_is_three_positive_numbers(shape):
    with pytest.raises(ModelError, match="channels, height, width"):
        read_network(Base(), shape)
