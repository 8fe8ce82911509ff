"""Pictures are resized to the very pixels that torchvision and timm judge networks by."""

import numpy as np
import pytest
from architectures import torchvision_models
from PIL import Image

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError, DataError
from s2dnas_deploy.images.pixels import InputFormat, covering, normalised, planes_of, resized
from s2dnas_deploy.images.resizing import Resizing, resizing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def wanted_of(resize, height=224, width=224):
    return InputFormat(channels=3, height=height, width=width, resize=resize)


def photos():
    """Real ones, upright and not, of even and odd sizes, larger and smaller than what is asked for."""
    from sklearn.datasets import load_sample_image

    china, flower = (Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
    yield from (china, flower, china.transpose(Image.Transpose.ROTATE_90))
    yield from (china.crop((0, 0, 333, 427)), flower.crop((3, 5, 204, 318)), flower.crop((0, 0, 300, 300)))
    yield china.crop((0, 0, 640, 257))


@pytest.mark.parametrize(
    ("size", "cover", "share"),
    [(224, 256, "0.875"), (224, 235, "0.95"), (240, 255, "0.941176"), (96, 96, "1")],
)
@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
def test_a_crop_of_a_share_gives_the_pixels_of_torchvision_and_timm(size, cover, share, filter_):
    """timm's transform is of these parts as well, and resizes to floor(size / crop_pct)."""
    torchvision_models()
    from torchvision.transforms import InterpolationMode, functional
    from torchvision.transforms._presets import ImageClassification

    wanted = wanted_of(f"crop:{share}" + (":bicubic" if filter_ == "bicubic" else ""), size, size)
    mode = InterpolationMode(filter_)
    whole = ImageClassification(crop_size=size, resize_size=cover, interpolation=mode, mean=MEAN, std=STD)
    for photo in photos():
        expected = functional.center_crop(functional.resize(photo, [cover], interpolation=mode), [size])
        planes = planes_of(resized(photo, wanted))
        assert np.array_equal(planes, planes_of(expected))
        assert np.abs(normalised(planes, MEAN, STD) - whole(photo).numpy()).max() < 1e-5


def test_sizes_that_come_out_whole_are_not_a_pixel_short():
    wanted = wanted_of("crop:0.875")
    for width, height, expected in ((600, 400, (384, 256)), (400, 600, (256, 384)), (512, 256, (512, 256))):
        assert covering((width, height), wanted) == expected
        for reduction in (2, 3, 7):  # as a JPEG's box may be, in floats
            assert covering((width / reduction, height / reduction), wanted) == expected
    assert covering((640, 427), wanted) == (383, 256)  # of 383.7
    assert covering((640, 427), wanted_of("crop")) == (336, 224)  # of 335.7
    assert covering((640, 427), wanted_of("crop:0.875", 112, 224)) == (256, 171)
    assert covering((640, 427), wanted_of("stretch:bicubic")) == (224, 224)


def test_a_picture_of_the_networks_size_stays_as_it_is():
    """It is what others have made fit: what training held out, or an array of ready images."""
    picture = next(photos()).crop((0, 0, 224, 224))
    assert resized(picture, wanted_of("crop:0.875")) is picture


def test_bicubic_is_another_than_bilinear():
    photo = next(photos())
    for way in ("crop", "stretch", "crop:0.9"):
        linear, cubic = (np.asarray(resized(photo, wanted_of(way + more))) for more in ("", ":bicubic"))
        assert linear.shape == cubic.shape == (224, 224, 3)
        assert not np.array_equal(linear, cubic)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crop", Resizing(is_crop=True, share=None, is_bicubic=False)),
        ("stretch", Resizing(is_crop=False, share=None, is_bicubic=False)),
        ("stretch:bicubic", Resizing(is_crop=False, share=None, is_bicubic=True)),
        ("crop:bicubic", Resizing(is_crop=True, share=None, is_bicubic=True)),
        ("crop:1", Resizing(is_crop=True, share=1.0, is_bicubic=False)),
        ("crop:0.875:bicubic", Resizing(is_crop=True, share=0.875, is_bicubic=True)),
        *(
            (text, None)
            for text in (
                "",
                "crop:",
                "crop:0",
                "crop:0.4",
                "crop:1.1",
                "crop:0.9:",
                "stretch:0.9",
                "crop:bilinear",
            )
        ),
        ("crop:0.8750001", None),
    ],
)
def test_a_text_says_how(text, expected):
    assert resizing(text) == expected
    if expected is None:
        with pytest.raises(DataError, match="expected resize to be stretch, crop or crop:SHARE"):
            wanted_of(text)
        with pytest.raises(CheckpointError, match=r"resize: expected .* stretch, crop or crop:SHARE"):
            Preprocessing(input_shape=(1, 8, 8), mean=(0.0,), std=(1.0,), resize=text)
    else:
        assert wanted_of(text).way == expected
        kept = Preprocessing(input_shape=(1, 8, 8), mean=(0.0,), std=(1.0,), resize=text)
        assert kept.to_document()["resize"] == text
