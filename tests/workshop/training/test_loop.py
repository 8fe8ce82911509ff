"""Training: it learns, it resumes bit for bit, and what cannot work is refused before it starts."""

import itertools
from dataclasses import replace

import pytest
import torch
from small_networks import example_network

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError, DataError, OptionError, TrainingError
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.network import as_network, carry_over
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.training.batches import normalised
from s2dnas_deploy.workshop.training.loop import Task, accuracy, train
from s2dnas_deploy.workshop.training.losses import divergence, exits_loss
from s2dnas_deploy.workshop.training.settings import Settings

PREPROCESSING = Preprocessing(input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
SETTINGS = Settings(epochs=2, batch_size=64, lr=0.05, augment="crop", crop_padding=1, ema=0.9)


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", input_shape=(1, 8, 8), seed=0)


@pytest.fixture(scope="module")
def few(digits):
    """So many digits that an epoch has five steps."""
    train, val = (part.select(torch.arange(count)) for part, count in ((digits.train, 320), (digits.val, 64)))
    return replace(digits, train=train, val=val)


def task(digits, folder, *, plan="uniform:0.25,0.75", settings=SETTINGS, teacher=True):
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    return Task(
        network=carry_over(static, plans.from_text(plan, static.divisible.space)),
        teacher=as_network(static) if teacher else None,
        splits=digits,
        preprocessing=PREPROCESSING,
        settings=settings,
        folder=folder,
    )


def silent(done, total, note):
    pass


def weights_after(run):
    train(run, silent)
    return run.network.weights()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns_and_leaves_a_log_and_a_plot(digits, tmp_path):
    run = task(digits, tmp_path, plan="static", teacher=False, settings=replace(SETTINGS, epochs=3))
    before = accuracy(run.network, digits.test, PREPROCESSING)
    metrics = train(run, silent)
    after = accuracy(run.network, digits.test, PREPROCESSING)
    assert before[0] < 0.3
    assert after[0] > 0.9
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "accuracy.svg").read_text().startswith("<?xml")


def test_same_seed_same_weights_other_seed_others(few, tmp_path):
    first = weights_after(task(few, tmp_path / "a"))
    assert equal(first, weights_after(task(few, tmp_path / "b")))
    other = task(few, tmp_path / "c", settings=replace(SETTINGS, seed=1))
    assert not equal(first, weights_after(other))


@pytest.fixture(scope="module")
def whole(few, tmp_path_factory):
    """The weights after a run that nobody stopped, and its log."""
    run = task(few, tmp_path_factory.mktemp("whole"))
    assert run.steps_per_epoch == 5
    metrics = train(run, silent)
    return run.network.weights(), metrics


@pytest.mark.parametrize("stops", [(3, 8), (1, 2), (5, 6)])
def test_a_run_that_is_stopped_resumes_to_the_same_bits(few, whole, tmp_path, stops):
    often = replace(SETTINGS, checkpoint_seconds=0.0)
    for stop in stops:

        def stopping(done, total, note, stop=stop):
            if done == stop:
                raise KilledError

        with pytest.raises(KilledError):
            train(task(few, tmp_path / "broken", settings=often), stopping)
    assert equal(whole[0], weights_after(task(few, tmp_path / "broken", settings=often)))


def test_a_run_that_ends_when_exits_no_longer_gain_resumes_to_the_same_bits(few, tmp_path):
    """Killed while the rate is constant, on the step that decides, on the way down, one after the other."""
    open_ended = replace(SETTINGS, epochs=None, lr=1e-4, checkpoint_seconds=0.0)
    run = task(few, tmp_path / "whole", settings=open_ended)
    assert run.steps == 5 * run.course.epochs == 180
    seen = []
    metrics = train(run, lambda done, total, note: seen.append((done, total)))
    ended = len(metrics)
    assert seen[-1] == (5 * ended, 5 * ended)
    assert ended < 36
    decided = next(done for done, total in seen if total < 180)
    for stop in (decided - 7, decided, decided + 1, 5 * ended):

        def stopping(done, total, note, stop=stop):
            if done == stop:
                raise KilledError

        with pytest.raises(KilledError):
            train(task(few, tmp_path / "broken", settings=open_ended), stopping)
    again = task(few, tmp_path / "broken", settings=open_ended)
    assert train(again, silent) == metrics
    assert equal(run.network.weights(), again.network.weights())


def test_the_last_line_of_progress_tells_what_the_network_has_become(few, tmp_path):
    """Whose weights are the moving average, after all epochs."""
    run, notes = task(few, tmp_path, settings=replace(SETTINGS, precision="float32")), []
    metrics = train(run, lambda done, total, note: notes.append(note))
    right = accuracy(run.network, few.val, run.preprocessing)
    assert metrics[-1]["val_accuracy"] == right
    told = " / ".join(f"{100 * share:.1f}%" for share in right)
    assert notes[-1] == f"epoch {len(metrics)}: val {told}"
    assert notes[0] == ""


