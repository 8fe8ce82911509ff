"""The example networks, their recipes and the README's numbers. No package holds them: load by path."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

torch = pytest.importorskip("torch")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from s2dnas_deploy.plan import ends_in_static  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.reading.static_source import read_plan  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
DATA = Path(os.environ.get("S2DNAS_DATA", ROOT.parent / "shared" / "data"))
CIFAR, PHOTOS, DIGITS = (3, 32, 32), (3, 64, 64), (1, 8, 8)
FACTORIES = {
    "cifar_resnet.py:resnet20": CIFAR,
    "cifar_resnet.py:resnet56": CIFAR,
    "cifar_resnet.py:wide_resnet": CIFAR,
    "vgg.py:vgg16_bn": CIFAR,
    "mobilenet_v2.py:mobilenet_v2": CIFAR,
    "gated_cnn.py:gated_cnn": PHOTOS,
    "digits_cnn.py:digits_cnn": DIGITS,
}
RECIPES = sorted(path.stem for path in MODELS.glob("*.toml"))
RECIPE_KEYS = {
    *("model", "model_args", "input", "normalize", "plan", "static_epochs", "epochs"),
    *("batch", "lr", "seed"),
}


@cache
def load_file(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", MODELS / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_factory(reference: str) -> Callable[..., torch.nn.Module]:
    file, _, factory = reference.partition(":")
    return getattr(load_file(file), factory)


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def read_recipe(name: str) -> dict[str, Any]:
    return tomllib.loads((MODELS / f"{name}.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("reference", "shape"), FACTORIES.items())
def test_factory_traces_and_gives_one_logit_per_class(reference: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = find_factory(reference)(num_classes=7).eval()
    images = torch.randn(2, *shape)
    with torch.no_grad():
        logits = model(images)
        traced = torch.fx.symbolic_trace(model)(images)
    assert logits.shape == (2, 7)
    assert torch.equal(traced, logits)


@pytest.mark.parametrize(("reference", "shape"), FACTORIES.items())
def test_readme_numbers_are_measured(reference: str, shape: tuple[int, ...]) -> None:
    readme = (MODELS / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"`{re.escape(reference)}`.*\n +([\d,]+) parameters, ([\d,]+) MACs at (\S+);", readme)
    assert found is not None, f"README.md: no entry for {reference}"

    model = find_factory(reference)().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert model(torch.zeros(1, *shape)).shape == (1, 10)
    macs = counter.get_total_flops() // 2
    assert found.groups() == (f"{count_parameters(model):,}", f"{macs:,}", "x".join(map(str, shape)))


@pytest.mark.parametrize(("shortcut", "parameters"), [("A", 269_722), ("B", 272_474)])
def test_resnet20_parameters(shortcut: str, parameters: int) -> None:
    assert count_parameters(find_factory("cifar_resnet.py:resnet20")(shortcut=shortcut)) == parameters


def test_option_a_pads_both_sides_and_drops_every_other_pixel() -> None:
    shortcut = load_file("cifar_resnet.py").PadShortcut(2, 5, stride=2)
    image = torch.arange(1.0, 33.0).reshape(1, 2, 4, 4)
    padded = shortcut(image)
    assert padded.shape == (1, 5, 2, 2)
    assert padded[0, 0].eq(0).all()
    assert padded[0, 1].tolist() == [[1, 3], [9, 11]]
    assert padded[0, 2].tolist() == [[17, 19], [25, 27]]
    assert padded[0, 3:].eq(0).all()


def test_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ValueError, match='expected "A" or "B", got \'C\''):
        find_factory("cifar_resnet.py:resnet20")(shortcut="C")


def test_wide_resnet_halves_the_image_between_groups() -> None:
    model = find_factory("cifar_resnet.py:wide_resnet")(widths=[8, 16], blocks=1, num_classes=3).eval()
    with torch.no_grad():
        features = model[: list(dict(model.named_children())).index("pool")](torch.zeros(1, *CIFAR))
    assert features.shape == (1, 16, 16, 16)


def test_mobilenet_keeps_four_by_four_at_the_end_and_rounds_widths_to_eight() -> None:
    model = find_factory("mobilenet_v2.py:mobilenet_v2")(width=0.75).eval()
    with torch.no_grad():
        assert model.features(torch.zeros(1, *CIFAR)).shape == (1, 1280, 4, 4)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert all(convolution.out_channels % 8 == 0 for convolution in convolutions)


def test_every_factory_has_a_recipe() -> None:
    assert {read_recipe(name)["model"] for name in RECIPES} == set(FACTORIES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_complete_and_builds_its_network(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.keys() >= RECIPE_KEYS | ({"data"} if name == "digits" else set())
    shape = tuple(int(size) for size in recipe["input"].split("x"))
    assert shape == FACTORIES[recipe["model"]]
    model = find_factory(recipe["model"])(**recipe["model_args"]).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, *shape)).shape == (1, recipe["model_args"]["num_classes"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_plan_answers_by_three_exits(name: str) -> None:
    recipe = read_recipe(name)
    text = recipe["plan"]
    static = read_network(find_factory(recipe["model"])(**recipe["model_args"]), FACTORIES[recipe["model"]])
    named = str(MODELS / text) if text.endswith(".json") else text
    plan = read_plan(named, static, align=1, seed=0)
    assert plan.stages + ends_in_static(plan, static.divisible.space) == 3
    kind, _, fractions = text.partition(":")
    if kind == "uniform":
        shares = [float(fraction) for fraction in fractions.split(",")]
        for group in static.divisible.space.groups:
            assert plan.channels[group.name] == tuple(group.channels * share for share in shares)


def test_recipe_plan_lets_option_a_read_earlier_stages_only() -> None:
    recipe = read_recipe("resnet20")
    shares = [float(fraction) for fraction in recipe["plan"].partition(":")[2].split(",")]

    def owner(channel: int, channels: int) -> int:
        return sum(channel >= channels * sum(shares[: stage + 1]) for stage in range(len(shares)))

    model = find_factory(recipe["model"])(**recipe["model_args"])
    for group, channels in (("layer2", 16), ("layer3", 32)):
        front = model.get_submodule(group)[0].shortcut.front
        for channel in range(channels):
            assert owner(channel, channels) <= owner(front + channel, 2 * channels)


def test_public_resnet20_weights_load_strictly() -> None:
    path = DATA / "weights" / "resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip(f"no {path}: set S2DNAS_DATA to the folder that holds weights/{path.name}")
    saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    weights = {name.removeprefix("module."): tensor for name, tensor in saved.items()}
    model = find_factory("cifar_resnet.py:resnet20")(shortcut="A")
    # The file is older than batch norm's counter of batches; strict loading allows that one absence.
    model.load_state_dict(weights, strict=True)
    assert torch.equal(model.get_submodule("layer3.2.conv2").weight, weights["layer3.2.conv2.weight"])
