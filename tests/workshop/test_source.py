"""The user's files: factories that are found and named, weights that fit or are refused by name."""

import argparse
import json
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_networks import MODELS, Residual
from torch import nn

from s2dnas_deploy.errors import CheckpointError, ModelError, PlanError
from s2dnas_deploy.plan import uniform
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.reading.source import build_network, load_weights
from s2dnas_deploy.workshop.reading.static_source import read_plan

DATA = Path(os.environ.get("S2DNAS_DATA", Path(__file__).parents[3] / "shared" / "data"))
PRETRAINED = DATA / "weights" / "resnet20-12fca82f.th"


@pytest.fixture
def state():
    torch.manual_seed(1)
    return Residual().state_dict()


def test_factory_in_a_file_with_arguments():
    network = build_network(f"{MODELS}/digits_cnn.py:digits_cnn", {"num_classes": 7})
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


def test_factory_in_a_package():
    assert isinstance(
        build_network("torch.nn:Linear", {"in_features": 2, "out_features": 3}), torch.nn.Linear
    )


def test_factory_may_import_its_neighbours(tmp_path):
    (tmp_path / "parts.py").write_text("from torch import nn\ndef part():\n    return nn.Linear(2, 2)\n")
    (tmp_path / "net.py").write_text("from parts import part\ndef make():\n    return part()\n")
    assert isinstance(build_network(f"{tmp_path}/net.py:make"), torch.nn.Linear)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net.py", "expected path/file.py:factory"),
        ("missing.py:make", "no file missing.py"),
        ("no.such.package:make", "cannot import no.such.package"),
        (f"{MODELS}/digits_cnn.py:digit", "defines no 'digit'; did you mean digits_cnn"),
        ("math:sqrt", "math:sqrt failed"),
        ("builtins:dict", "returned a dict; expected a torch.nn.Module"),
    ],
)
def test_factories_that_are_none_are_refused(spec, message):
    with pytest.raises(ModelError, match=message):
        build_network(spec)


