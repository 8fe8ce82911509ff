"""NumPy files, archives and images that somebody made to do harm, by name: bytes, made once.

archives()          .npy and .npz files that claim, hide or unpack what they must not
sound_archives()    small ones that must be read, as seeds of mutations
images()            pictures that claim more than they have, or cost more than they are worth
sound_images()      small ones of every format, as seeds of mutations
mutated(content, n) the n-th mutation of some bytes: flipped, cut, doubled, filled
no_files(folder)    what has a name and cannot be read: pipes, sockets, devices, links in circles
"""

import io
import os
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 10)
"""Width and height of the images that are sound."""

# --- NumPy files -------------------------------------------------------------------------------------------


def npy(
    descr: str = "'|u1'",
    shape: str = "(2, 10, 12)",
    data: bytes = bytes(240),
    version: tuple[int, int] = (1, 0),
) -> bytes:
    """A .npy whose header says so, whatever is in it."""
    return npy_with(
        f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode(), data, version
    )


def npy_with(header: bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy with any header."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of any members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _bomb(size: int) -> bytes:
    """An archive of a few kilobytes for every megabyte of zeros in it, made without holding those."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w") as out,
    ):
        out.write(npy(shape=f"({size // 120}, 10, 12)", data=b""))
        for _ in range(size // 120 * 120 // 2**20):
            out.write(bytes(2**20))
        out.write(bytes(size // 120 * 120 % 2**20))
    return stream.getvalue()


def _several(members: int) -> bytes:
    """An archive whose directory lists so many members, in a file that has one."""
    whole = zipped({"a.npy": npy()})
    directory = whole.index(b"PK\x01\x02")
    entry, end = whole[directory : whole.index(b"PK\x05\x06")], whole.index(b"PK\x05\x06")
    names = (entry.replace(b"a.npy", f"{n:05x}"[-5:].encode()) for n in range(members))
    size = len(entry) * members
    footer = bytearray(whole[end:])
    struct.pack_into("<HHII", footer, 8, members & 0xFFFF, members & 0xFFFF, size, directory)
    return whole[:directory] + b"".join(names) + bytes(footer)


def _patched(content: bytes, mark: bytes, offset: int, form: str, value: int | bytes) -> bytes:
    """The bytes, a number after the last mark replaced."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.rindex(mark) + offset, value)
    return bytes(changed)


@cache
def archives() -> dict[str, bytes]:
    """File names, and contents that must be refused, in one line and without much memory."""
    good = npy()
    stored, deflated = zipped({"images.npy": good}), zipped({"images.npy": good}, zipfile.ZIP_DEFLATED)
    many = {f"claims {n}.npy": npy(shape=shape) for n, shape in enumerate(_IMPOSSIBLE_SHAPES)}
    types = {f"of {name}.npy": npy(descr=descr) for name, descr in _TYPES.items()}
    headers = {f"header {name}.npy": npy_with(text, bytes(240)) for name, text in _HEADERS.items()}
    return {
        **many,
        **types,
        **headers,
        "empty.npy": b"",
        "magic only.npy": b"\x93NUMPY",
        "version 9.npy": npy(version=(9, 0)),
        "header of 4 GB.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{" + bytes(1000),
        "header of 1 MB.npy": npy_with(b"{" + b" " * 2**20 + b"}", version=(2, 0)),
        "text that is none.npy": npy(descr="'<U1'", shape="(2,)", data=b"\xff" * 8),
        "half a character.npy": npy(descr="'<U1'", shape="(1,)", data=struct.pack("<I", 0xD800)),
        "bytes after the end.npy": good + b"more",
        "text.npz": b"no archive",
        "begins like one.npz": b"PK\x03\x04 no archive",
        "bomb.npz": _bomb(2**27),
        "bomb by many.npz": _overlapping(100, 2**20),
        "header lies.npz": zipped({"images.npy": npy(shape="(1099511627776,)")}),
        "nested.npz": zipped({"images.npy": stored}),
        "no npy.npz": zipped({"images.npy": good, "notes.txt": b"text"}),
        "a folder.npz": zipped({"images.npy": good, "folder/": b""}),
        "twice.npz": stored_twice(),
        "lzma.npz": zipped({"images.npy": good}, zipfile.ZIP_LZMA),
        "bzip2.npz": zipped({"images.npy": good}, zipfile.ZIP_BZIP2),
        "unknown compression.npz": _patched(stored, b"PK\x01\x02", 10, "<H", 77),
        "encrypted.npz": _patched(stored, b"PK\x01\x02", 8, "<H", 1),
        "size lies.npz": _patched(deflated, b"PK\x01\x02", 24, "<I", 10**7),
        "size lies downward.npz": _patched(deflated, b"PK\x01\x02", 24, "<I", 10),
        "size in 64 bits.npz": _patched(stored, b"PK\x01\x02", 24, "<I", 0xFFFFFFFF),
        "checksum lies.npz": _patched(stored, b"PK\x01\x02", 16, "<I", 1),
        "offset lies.npz": _patched(stored, b"PK\x01\x02", 42, "<I", 10**6),
        "directory lies.npz": _patched(stored, b"PK\x05\x06", 12, "<I", 2**31),
        "2,000 members.npz": _several(2000),
        "100,000 members.npz": _several(100_000),
        "another zip.npz": zipped({"word/document.xml": b"<w/>"}),
    }


_IMPOSSIBLE_SHAPES = (
    "(1099511627776,)",
    "(9223372036854775807, 2)",
    "(4294967296, 4294967296)",
    "(18446744073709551617,)",
    "(-1, 240)",
    "(-240,)",
    "(0, 9223372036854775807, 9223372036854775807)",
    "(True, 240)",
    "(240.0,)",
    "'240'",
    f"({'1, ' * 100}240)",
)
_TYPES = {
    "objects": "'|O'",
    "records": "[('a', '<i4'), ('b', '|O')]",
    "nested records": "[('a', [('b', '<i4', (1000000000,))])]",
    "nothing": "'|V0'",
    "empty text": "'<U0'",
    "huge text": "'<U999999999'",
    "no type": "'x99'",
    "a wide float": "'<f7'",
    "dates": "'<M8[s]'",
    "a number": "7",
}
_HEADERS = {
    "nested deep": b"(" * 5000 + b")" * 5000,
    "of minus signs": b"-" * 9000 + b"1",
    "of lists": b"{'descr': " + b"[" * 4000 + b"]" * 4000 + b"}",
    "that calls": b"__import__('os').system('true')",
    "without shape": b"{'descr': '|u1', 'fortran_order': False}",
    "with more": b"{'descr': '|u1', 'fortran_order': False, 'shape': (240,), 'run': 1}",
    "of spaces": b"{" + b" " * 9990 + b"}",
    "of brackets and spaces": b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b" " * 9000 + b"}",
    "of digits": b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 9000 + b",)}",
    "no text": bytes(range(256)),
}


def stored_twice() -> bytes:
    """An archive that has a name twice: which one counts?"""
    whole = zipped({"images.npy": npy(), "imageX.npy": npy(data=b"\1" * 240)})
    return whole.replace(b"imageX.npy", b"images.npy")


def _overlapping(members: int, size: int) -> bytes:
    """A small archive many of whose members are the same compressed bytes."""
    whole = zipped({"a.npy": npy(shape=f"({size},)", data=bytes(size))}, zipfile.ZIP_DEFLATED)
    directory, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    entry = whole[directory:end]
    entries = b"".join(entry.replace(b"a.npy", b"%c.npy" % (33 + n)) for n in range(members))
    footer = bytearray(whole[end:])
    struct.pack_into("<HHII", footer, 8, members, members, len(entries), directory)
    return whole[:directory] + entries + bytes(footer)


def sound_archives() -> dict[str, bytes]:
    """File names, and contents of two grey images of `SIZE` each that must be read."""
    images = npy(data=bytes(range(240)))
    labels = npy("'<i8'", "(2,)", struct.pack("<2q", 0, 1))
    return {
        "images.npy": images,
        "version 2.npy": npy(data=bytes(240), version=(2, 0)),
        "version 3.npy": npy(data=bytes(240), version=(3, 0)),
        "of python 2.npy": npy(shape="(2L, 10L, 12L)"),
        "stored.npz": zipped({"images.npy": images, "labels.npy": labels}),
        "deflated.npz": zipped({"images.npy": images, "labels.npy": labels}, zipfile.ZIP_DEFLATED),
        "in a folder.npz": zipped({"x.npy": images, "more/arrays.npy": labels}),
    }


# --- images ------------------------------------------------------------------------------------------------


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *parts: bytes, rows: bytes | None = None) -> bytes:
    """An RGB PNG of these parts, and then of the rows, of which there may be too few."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = bytes((3 * width + 1) * height) if rows is None else rows
    body = b"".join(parts) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def tiff(tags: dict[int, tuple[int, int, int | bytes]], data: bytes = bytes(200)) -> bytes:
    """A TIFF of tags: (type, count, value), the value inline or behind the directory, where `data` begins."""
    behind, place = b"", 8 + 2 + 12 * len(tags) + 4
    entries = struct.pack("<H", len(tags))
    for tag, (kind, count, value) in sorted(tags.items()):
        inline = place + len(behind) if isinstance(value, bytes) else value
        behind += value if isinstance(value, bytes) else b""
        entries += struct.pack("<HHII", tag, kind, count, inline)
    return b"II*\0" + struct.pack("<I", 8) + entries + bytes(4) + behind + data


def _grey_tiff(width: int, height: int, **more: tuple[int, int, int | bytes]) -> bytes:
    tags: dict[int, tuple[int, int, int | bytes]] = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 300),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, width * height),
    }
    return tiff({**tags, **{int(tag[1:]): value for tag, value in more.items()}}, bytes(1000))


def _layers(side: int, layers: int) -> bytes:
    """A progressive JPEG whose last layer comes again and again: each goes over the whole picture."""
    content = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    *_, last = content[:-2].split(b"\xff\xda")
    return content[:-2] + (b"\xff\xda" + last) * layers + b"\xff\xd9"


def _gif(*parts: bytes) -> bytes:
    """A GIF with these parts before its picture."""
    content = saved(Image.new("P", SIZE), "GIF")
    at = content.index(b"\x2c")
    return content[:at] + b"".join(parts) + content[at:]


@cache
def images() -> dict[str, bytes]:
    """File names, and contents that must be refused, in 10 s and 500 MB each, by a network that resizes."""
    many = 2_500_000
    return {
        "claims.png": png(50_000, 50_000, rows=bytes(1000)),
        "claims less.png": png(9_000, 9_000, rows=bytes(1000)),
        "no width.png": png(0, 10, rows=b""),
        "text unpacks.png": png(*SIZE, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**23)))),
        "text unpacks too.png": png(*SIZE, chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2**23)))),
        "texts unpack.png": png(
            *SIZE, *(chunk(b"zTXt", b"%d\0\0" % n + zlib.compress(bytes(10**6))) for n in range(80))
        ),
        "profile unpacks.png": png(*SIZE, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**23)))),
        "many chunks.png": png(*SIZE, chunk(b"abCd", b"") * (many // 3)),
        "long description.png": png(*SIZE, chunk(b"tEXt", b"k\0" + bytes(900_000)) * 40),
        "claims.ppm": b"P6 99999999 99999999 255\n" + bytes(100),
        "claims digits.ppm": b"P6 " + b"9" * 10**6 + b" 1 255\n" + bytes(100),
        "long comment.ppm": b"P6\n#" + b"x" * many + b"\n12 10\n255\n" + bytes(360),
        "comments.ppm": b"P3\n12 10\n255\n" + b"#\n" * 500_000 + b"1 " * 360,
        "long.pgm": b"P2\n3000 3000\n255\n" + b"1 " * 9_000_000,
        "comments.gif": _gif(b"\x21\xfe\x01a\0" * many),
        "claims.gif": b"GIF89a\xff\xff\xff\xff\0\0\0" + saved(Image.new("P", SIZE), "GIF")[13:],
        "layers.jpg": _layers(2000, 800),
        "claims.jpg": _patched(saved(Image.new("L", SIZE), "JPEG"), b"\xff\xc0", 5, ">I", 0xFFFFFFFF),
        "claims.tif": _grey_tiff(60_000, 60_000),
        "many offsets.tif": _grey_tiff(*SIZE, t273=(4, 5_000_000, b"\1\0\0\0" * 5_000_000)),
        "long tag.tif": _grey_tiff(*SIZE, t65000=(4, 5_000_000, b"\1\0\0\0" * 5_000_000)),
        "tag beyond the end.tif": _grey_tiff(*SIZE, t273=(4, 2**31, 2**31)),
        "directory in a circle.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "a photoshop file in it.tif": _grey_tiff(
            *SIZE, t259=(3, 1, 32908), t37724=(7, 10**6, b"8BPS" * 250_000)
        ),
        "claims.webp": _patched(sound_images()["moving.webp"], b"VP8X", 12, "6s", b"\xfe\x3f\0" * 2),
        "claims.bmp": _patched(saved(Image.new("RGB", SIZE), "BMP"), b"BM", 18, "<Q", 60_000 | 60_000 << 32),
    } | ({"claims.jp2": _claiming_jpeg2000()} if "JPEG2000" in Image.SAVE else {})


def surprising_images() -> dict[str, bytes]:
    """File names, and contents of which a decoder makes an answer or an error, in little time and memory."""
    exif = b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x04\0\x01\0\0\0\x01\0\0\0" * 65535
    return {
        "few rows.png": png(4_000, 4_000, rows=bytes(12_001)),
        "claims tiles.tif": _grey_tiff(*SIZE, t322=(4, 1, 2**20), t323=(4, 1, 2**20), t324=(4, 1, 300)),
        "orientation.png": png(*SIZE, chunk(b"eXIf", exif[:100])),
        "one pixel.png": png(1, 1),
        "a line.png": png(20_000, 1),
        "a column.png": png(1, 20_000),
        "too many colours.png": _patched(saved(Image.new("P", SIZE, 200), "PNG"), b"IDAT", 4, "<B", 0),
        "transparent beyond the palette.png": saved(Image.new("P", SIZE, 3), "PNG", transparency=bytes(256)),
        "another profile.jpg": saved(Image.new("CMYK", SIZE), "JPEG", icc_profile=bytes(100)),
        "long profile.jpg": saved(Image.new("RGB", SIZE), "JPEG", icc_profile=bytes(5_000_000)),
        "many frames.gif": saved(_FRAMES[0], "GIF", save_all=True, append_images=_FRAMES[1:]),
        "many frames.webp": saved(_FRAMES[0], "WEBP", save_all=True, append_images=_FRAMES[1:]),
        "many pages.tif": saved(_FRAMES[0], "TIFF", save_all=True, append_images=_FRAMES[1:]),
    }


_FRAMES = [Image.new("L", SIZE, n % 256) for n in range(300)]


def _claiming_jpeg2000() -> bytes:
    """One tile of 40,000 x 40,000 pixels, in a few bytes."""
    content = saved(Image.new("L", SIZE), "JPEG2000")
    large = struct.pack(">II", 40_000, 40_000)
    return content.replace(struct.pack(">II", SIZE[1], SIZE[0]), large).replace(
        struct.pack(">II", *SIZE), large
    )


def sound_images() -> dict[str, bytes]:
    """File names, and pictures of `SIZE` in every format that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    rgb = Image.fromarray(noise)
    half = rgb.copy()
    half.putalpha(128)
    palette = rgb.quantize(16)
    other = Image.fromarray(255 - noise)
    turned = Image.Exif()
    turned[0x0112] = 3
    forms = {
        "plain.jpg": ("JPEG", rgb, {}),
        "turned.jpg": ("JPEG", rgb, {"exif": turned}),
        "progressive.jpg": ("JPEG", rgb, {"progressive": True}),
        "cmyk.jpg": ("JPEG", rgb.convert("CMYK"), {}),
        "several.mpo": ("MPO", rgb, {"save_all": True, "append_images": [other]}),
        "plain.png": ("PNG", rgb, {}),
        "alpha.png": ("PNG", half, {}),
        "palette.png": ("PNG", palette, {"transparency": bytes(range(16))}),
        "deep.png": ("PNG", Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), {}),
        "plain.gif": ("GIF", rgb, {}),
        "moving.gif": ("GIF", rgb, {"save_all": True, "append_images": [other]}),
        "plain.bmp": ("BMP", rgb, {}),
        "palette.bmp": ("BMP", palette, {}),
        "plain.dib": ("DIB", rgb, {}),
        "plain.ppm": ("PPM", rgb, {}),
        "grey.pgm": ("PPM", rgb.convert("L"), {}),
        "bits.pbm": ("PPM", rgb.convert("1"), {}),
        "plain.tif": ("TIFF", rgb, {}),
        "packed.tif": ("TIFF", rgb, {"compression": "tiff_lzw"}),
        "deflated.tif": ("TIFF", rgb, {"compression": "tiff_adobe_deflate"}),
        "photo.tif": ("TIFF", rgb, {"compression": "jpeg"}),
        "plain.webp": ("WEBP", rgb, {}),
        "moving.webp": ("WEBP", rgb, {"save_all": True, "append_images": [other]}),
        "plain.jp2": ("JPEG2000", rgb, {}),
    }
    Image.init()
    return {
        **{
            name: saved(image, form, **more)
            for name, (form, image, more) in forms.items()
            if form in Image.SAVE
        },
        "text.ppm": b"P3\n# a comment\n12 10\n255\n" + b" ".join(b"%d" % value for value in noise.flat),
    }


