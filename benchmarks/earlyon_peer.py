"""`earlyon`, the early-exit package on PyPI, on the same static network: exits after its first three groups.

Trained in both ways that it offers: exits alone on the frozen network, which its README recommends, and
all of it jointly. Thresholds by its own calibration for the allowed drop. It is run by its staged model
in PyTorch, where later stages do not run; its ONNX file computes all exits always. To be installed first:
`pip install earlyon openvino`; who only reads records needs neither.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.training.batches import Batches, normalised
from s2dnas_deploy.workshop.training.settings import Settings

EXITS = ("layer1", "layer2", "layer3")
EPOCHS = 6
_CPU = torch.device("cpu")


def earlyon_networks(
    backbone: nn.Module,
    splits: ImageSplits,
    *,
    preprocessing: Preprocessing,
    settings: Settings,
    work: Path,
    console: Console,
) -> dict[str, Any]:
    """The wrapped network, trained in either way; what is in the work folder is not trained again."""
    import cpu_torchvision  # noqa: F401 - before earlyon
    from earlyon.models.custom import custom_ee
    from earlyon.training.joint_trainer import joint_train_backbone_and_exits
    from earlyon.training.two_stage_trainer import stage2_train_exits

    train = _Loader(Batches(splits.train, preprocessing, settings, _CPU), EPOCHS)
    found = {}
    for name, how in (("exits alone", stage2_train_exits), ("jointly", joint_train_backbone_and_exits)):
        shape = (1, *preprocessing.input_shape)
        classes = len(splits.class_names)
        wrapper = custom_ee(copy.deepcopy(backbone), EXITS, classes, input_shape=shape)
        path = work / f"earlyon, {name}.pth"
        if path.exists():
            wrapper.load_state_dict(torch.load(path, weights_only=True))
        else:
            console.say(f"training earlyon's network, {name}")
            # All of training is in one context, whose cache would keep the weights of the first step.
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                how(wrapper, train, epochs=EPOCHS, on_epoch_end=lambda log: console.say(f"{log}"))
            torch.save(wrapper.state_dict(), path)
        found[name] = wrapper.eval()
    return found


def calibrated(wrapper: Any, images: LabelledImages, preprocessing: Preprocessing, drop: float) -> Any:
    """Its staged model with the thresholds that it chooses for a drop."""
    from earlyon.core.thresholds import calibrate_thresholds
    from earlyon.staged import staged_model

    loader = [(normalised(images.read(), preprocessing, _CPU), images.labels)]
    calibrate_thresholds(wrapper, loader, target_accuracy_drop=drop)
    staged = staged_model(wrapper)
    staged.config = copy.deepcopy(wrapper.config)  # the next drop will change the wrapper's
    return staged


class _Loader:
    """As many batches as an epoch has, augmented as everywhere; the next epoch gets the next ones."""

    def __init__(self, batches: Batches, epochs: int) -> None:
        self.batches, self.step, self.most = batches, 0, epochs * batches.per_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.batches.per_epoch):
            yield self.batches.at(self.step % self.most)
            self.step += 1
