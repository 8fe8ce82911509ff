"""Which images are timed, and which are refused."""

import numpy as np
import pytest

from s2dnas_deploy.bench.answers import refuse_noise, representative
from s2dnas_deploy.errors import DataError


def test_every_beginning_has_the_exits_of_the_whole():
    exits = np.random.default_rng(0).choice(3, size=1000, p=[0.8, 0.15, 0.05])
    order = representative(exits)
    assert sorted(order) == list(range(1000))
    whole = np.bincount(exits) / 1000
    for count in (20, 100, 333, 1000):
        shares = np.bincount(exits[order[:count]], minlength=3) / count
        assert np.abs(shares - whole).max() <= 1.5 / count


def test_an_exit_that_nobody_takes_is_no_matter():
    assert sorted(representative(np.array([0, 2, 2, 0]))) == [0, 1, 2, 3]


def noise(shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(50, 32, 32, 3), (50, 3, 32, 32), (4, 224, 224, 3)])
def test_random_noise_is_refused(shape):
    with pytest.raises(DataError, match=r"look like random noise.*--noise"):
        refuse_noise(noise(shape))


def test_pictures_are_not():
    digits = pytest.importorskip("sklearn.datasets").load_digits().images[:100]
    refuse_noise((digits * 15).astype(np.uint8)[..., None])
    x = np.linspace(0, 6, 32)
    waves = 100 + 50 * np.sin(x[:, None] + x[None, :])
    refuse_noise(
        np.stack([waves] * 5)[..., None] + 10 * np.random.default_rng(0).standard_normal((5, 32, 32, 1))
    )
    refuse_noise(np.full((5, 8, 8, 1), 7, np.uint8))  # nothing to see, but no noise


def test_noise_with_a_few_pictures_is_still_noise():
    refused = noise((100, 16, 16, 1))
    refused[:3] = 128
    with pytest.raises(DataError):
        refuse_noise(refused)
