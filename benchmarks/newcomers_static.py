"""What a newcomer has before they know of this package: images in folders, and a network trained on them.

Plain PyTorch, as people write it. Each network has other classes, or other images of the same classes.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import newcomers_networks
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALIDATED, TESTED = 100, {"tiny": 100, "cifar": 200}
"""Images a class."""


@dataclass(frozen=True, kw_only=True)
class Newcomer:
    """A network of `newcomers_networks`, what it is trained on, and for how long."""

    name: str
    kind: str
    size: int
    source: str
    """Where the images are from: "tiny" or "cifar"."""
    classes: slice
    """Of the sorted list of all."""
    first: int
    """Of each class's images, which come first for the training."""
    trained: int
    """Images a class to train on."""
    epochs: int
    batch: int = 64
    lr: float = 0.05

    def make(self) -> nn.Module:
        """The network, not trained."""
        network = getattr(newcomers_networks, self.name)()
        assert isinstance(network, nn.Module)
        return network

    @property
    def model(self) -> str:
        """Where the network is made, as `--model` takes it."""
        return f"{Path(newcomers_networks.__file__).resolve()}:{self.name}"

    @property
    def shape(self) -> str:
        """Of an image, as `--input` takes it."""
        return f"3x{self.size}x{self.size}"


def _tiny(name: str, kind: str, classes: slice, epochs: int, lr: float = 0.05) -> Newcomer:
    return Newcomer(
        name=name,
        kind=kind,
        size=64,
        source="tiny",
        classes=classes,
        first=0,
        trained=300,
        epochs=epochs,
        batch=32,
        lr=lr,
    )


def _cifar(name: str, kind: str, first: int, trained: int, epochs: int) -> Newcomer:
    return Newcomer(
        name=name,
        kind=kind,
        size=32,
        source="cifar",
        classes=slice(None),
        first=first,
        trained=trained,
        epochs=epochs,
    )


NEWCOMERS = (
    _cifar("plain_vgg", "plain 3x3 convolutions, as VGG", 0, 800, 15),
    _cifar("resnet", "basic residual blocks", 1000, 1500, 12),
    _tiny("excite", "depthwise, squeeze and excite", slice(3, None, 20), 50),
    _tiny("mobilenet", "inverted residuals with ReLU6, as MobileNetV2", slice(1, 90, 12), 25),
    _tiny("bottleneck", "residual bottlenecks", slice(0, None, 10), 28),
    _cifar("densenet", "dense blocks, as DenseNet", 2500, 600, 12),
    _tiny("shufflenet", "channel shuffle, as ShuffleNetV2", slice(5, None, 16), 30),
    _tiny("squeezenet", "fire modules, as SqueezeNet", slice(2, 90, 14), 45),
    _cifar("resnext", "grouped convolutions, as ResNeXt", 3500, 600, 12),
    _tiny("alexnet", "no batch norm, linear layers, as AlexNet", slice(9, None, 20), 70, lr=0.01),
)


def bring(newcomer: Newcomer, source: Path, folder: Path) -> None:
    """Put what the newcomer has into `folder`: images/, and static.pth, trained if it is not there yet."""
    images, weights = folder / "images", folder / "static.pth"
    put_images(newcomer, source, images)
    if not weights.exists():
        train(newcomer, images, weights)


def put_images(newcomer: Newcomer, source: Path, images: Path) -> None:
    """Links in `images` to the images in `source` that are the newcomer's: train/, val/ and test/ of classes.

    A class of Tiny ImageNet is tested on images of `source`/train and on all of `source`/test, which are few.
    Of CIFAR-10, each newcomer has other test images: there are a fifth as many as to train on, so they begin
    a fifth as far into the list.
    """
    classes = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    for name in classes[newcomer.classes]:
        files, tested = (sorted((source / part / name).iterdir()) for part in ("train", "test"))
        val = newcomer.first + newcomer.trained
        rest = val + VALIDATED
        if newcomer.source == "cifar":
            start = newcomer.first // 5
            test = tested[start : start + TESTED["cifar"]]
        else:
            test = files[rest : rest + TESTED["tiny"]] + tested
        _link(files[newcomer.first : val], images / "train" / name)
        _link(files[val:rest], images / "val" / name)
        _link(test, images / "test" / name)


def _link(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / f"{file.parent.parent.name}_{file.name}"
        if not link.exists():
            os.symlink(file.resolve(), link)


def train(newcomer: Newcomer, images: Path, weights: Path) -> None:
    """Train the network as its owner would, and save its weights; prints how good it is on val/."""
    torch.manual_seed(0)
    network = newcomer.make()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = read(images / "train")
    held_x, held_y = read(images / "val")
    optimizer = torch.optim.SGD(
        network.parameters(), lr=newcomer.lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    is_low = has_bfloat16() and not is_depthwise(network)
    steps = newcomer.epochs * math.ceil(len(x) / newcomer.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=newcomer.lr, total_steps=steps, pct_start=0.1
    )
    for epoch in range(newcomer.epochs):
        network.train()
        total = 0.0
        for batch in torch.split(torch.randperm(len(x)), newcomer.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                loss = F.cross_entropy(network(augment(x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        if epoch % 5 == 4 or epoch + 1 == newcomer.epochs:
            share = accuracy(network, held_x, held_y)
            print(f"{newcomer.name} {epoch + 1}: loss {total / len(x):.3f}, val {share:.2%}", flush=True)
    weights.parent.mkdir(parents=True, exist_ok=True)
    part = weights.with_suffix(".part")
    torch.save(network.state_dict(), part)
    part.replace(weights)


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Images and classes, all of them in memory: images as bytes in NCHW."""
    pixels, classes = [], []
    for number, name in enumerate(sorted(path.name for path in folder.iterdir())):
        for file in sorted((folder / name).iterdir()):
            pixels.append(np.asarray(Image.open(file).convert("RGB")))
            classes.append(number)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(classes)


def augment(x: Tensor) -> Tensor:
    """Half of the images mirrored, all moved by up to an eighth of their side."""
    x = normalized(x)
    side = x.shape[-1]
    most = side // 8
    padded = F.pad(x, (most, most, most, most))
    moves = torch.randint(2 * most + 1, (len(x), 2)).tolist()
    x = torch.stack(
        [image[:, i : i + side, j : j + side] for image, (i, j) in zip(padded, moves, strict=True)]
    )
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    return x.contiguous(memory_format=torch.channels_last)


def normalized(x: Tensor) -> Tensor:
    """What the network takes, of bytes."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    return (x / 255 - mean) / std


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share that the network gets right, in float32."""
    network.eval()
    right = [
        (network(normalized(a)).argmax(1) == b)
        for a, b in zip(torch.split(x, 250), torch.split(y, 250), strict=True)
    ]
    return torch.cat(right).double().mean().item()


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16; on others, float32 is faster."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text(encoding="ascii", errors="replace")


def is_depthwise(network: nn.Module) -> bool:
    """Whether it convolves channels one by one, which torch does faster in float32."""
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in network.modules())