# --- what both have in common ------------------------------------------------------------------------------


def mutated(content: bytes, number: int) -> bytes:
    """Another version of these bytes, always the same for a number."""
    chance = random.Random(number)  # noqa: S311 - damage, not secrets
    changed = bytearray(content)
    ways: tuple[Callable[[], object], ...] = (
        lambda: _overwrite(changed, chance, 1),
        lambda: _overwrite(changed, chance, 4),
        lambda: changed.__setitem__(_place(changed, chance), chance.choice((0, 0x7F, 0x80, 0xFF))),
        lambda: changed.__delitem__(slice(_place(changed, chance), None)),
        lambda: changed.__delitem__(slice(at := _place(changed, chance), at + chance.randrange(1, 9))),
        lambda: changed.__setitem__(slice(at := _place(changed, chance), at), changed[at : at + 16]),
        lambda: changed.__setitem__(slice(at := _place(changed, chance), at + 4), b"\xff" * 4),
    )
    for _ in range(chance.randrange(1, 4)):
        if changed:
            chance.choice(ways)()
    return bytes(changed)


def _place(content: bytearray, chance: random.Random) -> int:
    """Anywhere, half of the time where headers are."""
    return chance.randrange(min(len(content), 128) if chance.random() < 0.5 else len(content))


def _overwrite(content: bytearray, chance: random.Random, count: int) -> None:
    for _ in range(count):
        content[_place(content, chance)] = chance.randrange(256)


def no_files(folder: Path, suffix: str = ".png") -> dict[str, Path]:
    """Make what has a name with this ending and is no file that can be read; by what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {
        kind: folder / f"{kind}{suffix}"
        for kind in ("pipe", "socket", "zeros", "circle", "nowhere", "to a pipe", "folder")
    }
    os.mkfifo(places["pipe"])
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(folder)  # the name of a socket may have about 100 characters
        try:
            listener.bind(places["socket"].name)
        finally:
            os.chdir(before)
    places["zeros"].symlink_to("/dev/zero")
    places["circle"].symlink_to(places["circle"])
    places["nowhere"].symlink_to(folder / "is not there")
    places["to a pipe"].symlink_to(places["pipe"])
    places["folder"].mkdir()
    return places
