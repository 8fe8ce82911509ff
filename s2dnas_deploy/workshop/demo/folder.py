"""The newcomer's folder: `net.py`, and scikit-learn's handwritten digits as images in folders of classes.

README.txt                  whose folder this is
net.py                      a network in plain PyTorch
images/train/0/0000.png     three fifths of the 1,797 digits; a fifth each in val/ and test/
"""

from pathlib import Path

from PIL import Image

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.atomic import write_text_atomically
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.workshop.data.digits import digit_pixels

README, NET, IMAGES = "README.txt", "net.py", "images"
PARTS = ("train", "train", "train", "val", "test")
SIZE = 16
_ABOUT = "s2dnas-demo wrote this folder, and writes here again when it is given again.\n"


def write_folder(folder: Path, reporter: Reporter) -> None:
    """Write the network's file, unless it is there (you may have changed it), and every image."""
    if folder.exists() and any(folder.iterdir()) and not _is_a_demos(folder):
        raise DataError(
            f"{folder}: expected an empty folder or that of an earlier demo, found {next(folder.iterdir())}; "
            "name another folder with --out"
        )
    write_text_atomically(folder / README, _ABOUT)
    if not (folder / NET).exists():
        write_text_atomically(folder / NET, (Path(__file__).parent / NET).read_text(encoding="utf-8"))
    images, labels = digit_pixels()
    progress = counted(reporter.phase("writing images"))
    for i, (pixels, digit) in enumerate(zip(images, labels, strict=True)):
        path = folder / IMAGES / PARTS[i % len(PARTS)] / str(digit) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
        progress(i + 1, len(images))


def _is_a_demos(folder: Path) -> bool:
    """Whether an earlier demo wrote it; somebody's own README.txt is no sign of that."""
    readme = folder / README
    return readme.is_file() and readme.read_bytes() == _ABOUT.encode()