def test_resuming_repeats_no_line_of_the_log(few, whole, tmp_path):
    often = replace(SETTINGS, checkpoint_seconds=0.0)
    seen = itertools.count()

    def stopping(done, total, note):
        if next(seen) == 7:
            raise KilledError

    with pytest.raises(KilledError):
        train(task(few, tmp_path / "broken", settings=often), stopping)
    assert train(task(few, tmp_path / "broken", settings=often), silent) == whole[1]


def test_a_checkpoint_of_another_run_is_refused(digits, tmp_path):
    with pytest.raises(KilledError):
        train(task(digits, tmp_path, settings=replace(SETTINGS, checkpoint_seconds=0.0)), _killed_at_3)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        train(task(digits, tmp_path, settings=replace(SETTINGS, lr=0.01)), silent)


def _killed_at_3(done, total, note):
    if done == 3:
        raise KilledError


def test_a_loss_that_is_no_number_stops_the_run(digits, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+ of \d+; a smaller --lr"):
        train(task(digits, tmp_path, settings=replace(SETTINGS, lr=1e20, warmup=0.0)), silent)


def test_classes_of_data_and_network_must_agree(digits, tmp_path):
    fewer = LabelledImages(images=digits.train.images, labels=digits.train.labels % 3)
    splits = ImageSplits(train=fewer, val=fewer, test=None, class_names=("a", "b", "c"), digest="d")
    with pytest.raises(DataError, match="the data has 3 classes and the network 10 outputs"):
        task(splits, tmp_path)


def test_one_image_is_no_training_set(digits, tmp_path):
    one = digits.train.select(torch.tensor([0]))
    splits = ImageSplits(train=one, val=one, test=None, class_names=digits.class_names, digest="d")
    with pytest.raises(DataError, match="at least 2 images"):
        task(splits, tmp_path)


@pytest.mark.parametrize(
    "choice",
    [{"batch_size": 1}, {"lr": 0.0}, {"epochs": -1}, {"distill": 1.5}, {"temperature": 0.0}, {"ema": 1.0}],
)
def test_settings_that_cannot_work_are_refused(choice):
    with pytest.raises(OptionError, match="expected"):
        replace(SETTINGS, **choice)


def test_exit_weights_are_one_per_exit(digits, tmp_path):
    with pytest.raises(OptionError, match="3 exit weights for 2 exits"):
        task(digits, tmp_path, settings=replace(SETTINGS, exit_weights=(1.0, 1.0, 1.0)))


def test_no_epochs_carry_the_weights_over(digits, tmp_path):
    run = task(digits, tmp_path, settings=replace(SETTINGS, epochs=0))
    before = {key: tensor.clone() for key, tensor in run.network.weights().items()}
    assert train(run, silent) == []
    assert equal(before, run.network.weights())


def test_normalised_is_the_stated_equation():
    images = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-0.75, (1 - 0.3) / 0.4]]]])
    assert torch.allclose(normalised(images, PREPROCESSING, torch.device("cpu")), expected)


def test_divergence_is_zero_for_equal_answers_and_scaled_by_the_temperature():
    z, target = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert float(divergence(z, z, 3.0)) == pytest.approx(0.0, abs=1e-6)
    p = torch.softmax(target / 2, 1)
    q = torch.softmax(z / 2, 1)
    assert float(divergence(z, target, 2.0)) == pytest.approx(4 * float((p * (p / q).log()).sum()))


def test_loss_weighs_exits_and_teachers():
    labels, z = torch.tensor([0]), [torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])]
    told = [float(torch.nn.functional.cross_entropy(x, labels)) for x in z]
    plain = replace(SETTINGS, distill=0.0, self_distill=0.0, exit_weights=(2.0, 1.0))
    assert float(exits_loss(z, labels, None, plain)) == pytest.approx(2 * told[0] + told[1])
    teacher = torch.tensor([[0.0, 1.0]])
    mixed = replace(SETTINGS, distill=0.5, self_distill=0.25, temperature=2.0)
    shown = [float(divergence(x, teacher, 2.0)) for x in z]
    first = 0.5 * told[0] + 0.5 * (0.75 * shown[0] + 0.25 * float(divergence(z[0], z[1], 2.0)))
    expected = first + 0.5 * told[1] + 0.5 * shown[1]
    assert float(exits_loss(z, labels, teacher, mixed)) == pytest.approx(expected)


def test_answers_that_are_no_numbers_are_noticed(digits, tmp_path):
    run = task(digits, tmp_path)
    with torch.no_grad():
        next(iter(run.network.weights().values())).fill_(float("inf"))
    with pytest.raises(TrainingError, match="not finite"):
        accuracy(run.network, digits.val, PREPROCESSING)
