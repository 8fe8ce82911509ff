"""What is drawn must be what is shown: moves as a plain loop makes them, parts of the area that was drawn."""

from dataclasses import fields
from math import isclose

import numpy as np
import pytest

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.data.augment import Looks, draw_looks, moved, part_for
from s2dnas_deploy.workshop.data.batch import Maker, Order
from s2dnas_deploy.workshop.data.recolour import changed, jittered
from s2dnas_deploy.workshop.data.ways import augmentations

EVERY_WAY = augmentations("resized-crop,colour,randaugment,flip")


def some_images(count=12, shape=(3, 4, 6), seed=1):
    return np.random.default_rng(seed).integers(1, 256, (count, *shape)).astype(np.uint8)


def looks(text, count, *, padding=1, seed=7):
    return draw_looks(augmentations(text), count, padding=padding, seed=seed)


def reflected(position, length):
    """Where one comes to who turns back at either edge."""
    while not 0 <= position < length:
        position = -position if position < 0 else 2 * (length - 1) - position
    return position


def moved_in_a_loop(images, drawn):
    """The same draws, applied the plain way."""
    count, _, height, width = images.shape
    shifts = np.zeros((count, 2), int) if drawn.shifts is None else drawn.shifts
    result = np.zeros_like(images)
    for i in range(count):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + int(shifts[i, 0]), x + int(shifts[i, 1])
                result[i, :, y, x] = images[i, :, reflected(from_y, height), reflected(from_x, width)]
        if drawn.mirrored is not None and drawn.mirrored[i]:
            result[i] = result[i][..., ::-1]
    return result


@pytest.mark.parametrize(("padding", "text"), [(2, "crop"), (2, "crop,flip"), (0, "flip"), (5, "crop-flip")])
def test_moves_agree_with_a_loop_over_images(padding, text):
    images, drawn = some_images(), looks(text, 12, padding=padding)
    result = moved(images, drawn)
    assert result.dtype == np.uint8
    assert np.array_equal(result, moved_in_a_loop(images, drawn))


def test_with_none_the_images_come_back_as_they_are():
    images = some_images()
    assert moved(images, looks("none", 12)) is images
    assert Maker(shape=(3, 4, 6), source=None).made(Order(images=images, looks=looks("none", 12))) is images


def test_every_offset_and_both_sides_occur_about_equally_often():
    images = np.tile(np.arange(1, 26, dtype=np.uint8).reshape(1, 1, 5, 5), (3600, 1, 1, 1))
    result = moved(images, looks("crop,flip", 3600))
    kinds, counts = np.unique(result.reshape(3600, -1), axis=0, return_counts=True)
    assert len(kinds) == 3 * 3 * 2
    assert 140 < counts.min() <= counts.max() < 260


def test_an_image_of_one_pixel_stays_what_it_is_and_an_empty_batch_is_served():
    images = np.full((3, 1, 1, 1), 7, np.uint8)
    assert np.array_equal(moved(images, looks("crop,flip", 3, padding=2)), images)
    assert moved(some_images(0), looks("crop,flip", 0)).shape == (0, 3, 4, 6)


def test_the_images_handed_in_are_left_alone():
    images = some_images(4, (3, 16, 16))
    before = images.copy()
    Maker(shape=(3, 16, 16), source=None).made(
        Order(images=images, looks=draw_looks(EVERY_WAY, 4, padding=1, seed=0))
    )
    assert np.array_equal(images, before)


def test_parts_have_the_area_and_proportions_that_were_drawn_and_lie_within():
    areas, ratios = [], []
    for drawn in looks("resized-crop", 400).parts:
        left, top, right, bottom = part_for(drawn)(500, 375)
        assert 0 <= left < right <= 500 + 1e-9
        assert 0 <= top < bottom <= 375 + 1e-9
        areas.append((right - left) * (bottom - top) / (500 * 375))
        ratios.append((right - left) / (bottom - top))
    assert 0.3 < min(areas) < 0.4
    assert 0.85 < max(areas) <= 1
    assert 0.74 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.34


def test_the_whole_of_a_picture_is_drawn_as_the_whole():
    assert part_for(np.array([1.0, 0.5, 0.3, 0.9]))(40, 40) == (0, 0, 40, 40)
    left, top, right, bottom = part_for(np.array([0.0, 0.5, 1.0, 0.0]))(100, 100)
    assert (right, top) == (100, 0)
    assert isclose((right - left) * (bottom - top), 3500)


def test_the_same_seed_draws_the_same_and_part_of_a_batch_is_that_part():
    one, again = (draw_looks(EVERY_WAY, 9, padding=1, seed=3) for _ in range(2))
    other = draw_looks(EVERY_WAY, 9, padding=1, seed=4)
    images = some_images(9, (3, 20, 24))
    maker = Maker(shape=(3, 20, 24), source=None)
    made = maker.made(Order(images=images, looks=one))
    assert np.array_equal(made, maker.made(Order(images=images, looks=again)))
    assert not np.array_equal(made, maker.made(Order(images=images, looks=other)))
    part = slice(2, 7)
    assert np.array_equal(made[part], maker.made(Order(images=images[part], looks=one.of(part))))
    assert [each.name for each in fields(Looks) if getattr(one, each.name) is None] == ["shifts"]


def test_factors_of_one_change_nothing_and_brightness_is_a_factor():
    image = some_images(1, (3, 8, 8))[0]
    assert np.array_equal(jittered(image, np.ones(3)), image)
    darker = jittered(image, np.array([0.5, 1, 1]))
    assert np.abs(darker.astype(int) - image // 2).max() <= 1
    grey = jittered(image, np.array([1, 1, 0.0]))
    assert (grey == grey[:1]).all()


@pytest.mark.parametrize("change", [sign * place for place in range(1, 15) for sign in (1, -1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_keeps_shape_and_kind(change, channels):
    image = some_images(1, (channels, 32, 32))[0] // 2 + 100
    result = changed(image, [change])
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(result, image) == (abs(change) == 1 or (abs(change) == 8 and channels == 1))


def test_a_shift_goes_one_way_or_the_other_and_a_turn_keeps_the_middle():
    image = np.zeros((1, 31, 31), np.uint8)
    image[0, 13:18, 13:18] = 255
    right, left = changed(image, [-4])[0], changed(image, [4])[0]
    assert right[15, 15 + 4] == 255
    assert left[15, 15 - 4] == 255
    assert changed(image, [6])[0, 15, 15] == 255


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mirror", "expected none, or some of crop, flip, resized-crop, colour, randaugment"),
        ("flip,flip", "with commas between, got 'flip,flip'"),
        ("none,flip", "expected none"),
        ("", "expected none"),
        ("crop,resized-crop", "name one of them"),
    ],
)
def test_ways_that_are_none_are_refused(text, words):
    with pytest.raises(OptionError, match=words):
        augmentations(text)


def test_ways_are_named_in_any_order_and_as_they_were_before():
    assert augmentations("none") == frozenset()
    assert augmentations("crop-flip") == augmentations("flip,crop") == {"crop", "flip"}
