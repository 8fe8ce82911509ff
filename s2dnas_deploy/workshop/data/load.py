"""Load labelled images: find the source, divide it, and read it into one array per part, or leave it on disk.

Picture files stay on disk, compressed, where all images of the network's size would take more than
`LARGEST_IN_MEMORY_BYTES`, or where training cuts its crops out of the files. What memory takes then does not
depend on how many there are.
"""

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from s2dnas_deploy.errors import DataError, UnreadableError
from s2dnas_deploy.images.archive import SUFFIXES
from s2dnas_deploy.images.pixels import InputFormat, Pixels
from s2dnas_deploy.quoting import is_shown, shown
from s2dnas_deploy.workshop.data.archive import find_archive
from s2dnas_deploy.workshop.data.cifar import cifar_folder, find_cifar
from s2dnas_deploy.workshop.data.digits import find_digits
from s2dnas_deploy.workshop.data.folder import PictureFiles, find_folder
from s2dnas_deploy.workshop.data.labelled import ImagesOnDisk, ImageSplits, LabelledImages, Shape, digest_of
from s2dnas_deploy.workshop.data.parallel import in_chunks, read_all
from s2dnas_deploy.workshop.data.splits import OnRead, UnreadImages, UnreadSplits, limited, with_val

OnProgress = Callable[[int, int], None]

LARGEST_IN_MEMORY_BYTES = 2**30


def load_images(
    source: str,
    *,
    input_shape: tuple[int, int, int],
    seed: int,
    val_fraction: float = 0.1,
    resize: str | None = None,
    limit: int | None = None,
    on_disk: bool | None = None,
    on_progress: OnProgress | None = None,
) -> ImageSplits:
    """Load the images of `source` as uint8 [N, *input_shape], divided into train, val and test.

    `source` is a folder of classes, a CIFAR "python version" folder, an `.npz` archive or the word `digits`.
    `seed` decides which images are split off for validation and which a `limit` keeps. `limit` is for each
    part on its own. `on_disk`: whether picture files are left there; None: if there are many. `on_progress`
    is told (images read, images to read), over all parts.
    """
    _require(0 < val_fraction < 1, f"a val fraction between 0 and 1, got {val_fraction}")
    _require(seed >= 0, f"a seed of 0 or more, got {seed}")
    channels, height, width = input_shape
    wanted = InputFormat(channels=channels, height=height, width=width, resize=resize)
    found = _find(source, wanted)
    odd = [name for name in found.class_names if not is_shown(name)]
    _require(not odd, f"classes with names that can be shown, got {shown(odd)}; rename their folders")
    train, val = with_val(found, fraction=val_fraction, seed=seed)
    parts = {"train": train, "val": val} | ({} if found.test is None else {"test": found.test})
    if limit is not None:
        classes = len(found.class_names)
        _require(
            limit >= classes, f"a limit that leaves an image for each of the {classes} classes, got {limit}"
        )
        parts = {name: limited(part, limit=limit, seed=seed) for name, part in parts.items()}
    read = _read(parts, wanted, on_disk, on_progress)
    splits = {"train": read["train"], "val": read["val"]}
    test = read.get("test")
    digest = digest_of(**splits, test=test, class_names=found.class_names)
    return ImageSplits(
        **splits,
        test=test,
        class_names=found.class_names,
        digest=digest,
        val_is_split_off=found.val is None,
        have_alpha=isinstance(train.source, PictureFiles) and train.source.have_alpha(train.positions),
    )


def _find(source: str, wanted: InputFormat) -> UnreadSplits:
    """Read what there is and its labels; pixels come later."""
    if source == "digits":
        return find_digits(wanted)
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        cifar = cifar_folder(path)
        return find_folder(path, wanted) if cifar is None else find_cifar(cifar, wanted)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return find_archive(path, wanted)
    raise no_source(source, path)


def no_source(source: str, path: Path) -> DataError:
    """The error for what is none of the things that images are loaded from."""
    got = "another kind of file (unpack it first if it is packed)" if path.exists() else "nothing there"
    return DataError(
        f"{source}: expected a folder of classes (DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg), a CIFAR python"
        f" folder, an .npz archive or the word `digits`; got {got}."
    )


def _read(
    parts: dict[str, UnreadImages],
    wanted: InputFormat,
    on_disk: bool | None,
    on_progress: OnProgress | None,
) -> dict[str, LabelledImages]:
    total = sum(len(part) for part in parts.values())
    shape = (wanted.channels, wanted.height, wanted.width)
    are_many = total * math.prod(shape) > LARGEST_IN_MEMORY_BYTES
    done = 0

    def on_read(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    read: dict[str, LabelledImages] = {}
    unreadable: list[tuple[str, str]] = []
    for name, part in parts.items():
        try:
            images = _images(part, shape, stay=on_disk, are_many=are_many, on_read=on_read)
        except UnreadableError as problem:  # of the other parts' files as well, before it is told
            unreadable.extend(problem.files)
        else:
            read[name] = LabelledImages(images=images, labels=torch.from_numpy(part.labels))
    if unreadable:
        raise UnreadableError(unreadable)
    return read


def _images(
    part: UnreadImages, shape: Shape, *, stay: bool | None, are_many: bool, on_read: OnRead
) -> torch.Tensor | ImagesOnDisk:
    """The images of a part: looked at and left where they are, or decoded."""
    files, positions = part.source, part.positions
    if isinstance(files, PictureFiles) and (are_many if stay is None else stay):
        in_chunks(len(part), lambda chunk: files.look(positions[chunk]), on_read)
        return ImagesOnDisk(files=files, positions=positions, image_shape=shape)
    whole = (len(part), *shape)
    pixels = _blank_on_disk(whole) if are_many else np.empty(whole, np.uint8)
    read_all(part.source, positions, pixels, on_read)
    return torch.from_numpy(pixels)


def _blank_on_disk(shape: tuple[int, ...]) -> Pixels:
    """An array in a file that has no name, so that it is gone with the process however that ends."""
    size_bytes = math.prod(shape)
    with tempfile.TemporaryFile(prefix="s2dnas-images-") as file:
        try:
            # Reserved now: a disk that is full later would end the process by SIGBUS, with no message.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as problem:
            raise DataError(
                f"{tempfile.gettempdir()}: expected room for {size_bytes / 2**30:.1f} GiB of decoded images,"
                f" got: {problem.strerror}. Set TMPDIR to a folder on a larger disk, or use `--limit`."
            ) from problem
        return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)


def _require(fulfilled: bool, expectation: str) -> None:
    if not fulfilled:
        raise DataError(f"expected {expectation}")
