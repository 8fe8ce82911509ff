"""The real data set that needs no download: scikit-learn's 1,797 handwritten digits, 8x8, grey."""

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.pixels import InputFormat
from s2dnas_deploy.workshop.data.arrays import array_images
from s2dnas_deploy.workshop.data.splits import UnreadSplits, hold_out

# Fixed: whatever the seed of a run, it is judged by the same images.
_TEST_SEED = 1797
_TEST_FRACTION = 0.2


def find_digits(wanted: InputFormat) -> UnreadSplits:
    """Return the digits, a fifth of them set aside as the test set."""
    images, labels = digit_pixels()
    everything = array_images(images[:, None], labels, wanted, where="digits")
    kept, held_out = hold_out(everything.labels, fraction=_TEST_FRACTION, seed=_TEST_SEED)
    return UnreadSplits(
        train=everything.pick(kept),
        val=None,
        test=everything.pick(held_out),
        class_names=tuple(str(digit) for digit in range(10)),
        where="digits",
    )


def digit_pixels() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The digits [N, 8, 8], and which they are [N]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as problem:
        raise DataError(
            "digits: expected scikit-learn, which holds them, got: not installed."
            ' Install it with `pip install "s2dnas-deploy[build]"`.'
        ) from problem
    digits = load_digits()
    # Stored as 0..16, spread over what 8 bits hold.
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)
