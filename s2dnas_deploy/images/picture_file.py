"""From an image file in anyone's hands to what the network takes, within stated memory and time.

Common ground: training reads its files so, and the device must do exactly the same. A few bytes may
claim any number of pixels, so what it takes to decode a picture is reckoned from its header first, and all
threads together hold no more than `MOST_BYTES` of pictures. The rules:

- A file has at most 256 MiB, and in front of its pixels at most 8 MiB of other things.
- A picture takes at most 320 MB to decode: 40 megapixels, or fewer in formats whose decoders take more
  (26 in packed TIFF, 20 in WebP, 16 in JPEG 2000).
- A PNG of more, up to nearly 80, is decoded if it is in the network's colours and the right way up, and is
  to be made smaller: it is resized as it is decoded, without another picture in between.
- A JPEG that is to be made smaller is decoded at a half, a quarter or an eighth of its size (see `jpeg`).
"""

import ctypes
import io
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.plain_file import open_file
from s2dnas_deploy.images.jpeg import coefficient_bytes, reduced, reductions, upright_size
from s2dnas_deploy.images.pixels import (
    Box,
    InputFormat,
    Part,
    Pixels,
    covering,
    in_colour,
    is_as_wanted,
    planes_of,
    readable_formats,
    resized,
)
from s2dnas_deploy.quoting import in_a_line

MOST_BYTES = 320_000_000
LARGEST_FILE = 256 * 2**20

_LARGE_WEBP = 2**20
_ONE_LARGE_WEBP = threading.Lock()
_LARGE_BYTES = 32_000_000
_MOST_BEFORE_PIXELS = 8 * 2**20
_MOST_READS_BEFORE_PIXELS, _MOST_READS = 200_000, 1_000_000
# Per pixel, as measured: the decoded picture, and the one in the network's colours that is made of it.
_EACH_BYTES = 8
_EACH_BYTES_AS_WANTED = 4  # the decoded picture alone
_EACH_BYTES_WEBP, _EACH_BYTES_LIBTIFF, _EACH_BYTES_JPEG2000 = 16, 12, {1: 9, 2: 14, 3: 19, 4: 24}
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_ORIENTATION, _ON_ITS_SIDE = 274, (5, 6, 7, 8)
_GREY = ("1", "L", "I", "I;16", "I;16B")
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
# Pillow reads plain PPM in Python: slowly, and each comment by copying all that follows it.
_LARGEST_PLAIN_FILE, _MOST_COMMENTS = 16 * 2**20, 1000


class OtherSizeError(DataError):
    """A picture that is not of the network's size, and must not be resized."""

    def __init__(self, image: Image.Image) -> None:
        super().__init__(f"{image.height}x{image.width} pixels")
        self.height, self.width = image.height, image.width


def planes_in(source: str | bytes, wanted: InputFormat, part: Part | None = None) -> Pixels:
    """What the network takes of an image file, by its path or its content, uint8 [C, H, W].

    Where only a part is looked at, a JPEG is decoded as small as that part may be. Raises
    `OtherSizeError`, or a `DataError` with the reason, in which the file is not named.
    """
    try:
        with _opened(source) as (file, image):
            if not (wanted.admits(image.height, image.width) or wanted.admits(image.width, image.height)):
                raise OtherSizeError(image)
            if image.format in ("JPEG", "MPO"):
                needed, box = _made_smaller(image, file, wanted, part)
            else:
                needed, box = _bytes_to_decode(image, file, wanted), None
            with _ROOM.taken(needed), closing(image):
                return _decoded(image, wanted, box, part)
    except DataError:
        raise
    except Exception as problem:  # Pillow's decoders raise almost anything on damaged bytes.
        raise DataError(_reason(problem)) from problem


def _decoded(image: Image.Image, wanted: InputFormat, box: Box | None, part: Part | None) -> Pixels:
    image.load()
    if image.format == "PNG" and not is_as_wanted(image, wanted):  # which may only stand behind the pixels
        _within(_EACH_BYTES * image.width * image.height, image)
    picture = in_colour(image, wanted.channels)
    if not wanted.admits(picture.height, picture.width):
        raise OtherSizeError(picture)
    if box is None and part is not None:
        box = part(picture.width, picture.height)
    return planes_of(resized(picture, wanted, box))


def is_picture(path: str) -> bool:
    """Whether a file begins like a picture."""
    try:
        with _opened(path):
            return True
    except Exception:  # Whatever it is, it is no picture; pillow raises almost anything.
        return False


def shape_in(path: str) -> tuple[int, int, int] | None:
    """Channels, height and width of a picture that is upright, by its header; None if that cannot be read."""
    try:
        with _opened(path) as (_, image):
            channels = 1 if image.mode in _GREY else 3
            # Only where the header has it: for more, pillow decodes a PNG.
            is_on_its_side = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
            size = (image.width, image.height) if is_on_its_side else (image.height, image.width)
            return (channels, *size)
    except Exception:  # Pillow raises almost anything; why a picture cannot be read is told when it is.
        return None


def has_alpha(path: str) -> bool:
    """Whether a picture says in its header that some of it may be transparent."""
    try:
        with _opened(path) as (_, image):
            return image.mode in _WITH_ALPHA or "transparency" in image.info
    except Exception:  # as above
        return False


@contextmanager
def _opened(source: str | bytes) -> Iterator[tuple["_Watched", ImageFile.ImageFile]]:
    """A picture whose header has been read, and the file that it is in."""
    with _watched(source) as file:
        if file.size > LARGEST_FILE:
            raise DataError(f"expected at most 256 MiB, got {file.size / 2**20:,.0f}; save it smaller")
        if not file.size:
            raise DataError("the file is empty")
        with _turn_of(file), Image.open(file, formats=readable_formats()) as image:
            file.before_pixels = False
            yield file, image


