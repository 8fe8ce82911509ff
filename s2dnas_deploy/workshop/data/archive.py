"""Labelled images from a NumPy archive (`.npz`): what `images.archive` finds in it, as parts to train on."""

from dataclasses import dataclass
from pathlib import Path

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.numpy_file import ArrayFileError, StoredRows
from s2dnas_deploy.images.archive import ArchivePart, ImageArchive
from s2dnas_deploy.images.pixels import InputFormat, Pixels, as_planes
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.workshop.data.arrays import Rows, array_images
from s2dnas_deploy.workshop.data.splits import Index, UnreadImages, UnreadSplits


def find_archive(path: Path, wanted: InputFormat) -> UnreadSplits:
    """Return the images of the archive under the keys it uses."""
    archive = ImageArchive(str(path))
    if "train" not in archive.parts:
        raise DataError(
            f"{path}: expected images to train on, got only those of {', '.join(archive.parts)}."
            " Save images and labels of the others as x_train and y_train."
        )
    parts = {name: archive.part(name) for name in archive.parts}
    unread = {name: _unread(part, wanted) for name, part in parts.items()}
    class_names = archive.class_names() or _numbered(unread["train"].labels, path)
    for name, part in parts.items():
        _require_labels_below(len(class_names), unread[name], where=part.where_labels)
    return UnreadSplits(
        train=unread["train"],
        val=unread.get("val"),
        test=unread.get("test"),
        class_names=class_names,
        where=str(path),
    )


def _unread(part: ArchivePart, wanted: InputFormat) -> UnreadImages:
    if part.labels is None:
        raise DataError(
            f"{part.where_labels}: expected the number of each image's class, got none."
            " Save the images and their labels both."
        )
    images: Rows
    if isinstance(part.images, StoredRows):
        images = _Planes(stored=part.images, wanted=wanted, where=part.where)
    else:
        images = as_planes(part.images, wanted, where=part.where)
    return array_images(images, part.labels, wanted, where=part.where)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Planes:
    """Images that stay in their file, channels first or last, read as uint8 [M, C, H, W] some at a time."""

    stored: StoredRows
    wanted: InputFormat
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array [N, C, H, W]."""
        return (len(self.stored), *self[:1].shape[1:])

    def __getitem__(self, rows: slice | Index) -> Pixels:
        try:
            return as_planes(self.stored[rows], self.wanted, where=self.where)
        except ArrayFileError as problem:
            raise DataError(f"{self.where}: {problem}") from problem


def _numbered(labels: Index, path: Path) -> tuple[str, ...]:
    highest = int(labels.max())
    if highest >= len(labels):
        raise DataError(
            f"{path}: expected labels 0 to K-1 with at least one image each, got the label {highest}"
            f" among {number_of(len(labels), 'image')}. Number the classes from 0, without gaps."
        )
    return tuple(str(label) for label in range(highest + 1))


def _require_labels_below(classes: int, part: UnreadImages, *, where: str) -> None:
    low, high = int(part.labels.min()), int(part.labels.max())
    if high >= classes:
        raise DataError(
            f"{where}: expected labels 0 to {classes - 1}, one for each class to train on,"
            f" got {low} to {high}. Number the classes from 0, alike in every part."
        )