def test_an_error_in_the_users_file_names_its_line(tmp_path):
    (tmp_path / "net.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(ModelError, match=r"ZeroDivisionError: division by zero \(at .*net\.py:2\)"):
        build_network(f"{tmp_path}/net.py:make")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_weights_in_every_form(state, tmp_path, suffix, prefix):
    path = tmp_path / f"weights{suffix}"
    wrapped = {prefix + name: tensor.clone() for name, tensor in state.items()}
    save_file(wrapped, path) if suffix == ".safetensors" else torch.save(wrapped, path)
    network = Residual()
    load_weights(network, path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_nested_weights(state, tmp_path, key):
    torch.save({"epoch": 3, key: state}, tmp_path / "weights.pt")
    network = Residual()
    load_weights(network, tmp_path / "weights.pt")
    assert torch.equal(network.fc.weight, state["fc.weight"])


def test_an_entry_can_be_named(state, tmp_path):
    torch.save({"model": Residual().state_dict(), "ema": state}, tmp_path / "weights.pt")
    network = Residual()
    load_weights(network, tmp_path / "weights.pt", key="ema")
    assert torch.equal(network.fc.weight, state["fc.weight"])
    missing = "no entry 'best'; 'best' is not among the entries 'model', 'ema'"
    with pytest.raises(CheckpointError, match=missing):
        load_weights(network, tmp_path / "weights.pt", key="best")
    with pytest.raises(CheckpointError, match="several state dicts, model, ema: name the one meant"):
        load_weights(network, tmp_path / "weights.pt")


def test_an_entry_inside_an_entry_can_be_named(state, tmp_path):
    torch.save({"best": {"weights": state, "epoch": 3}}, tmp_path / "weights.pt")
    network = Residual()
    load_weights(network, tmp_path / "weights.pt", key="best.weights")
    assert torch.equal(network.fc.weight, state["fc.weight"])
    with pytest.raises(CheckpointError, match=r"'ema' is not among the entries 'weights', 'epoch'"):
        load_weights(network, tmp_path / "weights.pt", key="best.ema")
    torch.save({"best": {"model": state, "ema": state}}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"several state dicts, best\.model, best\.ema"):
        load_weights(network, tmp_path / "weights.pt", key="best")
    torch.save({"model": state, "metrics": {"accuracy": torch.ones(())}}, tmp_path / "weights.pt")
    load_weights(network, tmp_path / "weights.pt")
    torch.save(state, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="is a state dict itself: leave --weights-key model out"):
        load_weights(network, tmp_path / "plain.pt", key="model")


def test_what_does_not_fit_is_named(state, tmp_path):
    del state["fc.bias"]
    state["extra"] = torch.zeros(1)
    state["stem.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError) as caught:
        load_weights(Residual(), tmp_path / "weights.pt")
    text = str(caught.value)
    assert "1 missing: fc.bias" in text
    assert "1 unexpected: extra" in text
    assert "1 of another shape: stem.bias: (7,), expected (16,)" in text


def test_a_pickled_network_is_refused_with_the_remedy(tmp_path):
    torch.save(Residual(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"torch\.save\(network\.state_dict\(\), path\)") as caught:
        load_weights(Residual(), tmp_path / "weights.pt")
    assert "more than tensors ('small_networks.Residual')" in str(caught.value)
    assert "c.state_dict() if c is the network itself" in str(caught.value)


def test_what_checkpoints_keep_beside_weights_is_read(state, tmp_path):
    beside = {
        "args": argparse.Namespace(lr=0.1, out=tmp_path),
        "best": np.float64(0.9),
        "epoch": np.int64(3),
        "classes": OrderedDict(cat=0),
    }
    torch.save({**beside, "state_dict": state}, tmp_path / "weights.pt")
    network = Residual()
    load_weights(network, tmp_path / "weights.pt")
    assert torch.equal(network.fc.weight, state["fc.weight"])


def test_the_average_that_torch_makes_is_read(tmp_path):
    average = torch.optim.swa_utils.AveragedModel(Residual())
    torch.save(average.state_dict(), tmp_path / "weights.pt")
    network = Residual()
    load_weights(network, tmp_path / "weights.pt")
    assert torch.equal(network.fc.weight, average.module.fc.weight)


def test_a_misspelt_factory_is_found(tmp_path):
    lines = ["from torch.nn import Sequential, Linear", "def make_net(): return Linear(1, 2)"]
    (tmp_path / "net.py").write_text("\n".join(lines))
    with pytest.raises(ModelError, match=r"defines no 'makenet'; did you mean make_net\?"):
        build_network(f"{tmp_path}/net.py:makenet")
    with pytest.raises(ModelError, match=r"defines no 'Xyz'; it defines make_net$"):
        build_network(f"{tmp_path}/net.py:Xyz")


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "weights.pt"
    torch.jit.save(torch.jit.trace(Residual().eval(), torch.zeros(1, 3, 8, 8)), path)
    with pytest.raises(CheckpointError, match=r"TorchScript archive; save the weights alone"):
        load_weights(Residual(), path)
    path.write_text("import torch")
    with pytest.raises(CheckpointError, match=r"no torch file: expected one that torch\.save"):
        load_weights(Residual(), path)


def test_wrappers_are_taken_off():
    for wrap in ("torch:compile", "torch.nn:DataParallel"):
        factory = build_network(wrap, {"model" if "compile" in wrap else "module": Residual()})
        assert type(factory) is Residual


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_weights(Residual(), path)


def refused(network, path):
    """The line in which weights are refused."""
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_another_precision_are_converted(state, tmp_path, dtype):
    converted = {name: nn.Parameter(value.to(dtype), requires_grad=False) for name, value in state.items()}
    torch.save(converted, tmp_path / "weights.pt")
    network = Residual()
    load_weights(network, tmp_path / "weights.pt")
    assert network.fc.weight.dtype == torch.float32
    assert torch.equal(network.fc.weight, state["fc.weight"].to(dtype).float())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64]
)
def test_numbers_that_mean_something_else_are_refused(state, tmp_path, dtype, suffix):
    path = tmp_path / f"weights{suffix}"
    state["fc.weight"] = torch.ones(5, 32).to(dtype)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert f"1 of another kind: fc.weight: {dtype}, expected torch.float32" in refused(Residual(), path)


@pytest.mark.parametrize(
    "keys",
    [
        [f"layer{n}.weight" for n in range(20_000)],
        ["x" * 3_000_000],
        ["\x1b[2J\n" * 50],
        list(range(100)),
        [""],
    ],
    ids=["many", "long", "with control characters", "numbers", "empty"],
)
def test_odd_names_are_told_in_a_line(tmp_path, keys):
    torch.save(dict.fromkeys(keys, torch.zeros(1)), tmp_path / "weights.pt")
    assert f"{len(keys)} unexpected" in refused(Residual(), tmp_path / "weights.pt")
    torch.save(dict.fromkeys(keys, 1.0), tmp_path / "weights.pt")
    assert "holds no state dict" in refused(Residual(), tmp_path / "weights.pt")


def with_header(header):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content


def claimed(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8,
        (2**60).to_bytes(8, "little") + b"{}",
        with_header(b"{"),
        with_header(b"[" * 100_000),
        with_header({"w": claimed()}) + bytes(3),
        with_header({"w": claimed()}) + bytes(5),
        with_header({"w": claimed(), "v": claimed()}) + bytes(4),
        with_header({"w": claimed(offsets=(4, 0))}) + bytes(4),
        with_header({"w": claimed(shape=(2**62, 2**62))}) + bytes(4),
        with_header({"w": claimed(shape=(-1,))}) + bytes(4),
        with_header({"w": claimed("F4")}) + bytes(4),
        with_header({"w": claimed("none")}) + bytes(4),
        with_header({"x" * 100_000: 1}),
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert "is no safetensors file, or is damaged" in refused(Residual(), tmp_path / "weights.safetensors")


def test_a_plan_in_words_may_be_longer_than_a_file_name(tmp_path):
    static = read_network(Residual(), (3, 8, 8))
    assert read_plan("uniform:0.25,0.75" + "0" * 5000, static, align=1, seed=0).stages == 2
    os.mkfifo(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="there is no such file"):
        read_plan(str(tmp_path / "plan.json"), static, align=1, seed=0)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"holds no state dict.*found the entries 'epoch'"):
        load_weights(Residual(), tmp_path / "weights.pt")


LAMBDA_SHORTCUTS = """
import torch.nn as nn
import torch.nn.functional as F

class LambdaLayer(nn.Module):
    def __init__(self, lambd):
        super().__init__()
        self.lambd = lambd
    def forward(self, x):
        return self.lambd(x)

class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = LambdaLayer(
                lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, after // 4, after // 4), "constant", 0)
            )
    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)

class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for i in range(1, 4):
            blocks = [Block(widths[i - 1] if j == 0 else widths[i], widths[i], 2 if i > 1 and j == 0 else 1)
                      for j in range(3)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)
    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))
"""


@pytest.mark.skipif(not PRETRAINED.exists(), reason=f"needs the pretrained ResNet-20 at {PRETRAINED}")
@pytest.mark.parametrize("own", ["models/", "lambda shortcuts"])
def test_the_pretrained_resnet20_loads_and_divides(tmp_path, own):
    from small_networks import chain_differs_by

    (tmp_path / "net.py").write_text(LAMBDA_SHORTCUTS)
    spec = f"{MODELS}/cifar_resnet.py:resnet20" if own == "models/" else f"{tmp_path}/net.py:ResNet"
    network = build_network(spec)
    load_weights(network, PRETRAINED)
    static = read_network(network.double(), (3, 32, 32))
    plan = uniform(static.divisible.space, [0.25, 0.25, 0.5])
    assert plan.stages == 3
    assert chain_differs_by(static, plan, torch.randn(2, 3, 32, 32).double()) < 1e-9
