"""Archives and images made to do harm are told in a line, in stated memory and time."""

import json
import os
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import hostile_files
import numpy as np
import pytest
from PIL import Image

from s2dnas_deploy.errors import DataError, UnreadableError
from s2dnas_deploy.files import numpy_file
from s2dnas_deploy.files.numpy_file import ArrayFileError, arrays_in
from s2dnas_deploy.images import picture_file, pixels
from s2dnas_deploy.images.picture_file import OtherSizeError, is_picture, planes_in
from s2dnas_deploy.images.pixels import InputFormat, in_colour, resized
from s2dnas_deploy.runtime.answers.inputs import find_items

SMALL = InputFormat(channels=3, height=16, width=16, resize="stretch")
EXACT = InputFormat(channels=3, height=10, width=12, resize=None)

# Reads every file of a folder, and says what came of it and by how much the memory had to grow.
_CHILD = """
import json, os, sys, time
from s2dnas_deploy.images.picture_file import planes_in
from s2dnas_deploy.images.pixels import InputFormat, readable_formats
from s2dnas_deploy.files import numpy_file
from s2dnas_deploy.files.numpy_file import arrays_in
from s2dnas_deploy.bench.workers.memory import peak_bytes
readable_formats()
wanted = InputFormat(channels=3, height=16, width=16, resize="stretch")
read = {"images": lambda path: planes_in(path, wanted), "archives": arrays_in}[sys.argv[2]]
peak = lambda: peak_bytes() // 2**20
told = {}
for name in sorted(os.listdir(sys.argv[1])):
    before, begun = peak(), time.process_time()
    try:
        read(os.path.join(sys.argv[1], name))
        reason = None
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
    told[name] = (reason, peak() - before, time.process_time() - begun)
print(json.dumps(told))
"""


