"""From an image file in anyone's hands to what the network takes, within stated memory and time.

Part of the bridge: training reads its files so, and the device must do exactly the same. A few bytes may
claim any number of pixels, so what it takes to decode a picture is reckoned from its header first, and all
threads together hold no more than `MOST_BYTES` of pictures. The rules:

- A file has at most 256 MiB, and in front of its pixels at most 8 MiB of other things.
- A picture takes at most 320 MB to decode: 40 megapixels, or fewer in formats whose decoders take more
  (26 in packed TIFF, 20 in WebP, 16 in JPEG 2000).
- A PNG of more, up to nearly 80, is decoded if it is in the network's colours and the right way up, and is
  to be made smaller: it is resized as it is decoded, without another picture in between.
- A JPEG of more is decoded at a half, a quarter or an eighth of its size, if it is to be made smaller anyway.
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
from s2dnas_deploy.images.pixels import (
    InputFormat,
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
_COEFFICIENT_BYTES = 2
_REDUCTIONS = (1, 2, 4, 8)
_MOST_LAYERED_PIXELS = 3_000_000_000
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# Pillow reads plain PPM in Python: slowly, and each comment by copying all that follows it.
_LARGEST_PLAIN_FILE, _MOST_COMMENTS = 16 * 2**20, 1000
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


class OtherSizeError(DataError):
    """A picture that is not of the network's size, and must not be resized."""

    def __init__(self, image: Image.Image) -> None:
        super().__init__(f"{image.height}x{image.width} pixels")
        self.height, self.width = image.height, image.width


def planes_in(path: str, wanted: InputFormat) -> Pixels:
    """What the network takes of an image file, uint8 [C, H, W].

    Raises `OtherSizeError`, or a `DataError` with the reason, in which the file is not named.
    """
    try:
        with _opened(path) as (file, image):
            if not (wanted.admits(image.height, image.width) or wanted.admits(image.width, image.height)):
                raise OtherSizeError(image)
            with _ROOM.taken(_bytes_to_decode(image, file, wanted)), closing(image):
                return _decoded(image, wanted)
    except DataError:
        raise
    except Exception as problem:  # Pillow's decoders raise almost anything on damaged bytes.
        raise DataError(_reason(problem)) from problem


def _decoded(image: Image.Image, wanted: InputFormat) -> Pixels:
    image.load()
    if image.format == "PNG" and not is_as_wanted(image, wanted):  # which may only stand behind the pixels
        _within(_EACH_BYTES * image.width * image.height, image)
    picture = in_colour(image, wanted.channels)
    if not wanted.admits(picture.height, picture.width):
        raise OtherSizeError(picture)
    return planes_of(resized(picture, wanted))


def is_picture(path: str) -> bool:
    """Whether a file begins like a picture."""
    try:
        with _opened(path):
            return True
    except Exception:  # Whatever it is, it is no picture; pillow raises almost anything.
        return False


@contextmanager
def _opened(path: str) -> Iterator[tuple["_Watched", ImageFile.ImageFile]]:
    """A picture whose header has been read, and the file that it is in."""
    with open_file(path) as plain, _Watched(io.FileIO(plain.fileno(), closefd=False)) as file:
        if file.size > LARGEST_FILE:
            raise DataError(f"expected at most 256 MiB, got {file.size / 2**20:,.0f}; save it smaller")
        if not file.size:
            raise DataError("the file is empty")
        with _turn_of(file), Image.open(file, formats=readable_formats()) as image:
            file.before_pixels = False
            yield file, image


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

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

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
    """How much memory it takes, at a size that a JPEG may be reduced to; raise if it is too much."""
    pixels, each = image.width * image.height, _EACH_BYTES
    if image.format in ("JPEG", "MPO"):
        return _bytes_for_jpeg(image, file, wanted)
    if image.format == "WEBP":
        return _within(_EACH_BYTES_WEBP * pixels + 2 * file.size, image)
    if image.format == "JPEG2000":
        each = _EACH_BYTES_JPEG2000[len(image.getbands())]
    if image.format == "TIFF" and image.tile and image.tile[0][0] != "raw":
        tags, each = image.tag_v2, _EACH_BYTES_LIBTIFF  # type: ignore[attr-defined]
        pixels = max(pixels, tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0))
    if image.format == "PNG" and each * pixels > MOST_BYTES and wanted.resize and is_as_wanted(image, wanted):
        width, height = covering(image, wanted)
        each, pixels = _EACH_BYTES_AS_WANTED, pixels + width * (image.height + height)
    if image.tile and image.tile[0][0] == "ppm_plain":
        _refuse_long_text(file)
    return _within(each * pixels, image)


def _bytes_for_jpeg(image: ImageFile.ImageFile, file: _Watched, wanted: InputFormat) -> int:
    """Those in layers are held as coefficients until the last layer, whatever size they are decoded at."""
    width, height, layers = image.width, image.height, _layers_in(file)
    if layers * width * height > _MOST_LAYERED_PIXELS:
        raise DataError(f"{width}x{height} pixels in {layers:,} layers; save it anew, with fewer")
    coefficients = _coefficients(image) if layers > 1 else 0
    fitting = [
        reduction
        for reduction in _REDUCTIONS
        if reduction == 1
        or (wanted.resize and min(width, height) // reduction >= max(wanted.width, wanted.height))
    ]
    needed = [coefficients + _EACH_BYTES * (width // each) * (height // each) for each in fitting]
    chosen = next((number for number, size in enumerate(needed) if size <= MOST_BYTES), len(needed) - 1)
    if chosen:
        image.draft(image.mode, (width // fitting[chosen], height // fitting[chosen]))
    return _within(needed[chosen], image)


def _coefficients(image: Image.Image) -> int:
    """What they take, by how densely each colour is sampled."""
    sampling = [(across, down) for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
    densest = max(across for across, _ in sampling) * max(down for _, down in sampling)
    share = sum(across * down for across, down in sampling) / max(densest, 1)
    return int(_COEFFICIENT_BYTES * share * image.width * image.height)


def _layers_in(file: BinaryIO) -> int:
    """How often a JPEG's decoder has to go over the picture: its scans, without those of a thumbnail."""
    file.seek(_first_scan(file))
    layers, before = 0, b""
    while content := file.read(2**16):
        content = before + content
        end = content.find(_END_OF_IMAGE)
        layers += content.count(_START_OF_SCAN, 0, len(content) if end < 0 else end)
        if end >= 0:
            break
        before = content[-1:]
    return layers


def _first_scan(file: BinaryIO) -> int:
    """Where it begins, behind the segments that have a length."""
    at = 0
    while True:
        file.seek(at)
        start = file.read(4)
        if len(start) < 4 or start.startswith(_START_OF_SCAN):
            return at
        has_length = start[0] == 0xFF and start[1] not in (0, 1, 0xFF) and not 0xD0 <= start[1] <= 0xD9
        at += 2 + int.from_bytes(start[2:], "big") if has_length else 1


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
