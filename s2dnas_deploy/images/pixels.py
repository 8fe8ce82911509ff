"""Make a picture, or an array of pictures, fit the network's input: colour, orientation, size.

Common ground: training reads its images so, and the device must do exactly the same. Knows nothing of
files, labels or torch. The rules: EXIF orientation applied; 16-bit grey scaled by 1/257; alpha dropped, as
by the `convert("RGB")` with which torchvision's ImageFolder reads; then RGB or L; then, only if asked and
only if the size is another, antialiased resizing, bilinear or bicubic (`stretch` to the size, or `crop`: the
smallest size of the same proportions that covers it, centre cut out, odd pixel lost at the right and at the
bottom). `crop:SHARE` covers more, and rounds as torchvision does, so that networks get the very pixels they
were judged by.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.resizing import WORDS, Resizing, resizing
from s2dnas_deploy.quoting import shown

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""
Part = Callable[[float, float], Box]
"""Which part of an upright picture is looked at, by its width and height."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Those that pillow decodes by itself; EPS, for one, would start another program.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_LAYOUTS = "uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]"
_MODES = {1: "L", 3: "RGB"}
# A picture without these is not turned; which way is up stands in any of them.
_CHANGES = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_BAND_PIXELS = 2**18
_MOST_BETWEEN = 2**24
_ROUNDING = 1e-6  # of sizes that come out whole, but for rounding


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats that this pillow can read, of those that are wanted: in training and on the device."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@dataclass(frozen=True, kw_only=True)
class InputFormat:
    """What the network takes, and what may be done to a picture of another size."""

    channels: int
    height: int
    width: int
    resize: str | None
    """None: nothing, another size is an error; else as `resizing` says."""

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise DataError(
                "expected an input shape of three positive numbers (channels, height, width),"
                f" got {(self.channels, self.height, self.width)}"
            )
        if self.resize is not None and resizing(self.resize) is None:
            raise DataError(f"expected resize to be {WORDS}; got {shown(self.resize)}")

    @property
    def way(self) -> Resizing:
        """How pictures of another size are made to fit, if they are."""
        found = None if self.resize is None else resizing(self.resize)
        assert found is not None, "nothing was asked for"
        return found

    def admits(self, height: int, width: int) -> bool:
        """Whether a picture of this size can be used."""
        return min(height, width) > 0 and (
            self.resize is not None or (height, width) == (self.height, self.width)
        )

    def refusal(self, height: int, width: int, *, where: str, how_many: str) -> DataError:
        """Return the error for a picture that is not admitted."""
        return DataError(
            f"{where}: expected {self.height}x{self.width} pixels (height x width), got {height}x{width}"
            f" ({how_many}). Add `--resize crop` or `--resize stretch`, or give the images' own size as"
            " `--input`."
        )


def require_picture_channels(wanted: InputFormat, *, where: str) -> None:
    """Raise unless picture files can be turned into what the network takes."""
    if wanted.channels not in _MODES:
        raise DataError(
            f"{where}: expected a network that takes 3 channels (colour) or 1 (grey), as image files have,"
            f" got one that takes {wanted.channels}."
            " Save the images as uint8 arrays in an .npz archive instead."
        )


def in_colour(image: Image.Image, channels: int) -> Image.Image:
    """Return the picture upright, in 8-bit RGB (3 channels) or grey (1 channel).

    Of transparent pixels the colour is taken that the file keeps under them. Raises ValueError for pixels
    whose scale is anyone's guess (float, 32-bit).
    """
    ImageOps.exif_transpose(image, in_place=True)
    image = _eight_bit(image)
    image.info.pop("transparency", None)  # pillow would look for the transparent colour in the new mode
    if image.mode == _MODES[channels]:
        return image
    if channels == 1 and image.mode != "1":
        # Through RGB, for pillow has no direct way to grey from CMYK, LAB or a palette with all its modes.
        image = image.convert("RGB")
    return image.convert(_MODES[channels])


def resized(image: Image.Image, wanted: InputFormat, box: Box | None = None) -> Image.Image:
    """Return the picture, or what of it is in the box, in the wanted size; as it is if nothing was asked for.

    Raises a `DataError` that does not say which picture, if it is a line of pixels rather than a picture.
    """
    if wanted.resize is None or (box is None and image.size == (wanted.width, wanted.height)):
        return image
    left, top, right, bottom = box or (0, 0, *image.size)
    width, height = covering((right - left, bottom - top), wanted)
    # Pillow changes the width first; a line of pixels would become a large picture in between.
    if width * max(height, image.height) > max(_MOST_BETWEEN, 4 * wanted.width * wanted.height):
        raise DataError(
            f"{image.width}x{image.height} pixels are too long and narrow for {wanted.width}x{wanted.height}"
        )
    filter_ = Image.Resampling.BICUBIC if wanted.way.is_bicubic else Image.Resampling.BILINEAR
    cover = image.resize((width, height), filter_, box)
    across, down = (_half(more, wanted.way) for more in (width - wanted.width, height - wanted.height))
    return cover.crop((across, down, across + wanted.width, down + wanted.height))


def _half(more: int, way: Resizing) -> int:
    """Where a crop begins in so many more pixels; torchvision rounds half of them to an even number."""
    return more // 2 if way.share is None else round(more / 2)


