"""What the static network says of each view is asked once, where there are few views; else at each step."""

from contextlib import nullcontext

import pytest
import torch
from small_networks import residual

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.training import teacher as module
from s2dnas_deploy.workshop.training.batches import Batches
from s2dnas_deploy.workshop.training.settings import Settings
from s2dnas_deploy.workshop.training.teacher import Teacher

SHAPE = residual().graph.input_shape
MANY_STEPS, FEW_STEPS = 100, 3


@pytest.fixture
def network():
    torch.manual_seed(0)
    return as_network(residual()).eval()


def batches(augment, count=10, size=4):
    images = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8)
    labelled = LabelledImages(images=images, labels=torch.zeros(count, dtype=torch.int64))
    preprocessing = Preprocessing(input_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)
    settings = Settings(epochs=1, batch_size=size, augment=augment)
    return Batches(labelled, preprocessing, settings, torch.device("cpu"))


def prepared(network, shown, steps):
    teacher = Teacher(network, shown, nullcontext, steps=steps)
    teacher.prepare()
    return teacher


@pytest.mark.parametrize("augment", ["flip", "none"])
def test_what_was_asked_first_is_what_a_step_would_ask(network, augment):
    shown = batches(augment)
    teacher = prepared(network, shown, MANY_STEPS)
    with torch.no_grad():
        for step in range(7):
            images, _ = shown.at(step)
            expected = network(images)[-1]
            assert torch.allclose(teacher.answers(step, torch.zeros_like(images)), expected, atol=1e-5)


def test_every_view_is_asked_once(network):
    asked, shown = [], batches("flip")
    network.register_forward_hook(lambda module, given, answer: asked.append(len(given[0])))
    teacher = prepared(network, shown, MANY_STEPS)
    for step in range(5):
        teacher.answers(step, shown.at(step)[0])
    assert sum(asked) == 2 * len(shown.images)


@pytest.mark.parametrize(
    ("augment", "steps", "most_bytes"),
    [("crop,flip", MANY_STEPS, 2**28), ("flip", FEW_STEPS, 2**28), ("flip", MANY_STEPS, 16)],
    ids=["views differ", "few steps", "much to keep"],
)
def test_else_each_step_asks(network, monkeypatch, augment, steps, most_bytes):
    monkeypatch.setattr(module, "_MOST_BYTES", most_bytes)
    asked, shown = [], batches(augment)
    network.register_forward_hook(lambda module, given, answer: asked.append(len(given[0])))
    teacher = prepared(network, shown, steps)
    assert not asked
    images, _ = shown.at(0)
    with torch.no_grad():
        assert torch.equal(teacher.answers(0, images), network(images)[-1])