def read_in_a_child(folder, files, kind):
    """What a process of its own says of each file: why not, megabytes it grew by, seconds of work."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(folder), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == set(files)
    return told


def check_told(read, path, error):
    """Whatever is in a file, it is read, or there is one line that says why not."""
    try:
        read(path)
    except error as problem:
        told = str(problem)
    else:
        told = "it is read"
    assert 0 < len(told) < 600
    assert "\n" not in told


# --- NumPy files -------------------------------------------------------------------------------------------


def test_hostile_archives_are_refused_in_one_line_and_little_memory(tmp_path):
    told = read_in_a_child(tmp_path / "files", hostile_files.archives(), "archives")
    for name, (reason, _, seconds) in told.items():
        assert reason is not None, name
        assert reason.startswith(("ArrayFileError: ", "NotPlainError: ")), (name, reason)
        assert len(reason.splitlines()) == 1
        assert len(reason) < 600, (name, reason)
        assert seconds < 5, (name, seconds)
    assert sum(megabytes for _, megabytes, _ in told.values()) < 100


@pytest.mark.parametrize(
    ("name", "reason"),
    {
        "claims 0.npy": "header claims .1099511627776. of uint8, 1099511627776 bytes, and which has 240",
        "of objects.npy": "no plain numbers or text; the header is .*O",
        "version 9.npy": "no .npy of version 1, 2 or 3",
        "bomb.npz": "expected at most 67,108,864 .100 times the file",
        "bomb by many.npz": "104,865,000 bytes packed into",
        "twice.npz": "several members of the same name",
        "no npy.npz": "a member that is no .npy, 'notes.txt'",
        "encrypted.npz": "an encrypted or oddly compressed member",
        "2,000 members.npz": "2,000 members, expected at most 1,000",
        "100,000 members.npz": "100,000 members, expected at most 1,000",
        "checksum lies.npz": "a damaged file .*CRC",
        "header nested deep.npy": "no plain numbers or text; the header is",
    }.items(),
)
def test_archives_are_refused_for_what_is_wrong_with_them(tmp_path, name, reason):
    (tmp_path / name).write_bytes(hostile_files.archives()[name])
    with pytest.raises(ArrayFileError, match=reason):
        arrays_in(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), hostile_files.sound_archives().items())
def test_sound_archives_are_read_and_cut_or_changed_ones_are_refused_or_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    found = arrays_in(path)
    arrays = [found] if isinstance(found, np.ndarray) else found.values()
    assert [array.shape for array in arrays if array.dtype == np.uint8] == [(2, 10, 12)]
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(ArrayFileError):
            arrays_in(path)
    for number in range(100):
        path.write_bytes(hostile_files.mutated(content, number))
        check_told(arrays_in, path, ArrayFileError)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4),
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        np.arange(4, dtype=">i8"),
        np.array(7),
        np.array(["a", "bcd", "ü猫"]),
        np.array([], np.float32),
        np.zeros((0, 3), np.uint8),
        np.array([True, False]),
    ],
)
def test_what_numpy_writes_is_read_back_as_it_was(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", x=array)
    np.savez_compressed(tmp_path / "y.npz", x=array)
    read = (
        arrays_in(tmp_path / "x.npy"),
        arrays_in(tmp_path / "x.npz")["x"],
        arrays_in(tmp_path / "y.npz")["x"],
    )
    for each in read:
        assert each.dtype == array.dtype
        assert each.shape == array.shape
        np.testing.assert_array_equal(each, array)


def test_large_archives_unpack_to_a_hundred_times_their_size_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_file, "ALWAYS_BYTES", 0)
    rest = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8)
    for count, fits in ((90, True), (120, False)):
        np.savez_compressed(tmp_path / "x.npz", images=np.zeros((count, 100_000), np.uint8), rest=rest)
        if fits:
            assert arrays_in(tmp_path / "x.npz")["images"].shape == (count, 100_000)
        else:
            with pytest.raises(ArrayFileError, match="100 times the file"):
                arrays_in(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "other", [np.array([object, None], object), np.array(["2026-01-01"], "M8[D]"), np.zeros(2, "i4,f4")]
)
def test_a_member_that_is_not_plain_is_an_error_to_whoever_asks_for_it(tmp_path, other):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 10, 12), np.uint8), other=other)
    arrays = arrays_in(tmp_path / "x.npz")
    assert list(arrays) == ["images", "other"]
    assert arrays["images"].shape == (2, 10, 12)
    with pytest.raises(ArrayFileError, match=r"'other\.npy', which holds no plain numbers or text"):
        arrays["other"]


def test_what_stands_beside_images_and_labels_may_be_of_any_kind(tmp_path):
    arrays = {"images": np.zeros((2, 10, 12), np.uint8), "labels": [0, 1]}
    taken = np.array(["2026-01-01", "2026-01-02"], "M8[D]")
    np.savez(tmp_path / "x.npz", **arrays, taken=taken)
    items = find_items([str(tmp_path / "x.npz")], ["a", "b"]).images
    assert [item.truth for item in items] == ["a", "b"]
    np.savez(tmp_path / "x.npz", **arrays | {"labels": np.array([0, 1], object)})
    (item,) = find_items([str(tmp_path / "x.npz")], ["a", "b"]).images
    with pytest.raises(DataError, match=r"plain arrays, got: its member 'labels\.npy'"):
        raise item.source


def test_archives_that_are_no_files_keep_nobody_waiting(tmp_path):
    for kind, path in hostile_files.no_files(tmp_path / "places", ".npz").items():
        with pytest.raises(ArrayFileError) as caught:
            arrays_in(path)
        assert len(str(caught.value)) < 200, kind
    for name in ("nul\0.npz", "x" * 5000 + ".npy", "gone.npy"):
        with pytest.raises(ArrayFileError):
            arrays_in(name)


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (np.array([0.0, 1.0]), "expected labels as integers .N., counted from 0, got float64"),
        (np.array([True, False]), "got bool"),
        (np.array([0, -1]), "expected labels from 0, got -1 at image 1"),
        (np.array([2, 0]), "expected labels from 0 to 1, got 2 at image 0"),
        (np.array([2**64 - 1, 0], np.uint64), "got 18446744073709551615"),
        (np.array([0, 1, 0]), "expected one label for each image, got 2 images, 3 labels"),
        (np.array([[0, 1], [1, 0]]), r"got int64 \[2, 2\]"),
        (np.array(["a", "b"]), "got <U1"),
    ],
)
def test_labels_that_name_no_class_are_told_of_the_archive(tmp_path, truth, reason):
    path = str(tmp_path / "x.npz")
    np.savez(path, images=np.zeros((2, 10, 12), np.uint8), labels=truth)
    (item,) = find_items([path], ["a", "b"]).images
    with pytest.raises(DataError, match=reason):
        raise item.source


def test_labels_in_a_column_are_labels(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 10, 12), np.uint8), labels=[[1], [0]])
    items = find_items([str(tmp_path / "x.npz")], ["a", "b"]).images
    assert [item.truth for item in items] == ["b", "a"]


@pytest.mark.parametrize("shape", [(10**12, 0, 0), (5_000_000, 1, 1), (3, 4), ()])
def test_images_that_are_none_or_too_many_are_told_before_there_is_an_item_of_each(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    (item,) = find_items([str(tmp_path / "x.npy")], ["a", "b"]).images
    assert isinstance(item.source, DataError)


# --- images ------------------------------------------------------------------------------------------------


def test_hostile_images_are_refused_in_one_line_and_stated_memory_and_time(tmp_path):
    told = read_in_a_child(tmp_path / "files", hostile_files.images(), "images")
    for name, (reason, megabytes, seconds) in told.items():
        assert reason is not None, name
        assert reason.startswith("DataError: "), (name, reason)
        assert len(reason.splitlines()) == 1
        assert len(reason) < 600
        assert megabytes < 100, (name, megabytes)
        assert seconds < 10, (name, seconds)


def test_odd_images_are_answers_or_errors(tmp_path):
    told = read_in_a_child(tmp_path / "files", hostile_files.surprising_images(), "images")
    for name, (reason, megabytes, seconds) in told.items():
        assert reason is None or reason.startswith("DataError: "), (name, reason)
        assert megabytes < 100, (name, megabytes)
        assert seconds < 10, (name, seconds)
    for name in ("one pixel.png", "many frames.gif", "long profile.jpg"):  # old pillows fail on many pages
        assert told[name][0] is None, told[name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "content"), hostile_files.sound_images().items())
def test_sound_images_are_read_and_cut_or_changed_ones_are_read_or_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert planes_in(str(path), EXACT).shape == (3, 10, 12)
    assert is_picture(str(path))
    damaged = [content[:end] for end in range(0, len(content), 1 + len(content) // 30)]
    for each in damaged + [hostile_files.mutated(content, number) for number in range(60)]:
        path.write_bytes(each)
        check_told(lambda path: planes_in(str(path), SMALL), path, DataError)


def test_large_pictures_wait_for_each_others_memory(tmp_path, monkeypatch):
    Image.new("RGB", (1000, 1000)).save(tmp_path / "x.png")
    each = 8 * 1000 * 1000
    monkeypatch.setattr(picture_file, "_ROOM", picture_file._Room(2 * each + 1))
    at_work, most, lock = 0, 0, threading.Lock()
    decoded = threading.Barrier(2)

    def recoloured(image, channels):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        decoded.wait(10)  # two at once, for else nobody would come here
        with lock:
            at_work -= 1
        return in_colour(image, channels)

    monkeypatch.setattr(picture_file, "in_colour", recoloured)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: planes_in(str(tmp_path / "x.png"), SMALL), range(6)))
    assert most == 2


def test_a_failed_picture_gives_its_memory_back(tmp_path, monkeypatch):
    room = picture_file._Room(picture_file.MOST_BYTES)
    monkeypatch.setattr(picture_file, "_ROOM", room)
    content = hostile_files.sound_images()["plain.png"]
    (tmp_path / "x.png").write_bytes(content[:-200])
    with pytest.raises(DataError):
        planes_in(str(tmp_path / "x.png"), SMALL)
    assert room._free == picture_file.MOST_BYTES


def png_with(content, kind, data):
    """A PNG with one more chunk, behind its pixels."""
    end = content.rindex(b"IEND") - 4
    chunk = len(data).to_bytes(4, "big") + kind + data
    return content[:end] + chunk + zlib.crc32(kind + data).to_bytes(4, "big") + content[end:]


TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("mode", "kind", "data"),
    [
        ("RGB", None, b""),
        ("RGBA", None, b""),
        ("L", None, b""),
        ("RGB", b"tRNS", bytes(6)),
        ("RGB", b"eXIf", TURNED.tobytes()[6:]),
    ],
)
def test_a_png_of_which_no_other_picture_is_made_may_be_twice_as_large(
    tmp_path, monkeypatch, mode, kind, data
):
    content = hostile_files.saved(Image.linear_gradient("L").resize((400, 250)).convert(mode), "PNG")
    (tmp_path / "x.png").write_bytes(content if kind is None else png_with(content, kind, data))
    path, as_it_is = str(tmp_path / "x.png"), mode == "RGB" and kind != b"eXIf"
    whole = planes_in(path, SMALL)
    monkeypatch.setattr(picture_file, "MOST_BYTES", 4 * 400 * 250 + 4 * 16 * (250 + 16))
    if as_it_is:
        np.testing.assert_array_equal(planes_in(path, SMALL), whole)
        monkeypatch.setattr(picture_file, "MOST_BYTES", picture_file.MOST_BYTES - 1)
    with pytest.raises(DataError, match=r"400x250 pixels of PNG take \d MB"):
        planes_in(path, SMALL)
    with pytest.raises(DataError, match=r"400x250 pixels of PNG take \d MB"):
        planes_in(path, InputFormat(channels=3, height=250, width=400, resize=None))


@pytest.mark.slow
def test_the_largest_png_takes_no_more_memory_than_is_stated(tmp_path):
    large = Image.new("RGB", (10_000, 7_900), (1, 2, 3))
    files = {"large.png": hostile_files.saved(large, "PNG", compress_level=1)}
    ((reason, megabytes, _),) = read_in_a_child(tmp_path / "files", files, "images").values()
    assert reason is None
    assert megabytes * 2**20 < picture_file.MOST_BYTES + 16 * 2**20


def photo(path, size, **options):
    """A JPEG that gets brighter towards the right, the larger the easier to make."""
    Image.linear_gradient("L").rotate(90).resize(size).save(path, "JPEG", quality=90, **options)
    return str(path)


def test_a_photo_that_would_take_too_much_is_decoded_smaller_than_is_best(tmp_path, monkeypatch):
    path = photo(tmp_path / "x.jpg", (2000, 1600))
    wanted = InputFormat(channels=3, height=600, width=600, resize="crop")
    whole = planes_in(path, wanted)
    monkeypatch.setattr(picture_file, "MOST_BYTES", 8 * 1000 * 800)
    loaded = []
    monkeypatch.setattr(
        picture_file,
        "in_colour",
        lambda image, channels: loaded.append(image.size) or in_colour(image, channels),
    )
    reduced = planes_in(path, wanted)
    assert loaded == [(1000, 800)]
    assert np.abs(whole.astype(int) - reduced).max() <= 2
    large = InputFormat(channels=3, height=1200, width=1200, resize="crop")
    with pytest.raises(
        DataError, match="2000x1600 pixels of JPEG take 26 MB to decode, expected at most 6; make"
    ):
        planes_in(path, large)  # would have to be made larger again


def test_layers_and_their_coefficients_are_reckoned(tmp_path, monkeypatch):
    path = photo(tmp_path / "x.jpg", (2000, 1600), progressive=True)
    monkeypatch.setattr(picture_file, "MOST_BYTES", 2 * 2000 * 1600)  # the coefficients alone
    with pytest.raises(DataError, match="make it smaller"):
        planes_in(path, SMALL)
    thumbnail = hostile_files.sound_images()["progressive.jpg"]
    beside = photo(tmp_path / "y.jpg", (2000, 1600), exif=b"Exif\0\0" + thumbnail)
    assert planes_in(beside, SMALL).shape == (3, 16, 16)


def test_deep_grey_is_changed_in_bands_as_if_at_once(monkeypatch):
    image = Image.fromarray(np.arange(6000, dtype=np.uint16).reshape(60, 100) * 10)
    whole = in_colour(image.copy(), 3)
    monkeypatch.setattr(pixels, "_BAND_PIXELS", 700)
    assert in_colour(image.copy(), 3).tobytes() == whole.tobytes()


def test_a_line_of_pixels_is_not_made_a_picture_of():
    for size, way in (((1, 20_000_000), "stretch"), ((1, 2_000_000), "crop"), ((2_000_000, 1), "crop")):
        wanted = InputFormat(channels=3, height=32, width=32, resize=way)
        with pytest.raises(DataError, match="too long and narrow for 32x32"):
            resized(Image.new("L", size), wanted)


def test_a_picture_of_another_size_is_refused_by_its_header(tmp_path):
    (tmp_path / "x.png").write_bytes(hostile_files.images()["claims less.png"])
    with pytest.raises(OtherSizeError) as caught:
        planes_in(str(tmp_path / "x.png"), EXACT)
    assert (caught.value.height, caught.value.width) == (9000, 9000)


def test_files_larger_than_any_picture_are_not_read(tmp_path):
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(picture_file.LARGEST_FILE + 1)
    with pytest.raises(DataError, match="expected at most 256 MiB, got 256"):
        planes_in(str(tmp_path / "x.png"), SMALL)


def test_images_that_are_no_files_keep_nobody_waiting(tmp_path):
    reasons = {
        "pipe": "got a pipe",
        "socket": "got a socket",
        "zeros": "got a device",
        "circle": "Too many levels of symbolic links",
        "nowhere": "no such file",
        "to a pipe": "got a pipe",
        "folder": "got a folder",
    }
    places = hostile_files.no_files(tmp_path / "places")
    assert set(places) == set(reasons)
    for kind, path in places.items():
        with pytest.raises(DataError, match=reasons[kind]):
            planes_in(str(path), SMALL)
        assert not is_picture(str(path))
    for name in ("nul\0.png", "x" * 5000 + ".png"):
        with pytest.raises(DataError):
            planes_in(name, SMALL)


def test_a_picture_that_its_owner_keeps_to_himself_is_told(tmp_path, monkeypatch):
    Image.new("RGB", (12, 10)).save(tmp_path / "x.png")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        planes_in(str(tmp_path / "x.png"), SMALL)


def test_names_of_any_kind_do_not_break_the_list_of_the_unreadable():
    names = ["a\nb.png", "\x1b[2J.png", "x" * 10_000, os.fsdecode(b"caf\xe9.png")]
    lines = str(UnreadableError([(name, "the file is empty") for name in names])).split("\n")
    assert len(lines) == 1 + len(names)
    assert all(len(line) < 400 and line.strip().isprintable() for line in lines)