def covering(size: tuple[float, float], wanted: InputFormat) -> tuple[int, int]:
    """The width and height that a picture of a size is resized to, before a crop takes the middle of it.

    torchvision cuts what is left of a pixel off the longer side of a cover for a square.
    """
    width, height, way = wanted.width, wanted.height, wanted.way
    if not way.is_crop:
        return width, height
    if way.share is not None:
        width, height = (int(side / way.share + _ROUNDING) for side in (width, height))
    scale = max(width / size[0], height / size[1])
    is_cut = way.share is not None and width == height
    across, down = (int(s * scale + _ROUNDING) if is_cut else round(s * scale) for s in size)
    return max(width, across), max(height, down)


def planes_of(image: Image.Image) -> Pixels:
    """Return an 8-bit picture as uint8 [C, H, W]."""
    pixels: Pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def as_planes(images: NDArray[Any], wanted: InputFormat, *, where: str) -> Pixels:
    """Return an array of pictures, grey or colour, channels first or last, as a view [N, C, H, W]."""
    if images.dtype != np.uint8:
        raise DataError(
            f"{where}: expected {_LAYOUTS}, got {images.dtype} {list(images.shape)}. Save uint8, 0 for black"
            " to 255 for white: images are stored as 8 bits and normalised by the network."
        )
    if images.ndim not in (3, 4) or not images.size:
        raise DataError(f"{where}: expected {_LAYOUTS}, got {images.dtype} {list(images.shape)}.")
    if images.ndim == 3:
        return images[:, None]
    return (
        images
        if _channels_come_first(images.shape[1:], wanted, where=where)
        else images.transpose(0, 3, 1, 2)
    )


def fitted(images: Pixels, wanted: InputFormat) -> Pixels:
    """Return uint8 [N, C, H, W] in the wanted channels and, if resizing was asked for, size."""
    images = _in_channels(images, wanted.channels)
    if images.shape[2:] == (wanted.height, wanted.width):
        return images
    shape = (*images.shape[:2], wanted.height, wanted.width)
    planes = images.reshape(-1, *images.shape[2:])
    # Plane by plane is what pillow does within an RGB picture as well, and it allows any channel count.
    return np.stack([np.asarray(resized(Image.fromarray(plane), wanted)) for plane in planes]).reshape(shape)


def normalised(planes: Pixels, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """What a network reads of uint8 [..., C, H, W]: (pixel / 255 - mean) / std, in float32 as in training."""
    means, stds = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
    scaled: NDArray[np.float32] = (planes.astype(np.float32) / np.float32(255) - means) / stds
    return scaled


def is_as_wanted(image: Image.Image, wanted: InputFormat) -> bool:
    """Whether `in_colour` is sure to leave a picture as it is, going by what has been read of its file."""
    return image.mode == _MODES[wanted.channels] and not _CHANGES & image.info.keys()


def can_recolour(channels: int, wanted: InputFormat) -> bool:
    """Whether `fitted` can turn arrays of so many channels into what the network takes."""
    return channels == wanted.channels or {channels, wanted.channels} == {1, 3}


def _in_channels(images: Pixels, channels: int) -> Pixels:
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    red, green, blue = images.astype(np.uint32).transpose(1, 0, 2, 3)
    # ITU-R 601 luma in 16-bit fixed point, as pillow computes it: arrays and files turn grey alike.
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    grey: Pixels = luma.astype(np.uint8)[:, None]
    return grey


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey down to 8 bits; pillow does so by itself for 16-bit colour."""
    # Up to version 10, pillow opens 16-bit grey PNG as "I"; in any version, so it does 16-bit PGM.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _scaled_down(image)
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are {'floats' if image.mode == 'F' else '32-bit'}: save it with 8 bits")
    return image


def _scaled_down(image: Image.Image) -> Image.Image:
    """16 bits to 8, some rows at a time: what that takes in between is little, however large the picture."""
    scaled = Image.new("L", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = (0, top, image.width, min(top + rows, image.height))
        deep: NDArray[Any] = np.asarray(image.crop(band)).astype(np.uint32)
        scaled.paste(Image.fromarray(((deep + 128) // 257).astype(np.uint8)), band)
    return scaled


def _channels_come_first(shape: tuple[int, ...], wanted: InputFormat, *, where: str) -> bool:
    """Tell [C, H, W] from [H, W, C] by the strongest sign that only one of them shows."""
    first, last = shape, (shape[2], shape[0], shape[1])
    signs = (
        lambda layout: layout == (wanted.channels, wanted.height, wanted.width),
        lambda layout: layout[0] == wanted.channels,
        lambda layout: layout[1:] == (wanted.height, wanted.width),
        lambda layout: layout[0] in (1, 3),
    )
    for sign in signs:
        if sign(first) != sign(last):
            return bool(sign(first))
    raise DataError(
        f"{where}: expected [N, H, W, C] or [N, C, H, W], got [N, {', '.join(map(str, shape))}], which can be"
        f" read either way for a network that takes {wanted.channels}x{wanted.height}x{wanted.width}."
        " Save images of the network's own size as [N, C, H, W], or use a folder of image files."
    )
