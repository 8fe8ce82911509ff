"""The watch over a promise: hardly ever wrong about one that is kept, and finds one that is not."""

import numpy as np
import pytest

from s2dnas_deploy.decide.watch import DELTA, Watch
from s2dnas_deploy.errors import OptionError


def found(bound, rates, seed, delta=DELTA):
    """The sample at which it alarms, of samples that are answered otherwise at these rates; None: never."""
    watch, drawn = Watch(bound, delta), np.random.default_rng(seed)
    for number, otherwise in enumerate(drawn.random(len(rates)) < rates):
        if watch.add(bool(otherwise)):
            return number
    return None


@pytest.mark.parametrize(
    ("streams", "samples"), [(150, 2000), pytest.param(2000, 2000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("bound", [0.01, 0.2])
def test_at_the_bound_itself_at_most_a_part_delta_of_streams_ever_alarms(bound, streams, samples):
    delta = 0.2
    alarms = sum(found(bound, np.full(samples, bound), seed, delta) is not None for seed in range(streams))
    assert alarms <= delta * streams + 3 * np.sqrt(delta * (1 - delta) * streams)
    assert alarms > 0  # with bets as cautious as that, it would never find anything either


@pytest.mark.parametrize(("bound", "within"), [(0.01, 6000), (0.05, 1500), (0.2, 400)])
@pytest.mark.parametrize("fine_before", [0, 5000])
def test_twice_the_promise_is_found_soon_though_all_was_fine_before(bound, within, fine_before):
    rates = np.concatenate([np.full(fine_before, bound / 2), np.full(3 * within, 2 * bound)])
    when = [found(bound, rates, seed) for seed in range(10)]
    assert None not in when
    assert np.median(when) < fine_before + within


def test_evidence_is_one_before_there_is_any_and_falls_while_all_is_fine():
    watch = Watch(0.05)
    assert watch.evidence == 1.0
    seen = []
    for _ in range(500):
        assert not watch.add(False)
        seen.append(watch.evidence)
    assert seen[-1] < seen[0] <= 1
    assert (watch.samples, watch.otherwise) == (500, 0)


def test_shares_of_all_bets_that_begin_are_at_most_one_unit():
    """At the bound the fortune never grows on average: here by every stream of 12 samples."""
    bound, watches = 0.3, {}
    expected = 0.0
    for stream in range(2**12):
        bits = [bool(stream >> k & 1) for k in range(12)]
        key = sum(bits)
        if key not in watches:
            watch = Watch(bound)
            for bit in bits:
                watch.add(bit)
            watches[key] = watch.evidence
        expected += watches[key] * bound**key * (1 - bound) ** (12 - key)
    assert expected <= 1 + 1e-9


def test_an_alarm_stays_and_long_streams_keep_their_memory():
    watch = Watch(0.01)
    while not watch.add(True):
        pass
    for _ in range(1000):
        assert watch.add(False)
    long = Watch(0.01)
    for _ in range(200 * 520):
        long.add(False)
    assert len(long._shares) == len(long._fortunes) == 512


@pytest.mark.parametrize(
    ("bound", "delta"), [(0, 0.05), (1, 0.05), (0.01, 0), (0.01, 1), (float("nan"), 0.05)]
)
def test_what_cannot_be_watched_is_refused(bound, delta):
    with pytest.raises(OptionError):
        Watch(bound, delta)
