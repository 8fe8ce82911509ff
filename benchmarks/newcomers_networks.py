"""Ten small networks of ten kinds, written as people write them: plain PyTorch that imports nothing of ours.

`newcomers.py` trains each on images of its own, then divides it by the README's commands.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), nn.ReLU(inplace=True))


class PlainVGG(nn.Module):
    """Pairs of 3x3 convolutions with pooling between, then two linear layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (32, 64, 128):
            layers += [conv_bn_relu(inputs, width, 3), conv_bn_relu(width, width, 3), nn.MaxPool2d(2)]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 4 * 4, 128),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(128, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to what went in."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + identity)


class SmallResNet(nn.Module):
    """ResNet-18 of a quarter of the widths, with the stem that CIFAR takes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32, 1))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), BasicBlock(64, 64, 1))
        self.layer4 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(x.view(x.size(0), -1))


class SqueezeExcite(nn.Module):
    """Weighs channels by what 1x1 convolutions make of their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(F.relu(self.fc1(self.avgpool(x))))
        return F.hardsigmoid(scale) * x


class ExciteBlock(nn.Module):
    """As in MobileNetV3: widen, convolve each channel, weigh, narrow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.use_res_connect = stride == 1 and inputs == outputs
        self.block = nn.Sequential(
            *conv_bn(inputs, wide, 1),
            nn.Hardswish(),
            *conv_bn(wide, wide, kernel, stride, groups=wide),
            nn.Hardswish(),
            SqueezeExcite(wide, inputs),
            *conv_bn(wide, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        if self.use_res_connect:
            out = out + x
        return out


class ExciteNet(nn.Module):
    """Depthwise convolutions with squeeze and excite, hard swish and two sizes of kernel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_bn(3, 16, 3, 2),
            nn.Hardswish(),
            ExciteBlock(16, 24, 3, 2),
            ExciteBlock(24, 24, 3, 1),
            ExciteBlock(24, 48, 5, 2),
            ExciteBlock(48, 48, 5, 1),
            ExciteBlock(48, 48, 5, 1),
            ExciteBlock(48, 96, 5, 2),
            ExciteBlock(96, 96, 5, 1),
            *conv_bn(96, 384, 1),
            nn.Hardswish(),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(384, 256), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(256, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class InvertedResidual(nn.Module):
    """As in MobileNetV2: widen, convolve each channel, narrow without an activation."""

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden_dim = inp * expand_ratio
        self.use_res_connect = stride == 1 and inp == oup
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers += [*conv_bn(inp, hidden_dim, 1), nn.ReLU6(inplace=True)]
        layers += [
            *conv_bn(hidden_dim, hidden_dim, 3, stride, groups=hidden_dim),
            nn.ReLU6(inplace=True),
            *conv_bn(hidden_dim, oup, 1),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNet(nn.Module):
    """MobileNetV2 for small images: fewer blocks, and half as much downsampling."""

    # t: how much wider within, c: channels, n: blocks, s: stride of the first
    SETTING = ((1, 16, 1, 1), (4, 24, 2, 2), (6, 32, 3, 2), (6, 64, 2, 1), (6, 96, 2, 2))

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = 24
        features: list[nn.Module] = [nn.Sequential(*conv_bn(3, channels, 3, 2), nn.ReLU6(inplace=True))]
        for t, c, n, s in self.SETTING:
            for i in range(n):
                features.append(InvertedResidual(channels, c, s if i == 0 else 1, t))
                channels = c
        features.append(nn.Sequential(*conv_bn(channels, 512, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to what went in; with groups, the block of a ResNeXt."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return self.relu(out)


class BottleneckResNet(nn.Module):
    """A ResNet of bottlenecks, with the stem and the pooling that ImageNet takes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(3, 32, 5, 2), nn.MaxPool2d(3, 2, 1))
        self.layer1 = self._layer(32, 32, 128, 2, 1)
        self.layer2 = self._layer(128, 64, 256, 3, 2)
        self.layer3 = self._layer(256, 96, 384, 2, 2)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(384, num_classes)

    def _layer(self, inputs: int, width: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        layers = [Bottleneck(inputs, width, outputs, stride)]
        layers += [Bottleneck(outputs, width, outputs, 1) for _ in range(1, blocks)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


class DenseLayer(nn.Module):
    """Normalized first, convolved after; appended to what went in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return torch.cat([x, out], 1)


class SmallDenseNet(nn.Module):
    """A DenseNet of three dense blocks, halved in between."""

    def __init__(self, num_classes: int, growth: int = 12, blocks: tuple[int, ...] = (4, 6, 6)) -> None:
        super().__init__()
        channels = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, channels, 3, padding=1, bias=False))
        for i, layers in enumerate(blocks):
            dense = [DenseLayer(channels + k * growth, growth) for k in range(layers)]
            self.features.add_module(f"denseblock{i + 1}", nn.Sequential(*dense))
            channels += layers * growth
            self.features.add_module(f"norm{i + 1}", nn.BatchNorm2d(channels))
            self.features.add_module(f"relu{i + 1}", nn.ReLU(inplace=True))
            if i + 1 < len(blocks):
                shrink = nn.Sequential(nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2))
                self.features.add_module(f"transition{i + 1}", shrink)
                channels //= 2
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(out, 1))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


class ShuffleBlock(nn.Module):
    """As in ShuffleNetV2: half of the channels pass, or all are convolved twice; then shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = outputs // 2
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_bn(inputs, inputs, 3, stride, groups=inputs), *conv_bn_relu(inputs, half, 1)
            )
        self.branch2 = nn.Sequential(
            *conv_bn_relu(inputs if stride > 1 else half, half, 1),
            *conv_bn(half, half, 3, stride, groups=half),
            *conv_bn_relu(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNet(nn.Module):
    """ShuffleNetV2 without the pooling behind its stem."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(3, 24, 3, 2)
        stages: list[nn.Module] = []
        inputs = 24
        for outputs, repeats in ((64, 3), (144, 5), (288, 3)):
            stages.append(ShuffleBlock(inputs, outputs, 2))
            stages += [ShuffleBlock(outputs, outputs, 1) for _ in range(repeats - 1)]
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.conv5 = conv_bn_relu(inputs, 512, 1)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stages(self.conv1(x)))
        return self.fc(x.mean([2, 3]))


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and by 3x3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = conv_bn_relu(inputs, squeeze, 1)
        self.expand1x1 = conv_bn_relu(squeeze, expand, 1)
        self.expand3x3 = conv_bn_relu(squeeze, expand, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet with batch norm; its last convolution gives classes, and their means are the answer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn_relu(3, 48, 3, 2),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(48, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 64, 256),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.3), nn.Conv2d(512, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).mean(dim=(2, 3))


class SmallResNeXt(nn.Module):
    """Bottlenecks whose 3x3 convolutions are in eight groups."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 32, 3)
        self.stage1 = nn.Sequential(Bottleneck(32, 32, 64, 1, 8), Bottleneck(64, 32, 64, 1, 8))
        self.stage2 = nn.Sequential(Bottleneck(64, 64, 128, 2, 8), Bottleneck(128, 64, 128, 1, 8))
        self.stage3 = nn.Sequential(Bottleneck(128, 128, 256, 2, 8), Bottleneck(256, 128, 256, 1, 8))
        self.fc = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        x = F.avg_pool2d(x, 8)
        return self.fc(x.flatten(1))


class SmallAlexNet(nn.Module):
    """Without batch norm: convolutions with biases, pooling, dropout and three linear layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 48, kernel_size=5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(48, 96, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(96, 128, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 128, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(128 * 4 * 4, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(256, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(torch.flatten(x, 1))


def plain_vgg(num_classes: int = 10) -> nn.Module:
    return PlainVGG(num_classes)


def resnet(num_classes: int = 10) -> nn.Module:
    return SmallResNet(num_classes)


def excite(num_classes: int = 5) -> nn.Module:
    return ExciteNet(num_classes)


def mobilenet(num_classes: int = 8) -> nn.Module:
    return MobileNet(num_classes)


def bottleneck(num_classes: int = 10) -> nn.Module:
    return BottleneckResNet(num_classes)


def densenet(num_classes: int = 10) -> nn.Module:
    return SmallDenseNet(num_classes)


def shufflenet(num_classes: int = 6) -> nn.Module:
    return ShuffleNet(num_classes)


def squeezenet(num_classes: int = 7) -> nn.Module:
    return SqueezeNet(num_classes)


def resnext(num_classes: int = 10) -> nn.Module:
    return SmallResNeXt(num_classes)


def alexnet(num_classes: int = 5) -> nn.Module:
    return SmallAlexNet(num_classes)
