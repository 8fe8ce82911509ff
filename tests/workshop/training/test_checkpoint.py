"""A checkpoint that does not fit its run is refused in full, before anything is taken from it."""

import copy

import pytest
import torch
from small_networks import example_network

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.training.loop import Task, checkpoint_of, train
from s2dnas_deploy.workshop.training.settings import Settings

SETTINGS = Settings(epochs=2, batch_size=256, augment="none", checkpoint_seconds=0.0)


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed in its second epoch, and what it left."""
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    task = Task(
        network=carry_over(static, plans.from_text("uniform:0.25,0.75", static.divisible.space)),
        teacher=None,
        splits=load_images("digits", input_shape=(1, 8, 8), seed=0),
        preprocessing=Preprocessing(input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,)),
        settings=SETTINGS,
        folder=tmp_path_factory.mktemp("run"),
    )
    weights = copy.deepcopy(task.network.state_dict())

    def kill(done, total, note):
        if done == task.steps_per_epoch + 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(task, kill)
    task.network.load_state_dict(weights)
    return task, torch.load(task.checkpoint, weights_only=True)


def test_what_a_run_left_fits(killed):
    task, document = killed
    torch.save(document, task.checkpoint)
    kept = checkpoint_of(task, task.identity())
    assert kept.step == task.steps_per_epoch + 1
    assert [row["epoch"] for row in kept.metrics] == [1]
    assert len(kept.optimizer["state"]) == len(list(task.network.parameters()))


def name_in(document):
    return next(iter(document["network"]))


def first_row(document):
    return document["metrics"][0]


EDITS = {
    "an entry less": lambda d: d.pop("average"),
    "an entry more": lambda d: d.update(other=1),
    "a number as a name": lambda d: d.update({7: 1}),
    "a step beyond the end": lambda d: d.update(step=10**6),
    "a step below 0": lambda d: d.update(step=-1),
    "a step of truth": lambda d: d.update(step=True),
    "a step of text": lambda d: d.update(step="1"),
    "a step as a tensor": lambda d: d.update(step=torch.tensor([1, 2])),
    "a step of another epoch": lambda d: d.update(step=0),
    "a loss that is no number": lambda d: d.update(running_loss=float("nan")),
    "a loss of text": lambda d: d.update(running_loss="low"),
    "no weights": lambda d: d.update(network=None),
    "weights in a list": lambda d: d.update(network=list(d["network"].values())),
    "a weight less": lambda d: d["network"].pop(name_in(d)),
    "a weight more": lambda d: d["average"].update(other=torch.zeros(1)),
    "a weight of another shape": lambda d: d["network"].update({name_in(d): torch.zeros(1)}),
    "a weight of another kind": lambda d: d["network"].update(
        {name_in(d): d["network"][name_in(d)].to(torch.float64)}
    ),
    "a weight that is no tensor": lambda d: d["network"].update({name_in(d): 0.0}),
    "a weight that is no number": lambda d: d["average"][name_in(d)].fill_(float("nan")),
    "no optimizer": lambda d: d.update(optimizer=[]),
    "an optimizer without a state": lambda d: d["optimizer"].pop("state"),
    "momentum of another shape": lambda d: d["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(1)),
    "momentum that is no number": lambda d: d["optimizer"]["state"][0]["momentum_buffer"].fill_(float("inf")),
    "momentum of a parameter that is not there": lambda d: d["optimizer"]["state"].update({10**6: {}}),
    "momentum by name": lambda d: d["optimizer"]["state"].update(first={}),
    "another optimizer's memory": lambda d: d["optimizer"]["state"][0].update(exp_avg=torch.zeros(1)),
    "metrics that are none": lambda d: d.update(metrics=None),
    "metrics of more epochs": lambda d: d["metrics"].append(dict(first_row(d), epoch=2)),
    "metrics of text": lambda d: d.update(metrics=["good"]),
    "metrics of another epoch": lambda d: first_row(d).update(epoch=2),
    "metrics without a loss": lambda d: first_row(d).pop("loss"),
    "an accuracy less": lambda d: first_row(d)["val_accuracy"].pop(),
    "an accuracy above 1": lambda d: first_row(d).update(val_accuracy=[2, 2]),
    "an accuracy that is no number": lambda d: first_row(d).update(val_accuracy=[float("nan"), 1.0]),
    "another format": lambda d: d.update(format="other"),
    "another run": lambda d: d.update(run=["other"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_checkpoint_that_does_not_fit_is_refused(killed, edit):
    task, document = killed
    edited = copy.deepcopy(document)
    EDITS[edit](edited)
    torch.save(edited, task.checkpoint)
    weights = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        train(task, lambda done, total, note: None)
    assert str(caught.value).startswith(str(task.checkpoint))
    assert "--restart" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert all(torch.equal(tensor, weights[name]) for name, tensor in task.network.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x80\x02N."])
def test_a_damaged_checkpoint_is_refused(killed, content):
    task, _ = killed
    task.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is no torch file.*start over with --restart"):
        checkpoint_of(task, task.identity())


def test_the_learning_rate_is_the_settings_not_the_files(killed):
    task, document = killed
    edited = copy.deepcopy(document)
    for group in edited["optimizer"]["param_groups"]:
        group.update(momentum=0.0, weight_decay=10.0, nesterov="yes", params=[])
    torch.save(edited, task.checkpoint)
    groups = checkpoint_of(task, task.identity()).optimizer["param_groups"]
    assert {group["momentum"] for group in groups} == {SETTINGS.momentum}
    assert [group["weight_decay"] for group in groups[:2]] == [SETTINGS.weight_decay, 0.0]
