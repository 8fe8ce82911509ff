"""Which images judge plans: some that are set aside from the training images until the winner is trained.

Place in the flow: `ImageSplits` ──▶ the same with fewer images to train on, and those that judge. The static
network has seen these, but that is the same for all plans. Validation images judge no plan: a network that
was chosen by them would be better there than elsewhere, and thresholds proven on them would prove less.
"""

import hashlib
from dataclasses import replace

import torch

from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages

JUDGING_IMAGES = 2000
"""Differences between plans are small, and the best of many is easily the luckiest."""
_LARGEST_PART = 5  # at most one training image in five is set aside


def how_many_judge(images: int) -> int:
    """Of so many training images."""
    return min(JUDGING_IMAGES, images // _LARGEST_PART)


def set_judges_aside(splits: ImageSplits) -> tuple[ImageSplits, LabelledImages]:
    """The splits to train with in a search, and the images to judge by."""
    count = how_many_judge(len(splits.train))
    chosen = torch.zeros(len(splits.train), dtype=torch.bool)
    chosen[splits.train.spread(count)] = True
    digest = hashlib.sha256(f"{splits.digest}|{count} judge".encode()).hexdigest()
    kept = replace(splits, train=splits.train.select(~chosen), digest=digest)
    return kept, splits.train.select(chosen).in_memory()  # each plan is judged by them
