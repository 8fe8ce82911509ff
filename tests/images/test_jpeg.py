"""Photos larger than needed are decoded no larger than needed, and come out as if they had been whole."""

import io

import numpy as np
import pytest
from PIL import Image

from s2dnas_deploy.images import jpeg, picture_file
from s2dnas_deploy.images.picture_file import planes_in
from s2dnas_deploy.images.pixels import InputFormat, in_colour, planes_of, resized

ORIENTATION = 0x0112


def scene(size):
    """A picture with edges and shades, as photos have them."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    fine = Image.fromarray(random.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    return Image.blend(coarse.resize(size, Image.Resampling.BICUBIC), fine.resize(size), 0.3)


def jpeg_at(path, size, *, orientation=1, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    scene(size).save(path, "JPEG", quality=90, exif=exif, **options)
    return str(path)


def wanted_of(width, height, resize="crop", channels=3):
    return InputFormat(channels=channels, height=height, width=width, resize=resize)


def read_whole(path, wanted):
    """All of it decoded, then resized by the same filter."""
    with Image.open(path) as image:
        return planes_of(resized(in_colour(image, wanted.channels), wanted))


@pytest.fixture
def decoded(monkeypatch):
    """The size of each picture as it was decoded."""
    sizes = []

    def noting(image, channels):
        sizes.append(image.size)
        return in_colour(image, channels)

    monkeypatch.setattr(picture_file, "in_colour", noting)
    return sizes


@pytest.mark.parametrize(
    ("wanted", "orientation", "expected"),
    [
        (wanted_of(49, 49), 1, (100, 75)),  # just over one and a half times the side
        (wanted_of(51, 51), 1, (200, 150)),
        (wanted_of(100, 100), 1, (200, 150)),
        (wanted_of(199, 199), 1, (400, 300)),
        (wanted_of(201, 201), 1, (800, 600)),
        (wanted_of(200, 40, "stretch"), 1, (400, 300)),
        (wanted_of(90, 40, "stretch"), 1, (200, 150)),
        (wanted_of(110, 40, "stretch"), 6, (400, 300)),  # upright it is 600 wide
        (wanted_of(40, 130, "stretch"), 6, (200, 150)),  # and 800 high
        (wanted_of(40, 130, "stretch"), 3, (400, 300)),
        (wanted_of(800, 600, None), 1, (800, 600)),
        (wanted_of(1000, 1000), 1, (800, 600)),
    ],
)
def test_a_photo_is_decoded_at_the_smallest_scale_that_leaves_half_as_much_again(
    tmp_path, decoded, wanted, orientation, expected
):
    path = jpeg_at(tmp_path / "x.jpg", (800, 600), orientation=orientation)
    whole = read_whole(path, wanted).astype(int)
    pixels = planes_in(path, wanted)
    assert decoded == [expected]
    assert np.abs(whole - pixels).mean() <= (0 if expected == (800, 600) else 2)


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sides_that_no_scale_divides_are_where_they_were(tmp_path, decoded, resize, orientation):
    path = jpeg_at(tmp_path / "x.jpg", (393, 297), orientation=orientation)
    whole = read_whole(path, wanted_of(24, 24, resize)).astype(int)
    difference = np.abs(whole - planes_in(path, wanted_of(24, 24, resize)))
    assert decoded == [(50, 38)]  # before it is turned upright
    assert difference.mean() < 2.5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_photos_of_any_colours_are_the_same_at_a_smaller_scale(tmp_path, decoded, mode, channels):
    path = str(tmp_path / "x.jpg")
    scene((640, 480)).convert(mode).save(path, "JPEG", quality=95)
    wanted = wanted_of(40, 40, channels=channels)
    assert np.abs(read_whole(path, wanted).astype(int) - planes_in(path, wanted)).mean() <= 2
    assert decoded == [(80, 60)]


def test_photos_with_others_behind_them_are_the_same_at_a_smaller_scale(tmp_path, decoded):
    path = str(tmp_path / "x.jpg")
    scene((640, 480)).save(path, "MPO", save_all=True, append_images=[scene((64, 48))], quality=95)
    with Image.open(path) as image:
        assert image.format == "MPO"
    assert (
        np.abs(read_whole(path, wanted_of(40, 40)).astype(int) - planes_in(path, wanted_of(40, 40))).mean()
        <= 2
    )
    assert decoded == [(80, 60)]


def test_a_file_is_searched_for_layers_only_if_there_may_be_some(tmp_path):
    for options, layers in (({}, False), ({"progressive": True}, True)):
        content = io.BytesIO()
        scene((64, 48)).save(content, "JPEG", **options)
        with Image.open(content) as image:
            assert (jpeg.coefficient_bytes(image, content) > 0) == layers
    # All colours in the first scan, as its header says; the decoder takes no more than that.
    scene((64, 48)).save(tmp_path / "x.jpg", "JPEG")
    plain = (tmp_path / "x.jpg").read_bytes()
    start = plain.index(b"\xff\xda")
    several = io.BytesIO(
        plain[: start + 4] + b"\1" + plain[start + 5 :].replace(b"\xff\xd9", b"\xff\xda" * 9)
    )
    with Image.open(io.BytesIO(plain)) as image:
        assert jpeg.coefficient_bytes(image, several) == 2 * 64 * 48 * 3 // 2
