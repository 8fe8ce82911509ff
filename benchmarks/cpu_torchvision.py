"""Import this before torchvision: its compiled operators are not there beside a CPU build of torch.

`earlyon` imports all of torchvision and uses none of them; so their names are enough.
"""

import torch

try:
    LIBRARY = torch.library.Library("torchvision", "DEF")
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:
    LIBRARY = None  # they are there
