"""How unlike the static network fitted exits answer: not at all where they are it, else by what they own."""

import pytest
from small_networks import example_network

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.plan import OUTPUT, depth, uniform
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.forecast.likeness import Likeness
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.training.request import Prepared

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def likeness():
    static = read_network(example_network("cifar_resnet", "resnet20"), (3, 16, 16))
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(120, 3, 4, 4, generator=generator)
    images = (255 * torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear")).byte()
    labelled = LabelledImages(images=images, labels=torch.arange(120) % 10)
    names = tuple(f"class {i}" for i in range(10))
    splits = ImageSplits(train=labelled, val=labelled, test=None, class_names=names, digest="none")
    preprocessing = Preprocessing(input_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.3,) * 3)
    return Likeness(Prepared(static=static, is_trained=True, splits=splits, preprocessing=preprocessing))


def test_a_last_exit_that_is_the_static_network_answers_alike(likeness):
    space = likeness.prepared.static.divisible.space
    exit_ = next(name for name in space.exits if name.startswith("layer2") and name != OUTPUT)
    first, last = likeness(depth(space, [exit_]))
    assert last == 0
    assert 0 <= first <= 1


def test_it_tells_what_part_of_its_errors_a_network_does_not_make_on_images_it_was_trained_on(likeness):
    wrong = float((likeness._static_says != likeness._others.labels).float().mean())
    assert wrong > 0.5  # it was never trained
    assert likeness.by_heart(wrong) == 0
    assert likeness.by_heart(1.0) == pytest.approx(1 - wrong)
    assert likeness.by_heart(wrong / 2) == 0


def test_exits_that_own_more_are_more_alike_and_the_same_when_asked_again(likeness):
    space = likeness.prepared.static.divisible.space
    thin, _ = likeness(uniform(space, (0.125, 0.875)))
    wide, _ = likeness(uniform(space, (0.875, 0.125)))
    assert wide <= thin
    assert likeness(uniform(space, (0.125, 0.875)))[0] == thin
