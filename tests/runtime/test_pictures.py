"""A device reads an image as training did, and says of any other file why it cannot."""

import numpy as np
import odd_images
import pytest
from PIL import Image

from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.pixels import in_colour, planes_of, readable_formats
from s2dnas_deploy.runtime.pictures import Reader


class _Wanted:
    """What a `Reader` looks at in a manifest."""

    def __init__(self, shape, *, resize=None, image_type="uint8"):
        from s2dnas_deploy.bundle.preprocessing import Preprocessing

        c = shape[0]
        self.preprocessing = Preprocessing(input_shape=shape, mean=(0.5,) * c, std=(0.25,) * c, resize=resize)
        self.image_type = image_type
        self.image_shape = Manifest.image_shape.fget(self)


WIDTH, HEIGHT = odd_images.SIZE
COLOUR = Reader(_Wanted((3, HEIGHT, WIDTH)))


@pytest.mark.parametrize(("name", "content"), odd_images.good().items(), ids=list(odd_images.good()))
def test_good_files_are_read_as_training_reads_them(tmp_path, name, content):
    (path,) = odd_images.write(tmp_path, {name: content})
    with Image.open(path) as image:
        image.load()
        expected = planes_of(in_colour(image, 3)).transpose(1, 2, 0)
    np.testing.assert_array_equal(COLOUR.one(path), expected)
    assert COLOUR.one(str(path)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("name", "content"), odd_images.bad().items(), ids=list(odd_images.bad()))
def test_bad_files_are_reported_with_their_name(tmp_path, name, content):
    (path,) = odd_images.write(tmp_path, {name: content})
    with pytest.raises(DataError, match="^" + str(path)):
        COLOUR.one(path)


def test_reasons_tell_what_to_do(tmp_path):
    paths = dict(zip(odd_images.bad(), odd_images.write(tmp_path, odd_images.bad()), strict=True))
    for name, reason in {
        "empty.jpg": "the file is empty",
        "bomb.png": "900000000 pixels",
        "other size.png": r"expected 10x12 pixels \(height x width\), got 40x40; resize it",
        "text.jpg": "no image that can be read",
        "floats.tif": "floats: save it with 8 bits",
    }.items():
        with pytest.raises(DataError, match=reason):
            COLOUR.one(paths[name])
    with pytest.raises(DataError, match="no such file"):
        COLOUR.one(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="expected a file, got a folder"):
        COLOUR.one(tmp_path)


def test_pictures_and_arrays_are_read_like_files(tmp_path):
    picture = odd_images.picture()
    path = tmp_path / "x.png"
    picture.save(path)
    expected = COLOUR.one(path)
    pixels = np.asarray(picture)
    for source in (picture, pixels, pixels.transpose(2, 0, 1)):
        np.testing.assert_array_equal(COLOUR.one(source), expected)
    np.testing.assert_array_equal(COLOUR.batch([path, picture, pixels]), np.stack([expected] * 3))
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(COLOUR.one(grey), np.repeat(grey[..., None], 3, axis=2))


def test_a_picture_given_is_not_changed():
    turned = odd_images.picture()
    turned.getexif()[0x0112] = 3
    before = turned.tobytes()
    COLOUR.one(turned)
    assert turned.tobytes() == before


def test_float_bundles_get_normalised_planes(tmp_path):
    picture = odd_images.picture()
    reader = Reader(_Wanted((3, HEIGHT, WIDTH), image_type="float32"))
    planes = np.asarray(picture).transpose(2, 0, 1)
    expected = (planes.astype(np.float64) / 255 - 0.5) / 0.25
    result = reader.one(picture)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_images_are_resized_only_if_the_network_was_trained_so():
    big = odd_images.picture().resize((40, 30))
    assert Reader(_Wanted((3, HEIGHT, WIDTH), resize="crop")).one(big).shape == (HEIGHT, WIDTH, 3)
    assert Reader(_Wanted((1, HEIGHT, WIDTH), resize="stretch")).one(np.asarray(big)).shape == (
        HEIGHT,
        WIDTH,
        1,
    )
    with pytest.raises(DataError, match="expected 10x12"):
        COLOUR.one(big)
    with pytest.raises(DataError, match=r"expected an image uint8 \[10, 12, 3\], got uint8 \[30, 40, 3\]"):
        COLOUR.one(np.asarray(big))


def test_only_safe_formats_are_tried():
    assert {"JPEG", "PNG", "WEBP", "TIFF"} <= set(readable_formats())
    assert not {"EPS", "FITS", "PDF", "WMF"} & set(readable_formats())
