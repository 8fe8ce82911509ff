"""A loop of one's own: the network, the loss and the start of the commands, as a plain module of torch."""

import copy
import json
from datetime import timedelta

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from small_networks import Residual  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

import s2dnas_deploy  # noqa: E402
from s2dnas_deploy import (  # noqa: E402
    Cascade,
    DynamicNetwork,
    Plan,
    cli,
    divide,
    load_model,
)
from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.cli.console import Console  # noqa: E402
from s2dnas_deploy.errors import CheckpointError, DataError, ModelError, OptionError, PlanError, TrainingError  # noqa: E402
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages  # noqa: E402
from s2dnas_deploy.workshop.network.blocks import gated  # noqa: E402
from s2dnas_deploy.workshop.network.gated import GatedNetwork  # noqa: E402
from s2dnas_deploy.workshop.network.nested import planned  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.reading.static_source import read_plan  # noqa: E402
from s2dnas_deploy.workshop.training import gate  # noqa: E402
from s2dnas_deploy.workshop.training.batches import normalised  # noqa: E402
from s2dnas_deploy.workshop.training.losses import exits_loss  # noqa: E402
from s2dnas_deploy.workshop.training.settings import Settings  # noqa: E402
from s2dnas_deploy.workshop.training.start.begin import Beginner  # noqa: E402

SHAPE, CLASSES, STEPS = (3, 8, 8), 5, 40
READING = {"class_names": tuple("abcde"), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
PREPROCESSING = Preprocessing(input_shape=SHAPE, mean=READING["mean"], std=READING["std"])
STAGES = ("uniform:0.25,0.25,0.5", "depth:3")
WIDTHS = ("widths:0.25,0.5,1", "in-turn:0.5,1", "in-turn:0.5x0.5,1x0.5", "gate:0.25,1")
PLANS = ("static", *STAGES, *WIDTHS, "blocks:0.5")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)) for _ in range(2)]
        self.branch = nn.Sequential(*layers[0], nn.ReLU(), *layers[1])

    def forward(self, x):
        return torch.relu(x + self.branch(x))


def make_module():
    """Two blocks, with statistics as after a training."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)]
    module = nn.Sequential(*stem, Block(), Block(), *head)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.5, 1.5)
    return module


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A gate that learns little is taught as any is."""
    monkeypatch.setattr(gate, "_STEPS", 100)


@pytest.fixture
def module():
    return make_module()


