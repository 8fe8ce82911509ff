"""NumPy's own files as plain arrays, from anyone's hands: nothing in them is run.

Damaged bytes make numpy and zipfile raise almost anything, which is for the caller to put into words.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def arrays_in(path: Path | str) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of a `.npy`, or those of an `.npz` by their names."""
    with open(path, "rb") as file:  # here, for np.load leaves a damaged file open
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            return {key: content[key] for key in content.files}
        array: NDArray[Any] = content
        return array
