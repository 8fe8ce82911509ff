"""Which images judge plans: none that shared weights, or a candidate, were trained on.

Place in the flow: `ImageSplits` ──▶ the same with fewer images to train on, and those that judge. Validation
images do, as far as there are enough; differences between plans are small, and the best of many is easily
the luckiest. The rest is set aside from the training images. The static network has seen those, but that is
the same for all plans.
"""

import hashlib
from dataclasses import replace

import torch

from s2dnas_deploy.build.images import ImageSplits, LabelledImages

JUDGING_IMAGES = 2000
_LARGEST_PART = 8  # at most one training image in eight is set aside


def set_judges_aside(splits: ImageSplits) -> tuple[ImageSplits, LabelledImages]:
    """The splits to train with in a search, and the images to judge by."""
    missing = JUDGING_IMAGES - len(splits.val)
    if missing <= 0:
        return splits, splits.val.evenly(JUDGING_IMAGES)
    count = min(missing, len(splits.train) // _LARGEST_PART)
    chosen = torch.zeros(len(splits.train), dtype=torch.bool)
    chosen[splits.train.spread(count)] = True
    aside, kept = splits.train.select(chosen), splits.train.select(~chosen)
    judges = LabelledImages(
        images=torch.cat([splits.val.images, aside.images]),
        labels=torch.cat([splits.val.labels, aside.labels]),
    )
    digest = hashlib.sha256(f"{splits.digest}|{count} judge".encode()).hexdigest()
    return replace(splits, train=kept, digest=digest), judges
