"""Crops and flips must be what a plain loop over images makes of the same draws."""

import pytest
import torch

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.workshop.data.augment import random_crop_and_flip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reflected(position, length):
    """Where one comes to who turns back at either edge."""
    while not 0 <= position < length:
        position = -position if position < 0 else 2 * (length - 1) - position
    return position


def crop_and_flip_in_a_loop(images, *, padding, flip, seed):
    """The same draws, applied the plain way."""
    draw = generator(seed)
    count, _, height, width = images.shape
    down = torch.randint(2 * padding + 1, (count, 1), generator=draw)
    right = torch.randint(2 * padding + 1, (count, 1), generator=draw)
    mirrored = torch.rand(count, 1, generator=draw) < 0.5 if flip else torch.zeros(count, 1, dtype=torch.bool)
    result = torch.zeros_like(images)
    for i in range(count):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + int(down[i]) - padding, x + int(right[i]) - padding
                result[i, :, y, x] = images[i, :, reflected(from_y, height), reflected(from_x, width)]
        if mirrored[i]:
            result[i] = result[i].flip(-1)
    return result


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("padding", "flip"), [(2, False), (2, True), (0, True), (5, True)])
def test_agrees_with_a_loop_over_images(dtype, padding, flip):
    images = torch.randint(1, 256, (12, 3, 4, 6), generator=generator(1)).to(dtype)
    result = random_crop_and_flip(images, padding=padding, flip=flip, generator=generator(7))
    assert result.dtype == dtype
    assert torch.equal(result, crop_and_flip_in_a_loop(images, padding=padding, flip=flip, seed=7))


def test_neither_crop_nor_flip_returns_the_images_and_draws_nothing():
    images, draw = torch.ones(2, 1, 3, 3), generator()
    before = draw.get_state()
    assert random_crop_and_flip(images, padding=0, flip=False, generator=draw) is images
    assert torch.equal(draw.get_state(), before)


def test_every_offset_and_both_sides_occur_about_equally_often():
    images = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 1, 5, 5).repeat(3600, 1, 1, 1)
    result = random_crop_and_flip(images, padding=1, flip=True, generator=generator())
    kinds, counts = result.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 3 * 3 * 2
    assert 140 < int(counts.min()) <= int(counts.max()) < 260


def test_an_image_of_one_pixel_stays_what_it_is():
    images = torch.full((3, 1, 1, 1), 7)
    assert torch.equal(random_crop_and_flip(images, padding=2, flip=True, generator=generator()), images)


def test_the_images_handed_in_are_left_alone():
    images = torch.randint(0, 256, (4, 1, 5, 5), generator=generator()).to(torch.uint8)
    before = images.clone()
    random_crop_and_flip(images, padding=2, flip=True, generator=generator())
    assert torch.equal(images, before)


def test_channels_last_and_empty_batches_are_served():
    images = torch.randint(0, 256, (4, 3, 5, 5), generator=generator()).to(torch.uint8)
    strided = images.to(memory_format=torch.channels_last)
    plain, other = (
        random_crop_and_flip(x, padding=1, flip=True, generator=generator()) for x in (images, strided)
    )
    assert torch.equal(plain, other)
    assert random_crop_and_flip(images[:0], padding=1, flip=True, generator=generator()).shape == (0, 3, 5, 5)


def test_what_is_no_batch_of_images_is_refused():
    with pytest.raises(DataError, match=r"expected images \[N, C, H, W\], got \[3, 4, 4\]"):
        random_crop_and_flip(torch.zeros(3, 4, 4), padding=1, flip=True, generator=generator())
    with pytest.raises(DataError, match="expected a padding of 0 pixels or more, got -1"):
        random_crop_and_flip(torch.zeros(1, 3, 4, 4), padding=-1, flip=True, generator=generator())