@contextmanager
def _watched(source: str | bytes) -> Iterator["_Watched"]:
    if isinstance(source, bytes):
        with _Watched(io.BytesIO(source), len(source)) as file:
            yield file
        return
    with open_file(source) as plain:
        size = os.fstat(plain.fileno()).st_size
        with _Watched(io.FileIO(plain.fileno(), closefd=False), size) as file:
            yield file


def _turn_of(file: "_Watched") -> AbstractContextManager[object]:
    """Pillow takes in all of a WebP to open it, before its size is known: large ones take turns."""
    large = file.size > _LARGE_WEBP and file.peek(12)[8:12] == b"WEBP"
    return _ONE_LARGE_WEBP if large else nullcontext()


def _reason(problem: Exception) -> str:
    if isinstance(problem, UnidentifiedImageError):
        return f"no image that can be read (expected {', '.join(readable_formats())}, undamaged)"
    if isinstance(problem, Image.DecompressionBombError):
        return f"more pixels than can be decoded: {in_a_line(problem)}"
    if isinstance(problem, MemoryError):
        return "it takes more memory to decode than there is"
    if isinstance(problem, FileNotFoundError):
        return "no such file"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return in_a_line(problem)


class _Watched(io.BufferedReader):
    """A file whose reader is ended when it reads more than any picture needs: descriptions without end."""

    before_pixels = True
    _reads = _bytes = 0

    def __init__(self, raw: io.FileIO | io.BytesIO, size: int) -> None:
        super().__init__(raw)
        self.size = size

    def read(self, size: int | None = -1, /) -> bytes:
        # Python makes room for all that is asked for, and a damaged file makes pillow ask for gigabytes.
        content = super().read(size if size is None else min(size, self.size))
        self._reads += 1
        if self.before_pixels and size is not None and size >= 0:  # WebP is read whole, before and at once
            self._bytes += len(content)
        most_reads = _MOST_READS_BEFORE_PIXELS if self.before_pixels else _MOST_READS
        if self._reads > most_reads or self._bytes > _MOST_BEFORE_PIXELS:
            raise DataError(
                "expected pixels, got descriptions, comments or tables without end; save it without them"
            )
        return content


# --- what it takes to decode -------------------------------------------------------------------------------


class _Room:
    """Memory that threads share: who needs some of it waits until there is enough."""

    def __init__(self, size_bytes: int) -> None:
        self._free = size_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size_bytes)
            self._free -= size_bytes
        try:
            yield
        finally:
            if size_bytes >= _LARGE_BYTES:
                _trim()
            with self._changed:
                self._free += size_bytes
                self._changed.notify_all()


_ROOM = _Room(MOST_BYTES)


def _trim() -> None:
    """Give memory that is free back to the system; of large pictures, glibc keeps it, thread by thread."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _bytes_to_decode(image: ImageFile.ImageFile, file: _Watched, wanted: InputFormat) -> int:
    """How much memory it takes; raise if it is too much."""
    pixels, each = image.width * image.height, _EACH_BYTES
    if image.format == "WEBP":
        return _within(_EACH_BYTES_WEBP * pixels + 2 * file.size, image)
    if image.format == "JPEG2000":
        each = _EACH_BYTES_JPEG2000[len(image.getbands())]
    if image.format == "TIFF" and image.tile and image.tile[0][0] != "raw":
        tags, each = image.tag_v2, _EACH_BYTES_LIBTIFF  # type: ignore[attr-defined]
        pixels = max(pixels, tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0))
    if image.format == "PNG" and each * pixels > MOST_BYTES and wanted.resize and is_as_wanted(image, wanted):
        width, height = covering(image.size, wanted)
        each, pixels = _EACH_BYTES_AS_WANTED, pixels + width * (image.height + height)
    if image.tile and image.tile[0][0] == "ppm_plain":
        _refuse_long_text(file)
    return _within(each * pixels, image)


def _made_smaller(
    image: ImageFile.ImageFile, file: _Watched, wanted: InputFormat, part: Part | None
) -> tuple[int, Box | None]:
    """How much memory a JPEG takes, as small as is best, or smaller if it must be; and where it lies then."""
    coefficients, (width, height) = coefficient_bytes(image, file), image.size
    whole = upright_size(image)
    left, top, right, bottom = (0, 0, *whole) if part is None else part(*whole)
    needed = {
        each: coefficients + _EACH_BYTES * (width // each) * (height // each)
        for each in reductions((right - left, bottom - top), wanted)
    }
    chosen = next((each for each, size in needed.items() if size <= MOST_BYTES), max(needed))
    if chosen == 1:
        return _within(needed[chosen], image), None
    box = reduced(image, chosen)
    if part is not None:
        across, down = box[:2]
        box = (
            across + left / chosen,
            down + top / chosen,
            across + right / chosen,
            down + bottom / chosen,
        )
    return _within(needed[chosen], image), box


def _refuse_long_text(file: BinaryIO) -> None:
    file.seek(0)
    content = file.read(_LARGEST_PLAIN_FILE + 1)
    if len(content) > _LARGEST_PLAIN_FILE or content.count(b"#") > _MOST_COMMENTS:
        raise DataError("expected plain text of at most 16 MiB and 1,000 comments; save it in binary")


def _within(needed: int, image: Image.Image) -> int:
    if needed > MOST_BYTES:
        raise DataError(
            f"{image.width}x{image.height} pixels of {image.format} take {needed / 1e6:,.0f} MB to decode, "
            f"expected at most {MOST_BYTES / 1e6:.0f}; make it smaller"
        )
    return needed
