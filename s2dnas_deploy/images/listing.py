"""The pictures in a folder and those below, in an order that depends on names only: for every command alike.

The rules:

- A file is a picture by its ending, in capitals or not; without such an ending, by its first bytes.
- Hidden files and folders are passed over, and folders that systems leave behind, with their thumbnails.
- Folders come in the order of their names as text, each after the files beside it.
- Links to files and folders are followed; a folder that is linked to twice, or in a circle, counts once.
- A folder that cannot be listed is an error: to pass over it would be to lose images silently.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.picture_file import is_picture
from s2dnas_deploy.images.pixels import SUFFIXES
from s2dnas_deploy.quoting import named_in_line

PART_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What the folder of each part of a data set is called, in capitals or not."""

# By macOS, Synology, Windows and Linux.
_LEFT_BEHIND = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures of a folder, and how many other files were passed over."""

    pictures: tuple[str, ...]
    passed_over: int


def listed_in(folder: str) -> Listing:
    """Every picture in a folder and below."""
    pictures, others = [], 0
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_refuse_unlisted, followlinks=True):
        folders[:] = sorted(name for name in folders if _counts(name))
        for name in list(folders):
            real = os.path.realpath(os.path.join(place, name))
            if real in seen:
                folders.remove(name)
            seen.add(real)
        for name in sorted(names):
            path = os.path.join(place, name)
            if _counts(name) and (has_ending(name) or (os.path.isfile(path) and is_picture(path))):
                pictures.append(path)
            else:
                others += 1
    return Listing(pictures=tuple(pictures), passed_over=others)


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder that count, by their names."""
    try:
        entries = list(folder.iterdir())
    except OSError as problem:
        _refuse_unlisted(problem)
    return sorted(entry for entry in entries if _counts(entry.name) and entry.is_dir())


def has_ending(name: str) -> bool:
    """Whether a file is called as pictures are."""
    return name.lower().endswith(SUFFIXES)


def class_of(path: Sequence[str], around: Sequence[str], classes: frozenset[str]) -> str | None:
    """The class of a picture by the folders on its way from a folder that was named, and those around that.

    Below the named folder the first counts, as when training on it: a class is divided further as one likes,
    and only the folder of a part (`train`) may stand before it. Around it the nearest counts.
    """
    if len(path) > 1 and any(path[0].lower() in names for names in PART_NAMES.values()):
        path = path[1:] if classes.intersection(path[1:]) else path
    return next((name for name in (*path, *reversed(around)) if name in classes), None)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in _LEFT_BEHIND


def _refuse_unlisted(problem: OSError) -> NoReturn:
    raise DataError(
        f"{named_in_line(str(problem.filename))}: expected a folder that can be listed, got:"
        f" {problem.strerror}. Mend its permissions."
    ) from problem
