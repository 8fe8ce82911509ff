"""Image files as they are found in the wild: good, odd and damaged, by kind."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

SIZE = (12, 10)


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few bytes."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")


def good() -> dict[str, bytes]:
    """File names, and contents that must be classified."""
    rgb = picture()
    deep = np.random.default_rng(1).integers(0, 65536, (SIZE[1], SIZE[0]), dtype=np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    half = rgb.copy()
    half.putalpha(128)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    palette = rgb.quantize(16)
    palette.info["transparency"] = 3
    return {
        "plain.jpg": saved(rgb, "JPEG"),
        "upper.JPEG": saved(rgb, "JPEG"),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": saved(rgb.convert("L"), "JPEG"),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "profile.jpg": saved(rgb, "JPEG", icc_profile=profile),
        "turned.jpg": saved(rgb.resize((10, 12)), "JPEG", exif=turned),
        "rgba.png": saved(half, "PNG"),
        "palette.png": saved(rgb.quantize(16), "PNG"),
        "palette with a transparent colour.png": saved(palette, "PNG", transparency=3),
        "bits.png": saved(rgb.convert("1"), "PNG"),
        "16 bits.png": saved(Image.fromarray(deep), "PNG"),
        "grey and alpha.png": saved(half.convert("LA"), "PNG"),
        "moving.gif": saved(rgb, "GIF", save_all=True, append_images=[picture(1)]),
        "plain.bmp": saved(rgb, "BMP"),
        "plain.tif": saved(rgb, "TIFF"),
        "plain.webp": saved(rgb, "WEBP"),
        "plain.ppm": saved(rgb, "PPM"),
        "a png called.jpg": saved(rgb, "PNG"),
        "no ending": saved(rgb, "PNG"),
        "ümläut 猫.jpg": saved(rgb, "JPEG"),
        "bytes after the end.jpg": saved(rgb, "JPEG") + b"rubbish" * 100,
    }


def bad() -> dict[str, bytes]:
    """File names, and contents that must be reported."""
    jpeg, png = saved(picture(), "JPEG"), saved(picture(), "PNG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "empty.jpg": b"",
        "one byte.jpg": b"\xff",
        "text.jpg": b"this is no image\n" * 20,
        "web page.png": b"<!DOCTYPE html><html><body>404</body></html>",
        "half.jpg": jpeg[: len(jpeg) // 3],
        "half.png": png[: len(png) // 2],
        "header only.png": png[:33],
        "flipped.png": bytes(flipped),
        "bomb.png": bomb(),
        "zeros.jpg": b"\0" * 5000,
        "zip.jpg": b"PK\x03\x04" + b"\0" * 200,
        "floats.tif": saved(Image.fromarray(np.ones((SIZE[1], SIZE[0]), np.float32)), "TIFF"),
        "other size.png": saved(picture().resize((40, 40)), "PNG"),
        "cut.gif": saved(picture(), "GIF")[:60],
        "cut.webp": saved(picture(), "WEBP")[:40],
        "cut.bmp": saved(picture(), "BMP")[:80],
        "cut.tif": saved(picture(), "TIFF")[:60],
        "script.svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 10\nshowpage\n",
        "random.jpg": np.random.default_rng(2).bytes(3000),
    }


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in files.items():
        (folder / name).write_bytes(content)
        paths.append(folder / name)
    return paths
