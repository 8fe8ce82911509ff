"""Show training each image a little differently: random crops and flips, a whole batch in one gather.

Whether a flip keeps the meaning is the caller's to know: digits and text must not be flipped.
"""

import torch
from torch import Tensor

from s2dnas_deploy.errors import DataError


def random_crop_and_flip(images: Tensor, *, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return [N, C, H, W] images, each shifted by up to `padding` pixels and mirrored or not.

    Crop: output[y, x] = image[y + dy, x + dx], with dy and dx of each image's own, uniform in
    -padding..padding. What lies outside is the image again, reflected at its edge: black is nothing that a
    network will ever see there. Flip (left to right, after the crop): with probability 1/2, if `flip`. With
    neither, the images come back as they are and nothing is drawn from `generator`.
    """
    if images.ndim != 4:
        raise DataError(f"expected images [N, C, H, W], got {list(images.shape)}")
    if padding < 0:
        raise DataError(f"expected a padding of 0 pixels or more, got {padding}")
    if padding == 0 and not flip:
        return images
    count, channels, height, width = images.shape
    rows = _shifted(count, height, padding, generator)
    columns = _shifted(count, width, padding, generator)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator, device=generator.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten(1).to(images.device)
    return images.flatten(2).gather(2, pixels[:, None].expand(-1, channels, -1)).view(images.shape)


def _shifted(count: int, length: int, padding: int, generator: torch.Generator) -> Tensor:
    """Positions int64 [count, length] in the image, each row with an offset of its own."""
    device = generator.device
    offsets = torch.randint(2 * padding + 1, (count, 1), generator=generator, device=device)
    beyond = offsets - padding + torch.arange(length, device=device)
    # 0, 1, ..., L - 1, L - 2, ..., 1, and again
    last = length - 1
    return last - (last - beyond.remainder(max(2 * last, 1))).abs()
