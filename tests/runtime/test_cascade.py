"""The cascade against decisions made by hand, in every way that a batch can go through it."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from scored_bundle import CLASSES, images_of, scored_bundle

from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.runtime.bulk import BulkOptions
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.predictions import Prediction
from s2dnas_deploy.runtime.stage_clock import StageClock
from s2dnas_deploy.sessions import providers

NAN = float("nan")
JUST_BELOW = np.nextafter(np.float32(0.5), np.float32(0))
PRETEND = providers.Provider(name="pretend", ort_name="CPUExecutionProvider", own_memory=True, buckets=True)


@pytest.fixture(params=["compact", "gather", "compact, own memory", "gather, own memory"])
def load(request, tmp_path, monkeypatch):
    """Loads a cascade: in host memory, or as on a device with memory and buckets of its own."""
    monkeypatch.setattr(providers, "PROVIDERS", {**providers.PROVIDERS, "pretend": PRETEND})
    provider = "pretend" if "own memory" in request.param else "cpu"

    def load(thresholds=(0.5, 0.5), **options):
        scored_bundle(tmp_path / "bundle", thresholds, gathers="gather" in request.param)
        return Cascade.load(tmp_path / "bundle", provider=provider, threads=1, **options)

    return load


def exits_by_hand(scores, thresholds):
    """Where each sample exits, decided one by one."""
    taken = []
    for sample in scores:
        k = 0
        while k < len(thresholds) and not sample[k] >= np.float32(thresholds[k]):
            k += 1
        taken.append(k)
    return taken


def assert_decided(predictions, scores, exits):
    assert predictions.exit.tolist() == list(exits)
    assert predictions.label.tolist() == [i % CLASSES for i in range(len(scores))]
    expected = np.array([scores[i][k] for i, k in enumerate(exits)], np.float32)
    np.testing.assert_array_equal(predictions.confidence, expected)


@pytest.mark.parametrize(
    ("thresholds", "scores", "exits"),
    [
        pytest.param((0.5, 0.5), [[0.5, 0, 0]], [0], id="a tie leaves"),
        pytest.param((0.5, 0.5), [[JUST_BELOW, 0.5, 0]], [1], id="just below goes on"),
        pytest.param((0.3, 0.3), [[0.3, 0, 0]], [0], id="a tie that float64 would miss"),
        pytest.param((0.5, 0.5), [[NAN, 0.9, 0]], [1], id="not a number goes on"),
        pytest.param((0.5, 0.5), [[NAN, NAN, NAN]], [2], id="the last exit takes what is not a number"),
        pytest.param((0.0, 0.0), [[0.0, 0, 0], [NAN, 0.1, 0]], [0, 1], id="threshold 0 takes numbers"),
        pytest.param((1.0, 1.0), [[0.999, 1.0, 0], [1.0, 0, 0]], [1, 0], id="threshold 1 takes certainty"),
        pytest.param((2.0, 2.0), [[1, 1, 0], [1, 1, 1]], [2, 2], id="none exit early"),
        pytest.param((0.1, 0.1), [[1, 0, 0]] * 7, [0] * 7, id="all leave at once"),
        pytest.param((0.5, 0.5), [[0, 1, 0]] * 5, [1] * 5, id="all exit at 1"),
        pytest.param((0.5, 0.5), [[0, 1, 0], [1, 0, 0], [0, 0, 0]], [1, 0, 2], id="one at each"),
        pytest.param((0.5, 0.5), np.zeros((0, 3)), [], id="empty batch"),
        pytest.param((), [[0.2], [0.7]], [0, 0], id="one stage"),
    ],
)
def test_decisions(load, thresholds, scores, exits):
    scores = np.asarray(scores, np.float32)
    with load(thresholds) as cascade:
        assert_decided(cascade.predict(images_of(scores)), scores, exits)
        streamed = list(cascade.stream(images_of(scores), batch=2))
        assert [p.exit for p in streamed] == list(exits)
        assert [p.label for p in streamed] == list(range(len(exits)))


@pytest.mark.parametrize("stages", [2, 3, 5])
def test_any_batch_any_order(load, stages):
    rng = np.random.default_rng(stages)
    thresholds = tuple(rng.uniform(0.3, 0.8, stages - 1))
    with load(thresholds) as cascade:
        for count in (1, 2, 3, 16, 33, 100, 7):
            scores = rng.uniform(size=(count, stages)).astype(np.float32)
            assert_decided(cascade.predict(images_of(scores)), scores, exits_by_hand(scores, thresholds))


@pytest.mark.parametrize("batch", [1, 3, 8, 32])
def test_a_stream_answers_like_single_images_in_order(load, batch):
    thresholds = (0.6, 0.9)
    scores = np.random.default_rng(0).uniform(size=(32 * 64 + 100, 3)).astype(np.float32)
    scores[17:1700, 1] = 0  # a long way to the next sample that needs the last stage to fill its room
    with load(thresholds) as cascade:
        answers = list(cascade.stream(iter(images_of(scores)), batch=batch))
    assert [a.label for a in answers] == [i % CLASSES for i in range(len(scores))]
    assert [a.exit for a in answers] == exits_by_hand(scores, thresholds)


def test_a_stream_holds_back_no_more_than_a_window(load):
    scores = np.ones((5000, 3), np.float32)
    scores[0] = 0  # it waits alone for the last stage
    taken = 0

    def sources():
        nonlocal taken
        for image in images_of(scores):
            taken += 1
            yield image

    with load() as cascade:
        options = BulkOptions(batch=4, workers=1)
        ahead = [taken - given for given, _ in enumerate(cascade.bulk(options).answers(sources()))]
    assert len(ahead) == 5000
    assert max(ahead) <= options.window + 64


def test_a_stream_that_is_left_ends_its_threads(load):
    with load() as cascade:
        answers = cascade.stream(iter(images_of(np.ones((1000, 3)))), batch=4)
        assert isinstance(next(answers), Prediction)
        answers.close()
        assert len(list(cascade.stream(images_of(np.ones((9, 3)))))) == 9


def test_other_thresholds_a_last_stage_and_probabilities(load):
    scores = np.array([[0.4, 0.8, 0.3], [0.6, 0.2, 0.3]], np.float32)
    with load() as cascade:
        assert cascade.predict(images_of(scores), thresholds=(0.0, 0.0)).exit.tolist() == [0, 0]
        assert cascade.predict(images_of(scores), thresholds=(0.7, 0.9)).exit.tolist() == [2, 2]
        assert cascade.predict(images_of(scores), last_stage=0).exit.tolist() == [0, 0]
        assert cascade.predict(images_of(scores), thresholds=(0.7, 2), last_stage=1).exit.tolist() == [1, 1]
        likely = cascade.predict(images_of(scores), probabilities=True).probabilities
        np.testing.assert_array_equal(likely[:, 7], np.float32([0.8, 0.6]))
        with pytest.raises(
            OptionError, match="expected 2 thresholds, a number for each exit that may be passed, got"
        ):
            cascade.predict(images_of(scores), thresholds=(0.5,))
        with pytest.raises(OptionError, match="expected a whole number from 0 to 2 as last stage, got 3"):
            cascade.predict(images_of(scores), last_stage=3)


def test_a_deadline_keeps_the_best_answer_so_far(load):
    scores = np.zeros((4, 3), np.float32)
    with load() as cascade:
        late = cascade.predict(images_of(scores), deadline_ms=1e-6)
        assert late.exit.tolist() == [0] * 4
        in_time = cascade.predict(images_of(scores), deadline_ms=60_000)
        assert in_time.exit.tolist() == [2] * 4
        assert all(seconds > 0 for seconds in in_time.stage_seconds)
        assert late.stage_seconds[1:] == (0.0, 0.0)


def test_a_deadline_goes_by_measured_times(load, monkeypatch):
    scores = np.zeros((4, 3), np.float32)
    with load() as cascade:
        now = [0.0]
        monkeypatch.setattr(cascade, "_clock", StageClock(cascade.manifest.macs, lambda: now[0]))
        cascade.predict(images_of(scores), deadline_ms=60_000)
        cascade._clock.note(2, 4, 50.0)  # a slow moment
        assert cascade.predict(images_of(scores), deadline_ms=10_000).exit.tolist() == [1] * 4
        now[0] += 1.5  # which is not believed forever
        assert cascade.predict(images_of(scores), deadline_ms=10_000).exit.tolist() == [2] * 4


def test_threads_share_a_cascade(load):
    rng = np.random.default_rng(1)
    batches = [rng.uniform(size=(n, 3)).astype(np.float32) for n in rng.integers(1, 40, 60)]
    with load() as cascade, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda scores: cascade.predict(images_of(scores)), batches))
    for scores, answer in zip(batches, answers, strict=True):
        assert_decided(answer, scores, exits_by_hand(scores, (0.5, 0.5)))


def test_a_cascade_is_pickled_as_its_path(load):
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    with load() as cascade:
        content = pickle.dumps(cascade)
        assert len(content) < 1000
        with pickle.loads(content) as again:  # noqa: S301 - our own
            assert_decided(again.predict(images_of(scores)), scores, [1])


def test_a_closed_cascade_says_so(load):
    cascade = load()
    cascade.close()
    with pytest.raises(OptionError, match="was closed; load it again"):
        cascade.predict(images_of(np.zeros((1, 3))))
    cascade.close()


def test_wrong_images_are_told_what_was_expected(load):
    with load() as cascade:
        for images in (
            np.zeros((2, 4, 1, 1)),
            np.zeros((4, 1, 1), np.float32),
            np.zeros((2, 1, 1, 4), np.float32),
        ):
            with pytest.raises(DataError, match=r"expected images as float32 \[N, 4, 1, 1\], got float"):
                cascade.predict(images)
        with pytest.raises(DataError, match="a single image: put it into a list"):
            cascade.predict("cat.jpg")
        with pytest.raises(DataError, match="the path of an image, a PIL image or an array, got int"):
            cascade.predict([3])
        with pytest.raises(DataError, match="takes 4"):
            cascade.predict([Image.new("RGB", (1, 1))])


def test_a_stage_cannot_be_given_no_threads(load):
    folder = load().folder
    for threads in (0, 1.5, "1", True, NAN, 5000, 2**31, np.float32(2)):
        with pytest.raises(OptionError, match=r"expected a whole number from 1 to \d+ as number of threads"):
            Cascade.load(folder, threads=threads)
    for threads in (np.int32(1), np.array(1)):
        with Cascade.load(folder, threads=threads) as cascade:
            assert len(cascade.predict(images_of(np.zeros((2, 3))))) == 2


def test_what_makes_no_sense_is_refused_in_our_own_words(load):
    image = images_of(np.zeros((1, 3), np.float32))
    with load() as cascade:
        for thresholds in (0.5, "12", b"12", {0.1, 0.2}, np.zeros(()), np.zeros((2, 1)), [0.5] * 100_000):
            with one_line(
                OptionError, "expected 2 thresholds, a number for each exit that may be passed, got"
            ):
                cascade.predict(image, thresholds=thresholds)
            with one_line(OptionError, "expected 2 thresholds"):
                cascade.stream(image, thresholds=thresholds)
        for odd in ("a", None, NAN, float("inf"), 10**400, 10**5000, 1j, True, np.True_, [0.5]):
            with one_line(OptionError, "expected a finite number as threshold"):
                cascade.predict(image, thresholds=(odd, 0))
        for stage in (1.0, "1", -1, True, 2**70, np.float64(1)):
            with one_line(OptionError, "expected a whole number from 0 to 2 as last stage"):
                cascade.predict(image, last_stage=stage)
        for deadline in ("5", -1, NAN, True, 10**400, float("inf"), 1j, [5]):
            with one_line(OptionError, "expected a finite number of 0 or more as deadline in milliseconds"):
                cascade.predict(image, deadline_ms=deadline)
        for batch in (0, 1.5, "3", None, 2**62, True):
            with one_line(OptionError, "expected a whole number from 1 to 65,536 as batch"):
                cascade.stream(image, batch=batch)
        for workers in (0, 100_000, 1.5, "2"):
            with one_line(OptionError, "expected a whole number from 1 to 256 as number of workers"):
                cascade.stream(image, workers=workers)
        for images in (None, 5, (x for x in image), {1: 2}):
            with one_line(DataError, "expected a batch of images, a list or an array"):
                cascade.predict(images)
        for images in (np.array([object()]), np.array(5), np.array(["a"]), np.zeros((1, 4, 1, 1), complex)):
            with one_line(DataError, "expected images as float32"):
                cascade.predict(images)
        for images in ([[]], [None], [b"cat.jpg"], [np.array(object())], [np.array([["x"]])]):
            with one_line(DataError, "expected"):
                cascade.predict(images)
        for sources in (None, 5, np.float32(3), Image.new("RGB", (1, 1))):
            with one_line(DataError, "expected images, one after the other, got"):
                cascade.stream(sources)
        with one_line(DataError, "put it into a list"):
            cascade.stream("cat.jpg")
        with one_line(OptionError, "expected options among batch"):
            cascade.stream_with_errors([], size=3)
        assert len(cascade.predict([])) == 0
    for folder in (5, None, b"bundle"):
        with one_line(OptionError, "expected the folder of a bundle, got"):
            Cascade.load(folder)
    for provider in (None, 3, ["cpu"]):
        with one_line(OptionError, "expected a provider among cpu"):
            Cascade.load(cascade.folder, provider=provider)


@contextmanager
def one_line(kind, message):
    """The error is ours, says so, and a person reads it at a glance."""
    with pytest.raises(kind, match=message) as told:
        yield
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 1000


def test_numbers_of_numpy_are_numbers(load):
    scores = np.array([[0.4, 0.8, 0.3], [0.6, 0.2, 0.3]], np.float32)
    images = images_of(scores)
    with load() as cascade:
        for thresholds in (
            np.array([0.3, 0.9]),
            np.array([0.3, 0.9], np.float16),
            [np.float32(0.3), np.array(0.9)],
        ):
            assert cascade.predict(images, thresholds=thresholds).exit.tolist() == [0, 0]
            answers = cascade.stream(images, thresholds=thresholds, batch=np.int16(1), workers=np.array(1))
            assert [answer.exit for answer in answers] == [0, 0]
        for stage in (np.int64(1), np.uint8(1), np.array(1)):
            assert cascade.predict(images, thresholds=(2, 2), last_stage=stage).exit.tolist() == [1, 1]
        for deadline in (np.float32(60_000), np.int64(60_000), np.array(60_000.0)):
            assert cascade.predict(images, thresholds=(2, 2), deadline_ms=deadline).exit.tolist() == [2, 2]


def test_after_an_error_memory_and_locks_are_as_before(load):
    image = images_of(np.zeros((3, 3), np.float32))
    with load() as cascade:
        cascade.predict(image)
        (kept,) = cascade._free

        def fails():
            with cascade.rooms(3):
                raise KeyError

        for _ in range(3):
            with pytest.raises(KeyError):
                fails()
        assert cascade._free == [kept]
        before = threading.active_count()
        for broken in (lambda: next(cascade.stream(images_of(np.ones((1000, 3))), batch=4)), fails_inside):
            if broken is fails_inside:
                with pytest.raises(ZeroDivisionError):
                    list(cascade.stream(broken()))
            else:
                broken()
        ends = time.monotonic() + 5
        while threading.active_count() > before and time.monotonic() < ends:
            time.sleep(0.01)
        assert threading.active_count() <= before
        assert cascade._free == [kept]
        assert cascade.predict(image).exit.tolist() == [2, 2, 2]


def fails_inside():
    yield images_of(np.ones((1, 3), np.float32))[0]
    raise ZeroDivisionError


def test_a_source_may_fill_the_same_memory_again(load):
    scores = np.random.default_rng(2).uniform(size=(50, 3)).astype(np.float32)

    def camera():
        frame = np.zeros(images_of(scores)[0].shape, np.float32)
        for image in images_of(scores):
            frame[:] = image
            yield frame

    with load() as cascade:
        assert [answer.label for answer in cascade.stream(camera(), batch=4)] == list(range(50))


def test_unreadable_images_end_a_stream_or_are_answers(load):
    images = images_of(np.zeros((3, 3), np.float32))
    sources = [images[0], "nowhere.png", images[2]]
    with load() as cascade:
        answers = list(cascade.stream_with_errors(sources))
        assert [isinstance(answer, Prediction) for answer in answers] == [True, False, True]
        assert "takes 4" in str(answers[1])
        with pytest.raises(DataError, match="takes 4"):
            list(cascade.stream(sources))


def test_memory_of_large_batches_is_given_back(load):
    with load() as cascade:
        cascade.predict(images_of(np.zeros((3000, 3), np.float32)))
        assert all(rooms.capacity <= 1024 for rooms in cascade._free)
        with cascade.rooms(2):
            cascade.close()
        assert not cascade._free
