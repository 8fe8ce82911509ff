"""Import this before torchvision: its compiled operators are not there beside a CPU build of torch.

`earlyon` imports all of torchvision and uses none of them; so their names are enough.
"""

import contextlib
from typing import Any

import torch

LIBRARY: Any = None  # to be kept: its operators go with it
with contextlib.suppress(RuntimeError):  # they are there
    make: Any = torch.library.Library
    LIBRARY = make("torchvision", "DEF")
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