def drawn(count=24, seed=1):
    """Pixels uint8 [N, H, W, C], the same as the network reads them, and labels."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, *SHAPE[1:], 3), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, CLASSES, count))
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return pixels, normalised(planes, PREPROCESSING, torch.device("cpu")), labels


PIXELS, IMAGES, LABELS = drawn()


def divided(plan, module=None, **options):
    steps = STEPS if plan.startswith("blocks") else None
    return divide(module or make_module(), SHAPE, plan, steps=steps, **options)


def learn(network, steps=3, forward=None, lr=0.05):
    """A few steps of a loop; the last loss."""
    optimizer = torch.optim.SGD(network.parameter_groups(lr), momentum=0.9)
    network.train()
    for _ in range(steps):
        loss = network.exit_loss((forward or network)(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss


def of_the_command(module, plan):
    """The network that s2dnas-train makes."""
    static = read_network(module, SHAPE)
    if plan.startswith("blocks"):
        return GatedNetwork(gated(static), learns=True)
    return planned(static, read_plan(plan, static, align=1, seed=0))


# --- divided -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_it_is_the_network_of_the_command(module, plan):
    network, expected = divided(plan, module), of_the_command(module, plan)
    assert network.training
    assert (network.exits, network.plan) == (expected.stages, expected.division.plan)
    for mode in (True, False):
        ours, theirs = network.train(mode)(IMAGES), expected.train(mode)(IMAGES)
        assert len(ours) == network.exits
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == (len(IMAGES), CLASSES)
            assert torch.equal(one, other)
    assert module.training  # the module itself is left as it was


def test_a_plan_may_be_a_file_or_a_plan(module, tmp_path):
    expected = divided("uniform:0.25,0.75", module)
    (tmp_path / "plan.json").write_text(expected.plan.to_json())
    for plan in (
        tmp_path / "plan.json",
        str(tmp_path / "plan.json"),
        Plan.from_json(expected.plan.to_json()),
    ):
        assert divide(module, SHAPE, plan).plan == expected.plan


@pytest.mark.parametrize("plan", ["uniform:0.25,0.25,0.5", "widths:0.25,0.5,1"])
def test_it_begins_as_the_command_does(module, plan, tmp_path):
    pixels, images, labels = drawn(80)
    told = LabelledImages(images=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels=labels)
    splits = ImageSplits(train=told, val=told, test=None, class_names=READING["class_names"], digest="none")
    start = Beginner(
        start="fitted",
        splits=splits,
        preprocessing=PREPROCESSING,
        device=torch.device("cpu"),
        folder=tmp_path,
    )
    quiet = Console(quiet=True)
    static = start.ranked(read_network(module, SHAPE), quiet)
    expected = start.beginning(static, read_plan(plan, static, align=1, seed=0), quiet).eval()
    begun = divided(plan, module, begin_with=(images, labels)).eval()
    copied = divided(plan, module).eval()
    with torch.no_grad():
        for ours, theirs in zip(begun(images), expected(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(begun(images)[0], copied(images)[0], atol=1e-2)


def test_gates_begin_by_what_the_loss_misses_least(module):
    begun = divided("blocks:0.5", module, begin_with=(IMAGES, LABELS))
    keys = [key for key in begun.state_dict() if "layer_gate/linear|bias" in key]
    by_number, by_loss = (
        [float(network.state_dict()[key]) for key in keys]
        for network in (divided("blocks:0.5", module), begun)
    )
    assert sorted(by_loss) == sorted(by_number)
    with torch.no_grad():
        torch.testing.assert_close(begun.eval()(IMAGES)[0], module.eval()(IMAGES), rtol=1e-4, atol=1e-5)


# --- the loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("given", [{}, {"distill": 0.3, "self_distill": 0.7, "temperature": 2.0}])
def test_the_loss_is_that_of_the_command(module, plan, given):
    network, teacher = divided(plan, module), module.eval()(IMAGES)
    logits = network(IMAGES)
    weights = tuple(1.0 + k for k in range(network.exits))
    for taught in (None, teacher):
        settings = Settings(epochs=0, exit_weights=weights, label_smoothing=0.1, **given)
        expected = exits_loss(logits, LABELS, taught, settings)
        loss = network.exit_loss(logits, LABELS, taught, exit_weights=weights, label_smoothing=0.1, **given)
        assert torch.equal(loss, expected)
    assert torch.equal(
        network.exit_loss(logits, LABELS), exits_loss(logits, LABELS, None, Settings(epochs=0))
    )
    loss.backward()
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("plan", PLANS)
def test_all_that_learns_gets_a_gradient(plan):
    network = divided(plan)
    learn(network, 1)
    assert [name for name, p in network.named_parameters() if (p.grad is None) == p.requires_grad] == []
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    expected = {"gate:0.25,1": "network.gate/", "in-turn:0.5x0.5,1x0.5": "network.4|branch|"}
    assert bool(frozen) == (plan in expected)
    assert all(name.startswith(expected[plan]) for name in frozen)
    of_groups = [p for group in network.parameter_groups(0.1) for p in group["params"]]
    assert {id(p) for p in of_groups} == {id(p) for p in network.parameters() if p.requires_grad}
    assert len(of_groups) == len({id(p) for p in of_groups})


def test_norms_do_not_decay():
    matrices, rest = divided("uniform:0.25,0.75").parameter_groups(0.1, weight_decay=0.01)
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    assert {p.dim() for p in rest["params"]} == {1}


# --- gates before blocks -----------------------------------------------------------------------------------


def test_gates_are_steered_by_the_loss_in_training_alone():
    network = divided("blocks:0.5")
    assert network.spent is None
    with pytest.raises(OptionError, match="expected a forward before it"):
        network.exit_loss([torch.zeros(len(LABELS), CLASSES)], LABELS)
    for _ in range(STEPS // 2):
        network.exit_loss(network(IMAGES), LABELS)
    assert int(network.steps_done) == STEPS // 2
    assert float(network.network.shift) > 0
    assert network.spent.shape == (len(IMAGES),)
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        network.exit_loss(network.eval()(IMAGES), LABELS)
    assert int(network.steps_done) == STEPS // 2
    again = divided("blocks:0.5")
    again.load_state_dict(before)
    assert int(again.steps_done) == STEPS // 2
    assert torch.equal(again.network.shift, network.network.shift)


def test_gates_learn_at_rates_of_their_own():
    network = divided("blocks:0.5")
    rates = network.network.gate_rates
    weights = {id(tensor): key for key, tensor in network.network.weights().items()}
    groups = network.parameter_groups(0.1)
    found = {
        weights[id(p)]: group["lr"] for group in groups for p in group["params"] if weights[id(p)] in rates
    }
    assert found == pytest.approx({key: 0.1 * rate for key, rate in rates.items()})
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD(groups), 10)
    assert schedule.get_last_lr() == [group["lr"] for group in groups]


def test_gates_shut_until_images_take_their_share():
    network = divided("blocks:0.5")
    learn(network, STEPS)
    assert float(network.spent.mean()) < 0.8


def test_a_gate_between_widths_is_taught_afterwards():
    network = divided("gate:0.25,1")
    learn(network)
    before = copy.deepcopy(network.state_dict())
    found = network.train_gate([(IMAGES, LABELS), (IMAGES, LABELS)], seed=3)
    assert sum(found.shares) == pytest.approx(1)
    assert network.training
    changed = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    assert {key.partition("/")[0] for key in changed} == {"network.gate"}
    with pytest.raises(OptionError, match="expected batches of images and labels, got none"):
        network.train_gate([])
    with pytest.raises(OptionError, match="expected a network of a plan gate"):
        divided("widths:0.5,1").train_gate([(IMAGES, LABELS)])


# --- a plain module ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
def test_states_and_copies(plan):
    network = divided(plan)
    learn(network, 2)
    twin, other = copy.deepcopy(network), divided(plan, make_module())
    other.load_state_dict(network.state_dict())
    assert list(other.state_dict()) == list(divided(plan).state_dict())
    with torch.no_grad():
        expected = network.eval()(IMAGES)
        for each in (twin, other):
            for ours, theirs in zip(each.eval()(IMAGES), expected, strict=True):
                assert torch.equal(ours, theirs)
        doubled = copy.deepcopy(network).double()(IMAGES.double())
    assert {z.dtype for z in doubled} == {torch.float64}
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in network.parameters()]


@pytest.mark.parametrize("plan", ["uniform:0.25,0.25,0.5", "depth:3", *WIDTHS, "blocks:0.5"])
def test_a_state_knows_the_order_of_the_channels(plan, tmp_path):
    """In formats that hold tensors only, too."""
    begun, other = divided(plan, begin_with=(IMAGES, LABELS)), divided(plan)
    learn(begun, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    save_file(begun.state_dict(), tmp_path / "state.safetensors")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    with torch.no_grad():
        for ours, theirs in zip(other.eval()(IMAGES), begun.eval()(IMAGES), strict=True):
            assert torch.equal(ours, theirs)
    for network in (begun, other):
        network.train().zero_grad()
        network.exit_loss(network(IMAGES), LABELS).backward()
    optimizer.step()  # of the same weights as before
    found = {name: p.grad for name, p in begun.named_parameters() if p.requires_grad}
    assert all(torch.equal(p.grad, found[name]) for name, p in other.named_parameters() if p.requires_grad)
    other.save(tmp_path / "model.pt", **READING)
    with torch.no_grad():
        loaded = load_model(tmp_path / "model.pt").network(IMAGES)
    for ours, theirs in zip(loaded, other.eval()(IMAGES), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_state_is_of_its_plan():
    state = divided("uniform:0.25,0.75").state_dict()
    with pytest.raises(CheckpointError, match="divided by another plan"):
        divided("uniform:0.5,0.5").load_state_dict(state)


@pytest.mark.parametrize("plan", ["uniform:0.25,0.75", "widths:0.5,1", "blocks:0.5"])
def test_half_precision_learns_in_full(plan):
    network = divided(plan)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(IMAGES)
        loss = network.exit_loss(logits, LABELS)
    assert {z.dtype for z in logits} == {torch.bfloat16}
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize("plan", ["uniform:0.25,0.25,0.5", "gate:0.25,1", "blocks:0.5"])
def test_an_average_of_weights_keeps_what_follows_from_the_plan(plan):
    """Torch's averages take all buffers; of numbers of channels, an average would be others."""
    network = divided(plan)
    average = AveragedModel(network, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(5):
        average.update_parameters(network)
    with torch.no_grad():
        for ours, theirs in zip(average.module.eval()(IMAGES), network.eval()(IMAGES), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.fixture
def one_process(monkeypatch):
    """A group of this process alone: no network is needed."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=60))
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("plan", PLANS)
def test_in_several_processes_it_learns_the_same(plan, one_process):
    """A wrapper that waits for gradients of all weights would refuse the second step if one had none."""
    alone, network = divided(plan), divided(plan)
    parallel = DistributedDataParallel(network)
    assert torch.equal(learn(network, 3, forward=parallel), learn(alone, 3))
    state = alone.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


# --- handed over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
def test_a_file_holds_what_answers(plan, tmp_path):
    network = divided(plan)
    learn(network, 6)
    if plan.startswith("gate"):
        network.train_gate([(IMAGES, LABELS)])
    network.save(tmp_path / "model.pt", **READING, resize="crop")
    assert network.training
    model = load_model(tmp_path / "model.pt")
    assert model.class_names == READING["class_names"]
    assert (model.preprocessing.mean, model.preprocessing.resize) == (READING["mean"], "crop")
    with torch.no_grad():
        for ours, theirs in zip(network.eval()(IMAGES), model.network(IMAGES), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    done = CliRunner().invoke(cli.inspect, [str(tmp_path / "model.pt"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)


def exported(network, tmp_path, **options):
    manifest = network.export(tmp_path / "bundle", **READING, **options)
    return manifest, Cascade.load(tmp_path / "bundle", provider="cpu", threads=1)


@pytest.mark.parametrize("plan", ["static", *STAGES, "in-turn:0.5,1"])
@torch.no_grad()
def test_a_bundle_answers_as_torch_does(plan, tmp_path):
    with torch.enable_grad():
        learn(network := divided(plan), 6)
    manifest, cascade = exported(network, tmp_path, thresholds=(0.05,), images=PIXELS, labels=LABELS.numpy())
    with cascade:
        for last, logits in enumerate(network.eval()(IMAGES)):
            never = (2.0,) * (network.exits - 1)
            answers = cascade.predict(PIXELS, last_stage=last, thresholds=never, probabilities=True)
            assert set(answers.exit.tolist()) == {last}
            assert answers.label.tolist() == logits.argmax(1).tolist()
            np.testing.assert_allclose(answers.probabilities, logits.softmax(1), rtol=1e-4)
        answers = cascade.predict(PIXELS)
    assert manifest.expected.cascade_accuracy == (answers.label == LABELS.numpy()).mean()
    assert manifest.name == "Sequential"


@torch.no_grad()
def test_who_picks_a_width(tmp_path):
    with torch.enable_grad():
        learn(network := divided("widths:0.25,0.5,1"), 6)
    _, cascade = exported(network, tmp_path)
    with cascade:
        found = [cascade.predict(PIXELS, settings={"width": name}) for name in network.plan.width_names]
    for answers, logits in zip(found, network.eval()(IMAGES), strict=True):
        assert answers.label.tolist() == logits.argmax(1).tolist()
    _, cascade = exported(network, tmp_path, in_turn=("quarter", "full"), thresholds=(2,))
    with cascade:
        assert set(cascade.predict(PIXELS).exit.tolist()) == {1}


@torch.no_grad()
def test_a_gate_picks_a_width(tmp_path):
    with torch.enable_grad():
        learn(network := divided("gate:0.25,1"), 6)
    network.train_gate([(IMAGES, LABELS)])
    _, cascade = exported(network, tmp_path)
    network.eval()
    logits, seen = network.network.judged(IMAGES)
    way = network.network.numbers(seen).argmax(1)
    with cascade:
        answers = cascade.predict(PIXELS)
    assert answers.exit.tolist() == (1 + way).tolist()
    assert answers.label.tolist() == torch.stack(logits)[way, torch.arange(len(way))].argmax(1).tolist()


@torch.no_grad()
def test_a_bundle_leaves_blocks_out(tmp_path):
    with torch.enable_grad():
        learn(network := divided("blocks:0.5"), STEPS)
    manifest, cascade = exported(network, tmp_path, images=PIXELS, labels=LABELS.numpy())
    (logits,) = network.eval()(IMAGES)
    with cascade:
        assert cascade.predict(PIXELS).label.tolist() == logits.argmax(1).tolist()
    share = float(network.spent.mean())
    assert manifest.expected.mean_macs == pytest.approx(share * manifest.macs[0], rel=1e-3)


def test_the_static_network_answers_what_no_width_is_sure_of(module, tmp_path):
    network = divided("in-turn:0.5x0.5,1x0.5", module)
    with pytest.raises(OptionError, match="give static=module"):
        network.export(tmp_path / "bundle", **READING)
    _, cascade = exported(network, tmp_path, thresholds=(2,), static=module)
    with cascade, torch.no_grad():
        answers = cascade.predict(PIXELS)
        assert set(answers.exit.tolist()) == {2}
        assert answers.label.tolist() == module.eval()(IMAGES).argmax(1).tolist()
    with pytest.raises(OptionError, match="expected a network with 5 outputs"):
        network.export(tmp_path / "bundle", **READING, static=Residual(7))


def test_int8_measures_on_what_was_trained_on(tmp_path):
    network = divided("uniform:0.5,0.5")
    judged = {"images": PIXELS, "labels": LABELS.numpy()}
    with pytest.raises(OptionError, match="give some hundred that were trained on as calibration"):
        network.export(tmp_path / "bundle", **READING, precision="int8", **judged)
    manifest, cascade = exported(network, tmp_path, precision="int8", calibration=drawn(64, 2)[0], **judged)
    assert manifest.precision == "int8"
    with cascade:
        assert len(cascade.predict(PIXELS).label) == len(PIXELS)


# --- what cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "options", "error", "words"),
    [
        ("uniform:2", {}, PlanError, "expected positive fractions that sum to 1"),
        ("auto", {}, PlanError, "cannot read the plan 'auto'"),
        ("paths:3", {}, PlanError, "s2dnas-train alone"),
        ("nowhere.json", {}, PlanError, "there is no such file"),
        ("blocks:2", {"steps": 5}, PlanError, "above 0 and at most 1"),
        ("blocks:0.5", {}, OptionError, "epochs \\* len\\(loader\\)"),
        ("blocks:0.5", {"steps": 0}, OptionError, "expected a whole number above 0, got 0"),
        ("static", {"steps": 5}, OptionError, "with no other, got 5 with 'static'"),
        ("static", {"begin_with": (IMAGES[:, :1], LABELS)}, DataError, r"float \[N, 3, 8, 8\]"),
        ("static", {"begin_with": (IMAGES, LABELS.float())}, DataError, "int64"),
        ("static", {"begin_with": (PIXELS, LABELS)}, DataError, "got a ndarray"),
    ],
)
def test_what_cannot_be_divided_so(module, plan, options, error, words):
    with pytest.raises(error, match=words):
        divide(module, SHAPE, plan, **options)


def test_what_cannot_be_divided_at_all(module):
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module, got a function"):
        divide(make_module, SHAPE, "static")
    with pytest.raises(ModelError, match="expected an image shape"):
        divide(module, (8, 8), "static")
    with pytest.raises(ModelError, match=r"network\.float\(\)"):
        divide(module.half(), SHAPE, "static")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"logits": torch.zeros(24, CLASSES)}, "expected what forward gives, 3 tensors of \\[24, 5\\]"),
        ({"logits": [torch.zeros(24, CLASSES)] * 2}, "expected what forward gives, 3 tensors"),
        ({"labels": LABELS[:3]}, "for 3 labels"),
        ({"teacher": torch.zeros(24, 4)}, r"teacher: expected logits \[24, 5\], got \[24, 4\]"),
        ({"exit_weights": (1, 2)}, "2 exit_weights for 3 exits"),
        ({"exit_weights": (1, -2, 1)}, "exit weights: expected finite numbers"),
        ({"distill": 2}, "distill: expected from 0 to 1, got 2"),
        ({"temperature": 0}, "temperature: expected"),
    ],
)
def test_what_cannot_be_learned(changed, words):
    network = divided("uniform:0.25,0.25,0.5")
    given = {"logits": network(IMAGES), "labels": LABELS, "teacher": None, **changed}
    with pytest.raises(OptionError, match=words):
        network.exit_loss(**given)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"class_names": "abc"}, OptionError, "expected a name for each of 5 outputs, in their order, got 3"),
        ({"class_names": ("", *"abcd")}, OptionError, "class_names: such a model could not be read again"),
        ({"mean": (0.5,)}, OptionError, "expected a mean and a std for each of 3 channels"),
        ({"mean": (120, 120, 120)}, OptionError, "divide mean and std by 255"),
        ({"std": (0, 1, 1)}, OptionError, "mean, std or resize"),
        ({"resize": "shrink"}, OptionError, "stretch, crop or crop:SHARE"),
        ({"images": PIXELS}, OptionError, "expected both or neither"),
        ({"images": IMAGES.numpy(), "labels": LABELS}, DataError, r"uint8 \[N, 8, 8, 3\], not normalised"),
        ({"images": PIXELS, "labels": LABELS + 1}, DataError, "0 to 4, got int64 .* from 1 to 5"),
        ({"images": PIXELS, "labels": LABELS[:3]}, DataError, "expected 24 numbers of classes"),
        ({"thresholds": (0.5, 0.5, 0.5)}, OptionError, "3 thresholds for 1 exits but the last"),
        ({"in_turn": ("half",)}, OptionError, "in-turn is for nested widths"),
        ({"precision": "int4"}, OptionError, "expected float32 or int8 or float16, got 'int4'"),
    ],
)
def test_what_cannot_be_exported(changed, error, words, tmp_path):
    network = divided("uniform:0.25,0.75")
    with pytest.raises(error, match=words):
        network.export(tmp_path / "bundle", **{**READING, **changed})
    assert not (tmp_path / "bundle").exists()


def test_a_training_that_diverged_is_told(tmp_path):
    network = divided("uniform:0.25,0.75")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="the training has diverged"):
        network.save(tmp_path / "model.pt", **READING)


def test_the_names_are_public():
    assert (s2dnas_deploy.divide, s2dnas_deploy.DynamicNetwork) == (divide, DynamicNetwork)
