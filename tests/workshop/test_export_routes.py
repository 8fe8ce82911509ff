"""Networks that name their stages and routes: the bundle answers as their own plain loop does."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
import routed_networks  # noqa: E402
from exports import export_to  # noqa: E402
from torch import nn  # noqa: E402

from s2dnas_deploy.bundle.bundle import verify_bundle  # noqa: E402
from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.cli import calibrate, export  # noqa: E402
from s2dnas_deploy.errors import ModelError, OptionError, VerificationError  # noqa: E402
from s2dnas_deploy.runtime.cascade import Cascade  # noqa: E402
from s2dnas_deploy.workshop.export.own.protocol import network_with_own_exits  # noqa: E402
from s2dnas_deploy.workshop.export.samples import ExportImages  # noqa: E402

KINDS = ("chain", "gate", "setting", "skipped", "gate_then_exits", "late")
IMAGES = np.random.default_rng(7).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def exported(folder: Path, kind: str, *options: object):
    labels = folder / "labels.txt"
    labels.write_text("".join(f"class {i}\n" for i in range(routed_networks.CLASSES)))
    network = ["--model", f"{routed_networks.__file__}:{kind}", "--input", "3x8x8", "--normalize", "none"]
    words = [*network, "--labels", labels, "--out", folder / "bundle", *options]
    return CliRunner().invoke(export, [str(word) for word in words])


@torch.no_grad()
def by_a_plain_loop(kind: str, images=IMAGES, **settings: str):
    """Each image by itself: logits and way."""
    network = getattr(routed_networks, kind)().eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return [network.answer(pixels[i : i + 1], **settings) for i in range(len(pixels))]


def check(said, wanted) -> None:
    ways = [tuple(np.array(said.stages)[way]) for way in said.way]
    assert ways == [tuple(way) for _, way in wanted]
    logits = torch.cat([logits for logits, _ in wanted])
    assert said.label.tolist() == logits.argmax(1).tolist()
    assert np.allclose(said.confidence, routed_networks.sure(logits).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_are_worth_testing(kind):
    ways = Counter(tuple(way) for _, way in by_a_plain_loop(kind))
    assert len(ways) >= {"setting": 1, "late": 2, "gate": 3, "skipped": 4}.get(kind, 3), ways


@pytest.mark.parametrize("options", [(), ("--gather",), ("--float-input",)], ids=" ".join)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bundle_answers_as_a_plain_loop_does(tmp_path, kind, options):
    result = exported(tmp_path, kind, *options)
    assert result.exit_code == 0, result.output
    bundle = verify_bundle(tmp_path / "bundle")
    images = IMAGES
    if "--float-input" in options:
        images = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    with Cascade(bundle, provider="cpu", threads=1) as cascade:
        check(cascade.predict(images), by_a_plain_loop(kind))
        if kind == "setting":
            for width in ("quarter", "full"):
                wanted = by_a_plain_loop(kind, width=width)
                check(cascade.predict(images, settings={"width": width}), wanted)


def read(network: nn.Module):
    """As the command reads it."""
    names = tuple(f"class {i}" for i in range(routed_networks.CLASSES))
    shape = Preprocessing(input_shape=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    return network_with_own_exits(network.eval(), shape, names, name="tried")


def read_kind(kind: str):
    return read(getattr(routed_networks, kind)())


def labelled(kind: str) -> ExportImages:
    """Images with labels that most answers have."""
    labels = torch.cat([logits for logits, _ in by_a_plain_loop(kind)]).argmax(1).numpy()
    labels[::5] = (labels[::5] + 1) % routed_networks.CLASSES
    return ExportImages(source="test", calibration=IMAGES, validation=IMAGES, labels=labels)


def test_the_example_of_the_documentation_is_a_network_to_export(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "own-exits.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", page, re.DOTALL)
    (tmp_path / "gated.py").write_text(code)
    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(10)))
    words = [
        "--model",
        tmp_path / "gated.py:Gated",
        "--input",
        "3x16x16",
        "--labels",
        tmp_path / "labels.txt",
    ]
    result = CliRunner().invoke(export, [str(word) for word in (*words, "--out", tmp_path / "bundle")])
    assert result.exit_code == 0, result.output
    with Cascade.load(tmp_path / "bundle", provider="cpu", threads=1) as cascade:
        assert cascade.names == ("prefix", "narrow", "wide")
        ways = cascade.predict(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)).way
    assert {tuple(way) for way in ways.tolist()} <= {(True, True, False), (True, False, True)}


# --- what is expected, and the card ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_expected_is_what_the_plain_loop_reaches(tmp_path, kind):
    images, said = labelled(kind), by_a_plain_loop(kind)
    bundle = export_to(tmp_path / "b", read_kind(kind), images)
    expected, manifest = bundle.manifest.expected, bundle.manifest
    right = np.array([int(logits.argmax()) for logits, _ in said]) == images.labels
    assert expected.cascade_accuracy == pytest.approx(right.mean()) == pytest.approx(0.8)
    macs = {stage.name: stage.macs for stage in manifest.stages}
    assert min(macs.values()) >= 0
    assert expected.mean_macs == pytest.approx(np.mean([sum(macs[name] for name in way) for _, way in said]))
    answering = {stage.name for stage in manifest.stages if stage.exit is not None}
    lasts = Counter([name for name in way if name in answering][-1] for _, way in said)
    shares = dict(zip(macs, expected.exit_share, strict=True))
    assert shares == pytest.approx({name: lasts[name] / len(said) for name in macs})
    for stage, accuracy in zip(manifest.stages, expected.exit_accuracy, strict=True):
        comes = kind != "setting" or stage.name == "half"
        assert (accuracy is not None) == (stage.exit is not None and comes)


def test_a_setting_says_what_each_choice_costs(tmp_path):
    bundle = export_to(tmp_path / "b", read_kind("setting"))
    macs = tuple(float(stage.macs) for stage in bundle.manifest.stages)
    assert bundle.manifest.settings["width"].macs == macs
    assert macs[0] < macs[1] < macs[2]
    card = (bundle.folder / "README.md").read_text()
    assert "Images begin by the setting width: quarter, half, full." in card
    assert "`--setting width=…` is quarter (0.00 M MACs) or half" in card


def test_the_card_and_the_report_say_stages_by_name(tmp_path):
    bundle = export_to(tmp_path / "b", read_kind("gate"), labelled("gate"))
    card = (bundle.folder / "README.md").read_text()
    assert "only for images of which the earlier ones are not sure" not in card
    assert "| prefix | prefix.onnx |" in card
    assert "the largest of gate: s, m, l |" in card
    assert "| stage | accuracy on images that come | share that it answers |" in card
    assert re.search(r"^\| m \| \d+\.\d\d% \| 45\.0% \|$", card, re.MULTILINE)
    report = (bundle.folder / "verification.txt").read_text()
    alone, on_their_way = re.search(r"^prefix +60 +(\S+) +(\S+) +0 +0$", report, re.MULTILINE).groups()
    assert 0 < float(alone) < 1e-4
    assert 0 < float(on_their_way) < 1e-4
    assert re.search(r"^ +m +27 .* 100\.00% ", report, re.MULTILINE)


def test_a_stage_to_which_no_image_comes_is_verified_all_the_same(tmp_path):
    network = routed_networks.gate()
    with torch.no_grad():
        network.parts["prefix"].gate.bias[2] -= 1e6
    staged = read(network)
    report = (export_to(tmp_path / "b", staged, labelled("gate")).folder / "verification.txt").read_text()
    assert "No image came to l by itself, so some were sent there." in report
    assert re.search(r"^ +l +60 ", report, re.MULTILINE)


@pytest.mark.parametrize("stage", ["prefix", "l"])
def test_a_graph_that_answers_or_sends_otherwise_is_found(tmp_path, monkeypatch, stage):
    from s2dnas_deploy.workshop.export import assemble

    real = assemble.to_onnx

    def damaged(graph):
        model = real(graph)
        if graph.link.name == stage:
            for tensor in model.graph.initializer:
                if len(tensor.dims) == 1 and tensor.dims[0] in (3, routed_networks.CLASSES):
                    values = onnx.numpy_helper.to_array(tensor)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1) + 0.5, tensor.name))
        return model

    monkeypatch.setattr(assemble, "to_onnx", damaged)
    with pytest.raises(VerificationError, match=f"at stage {stage}; no bundle"):
        export_to(tmp_path / "b", read_kind("gate"))
    assert list(tmp_path.iterdir()) == []


# --- other forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["skipped", "gate_then_exits"])
@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"precision": "int8", "gather": True}, {"precision": "float16"}]
)
def test_in_less_precision_rules_still_look_at_float32(tmp_path, kind, options):
    bundle = export_to(tmp_path / "b", read_kind(kind), labelled(kind), **options)
    kinds = {name: tensor.type for name, tensor in bundle.manifest.tensors.items()}
    assert kinds["gate"] == "float32"
    handed = "float16" if options["precision"] == "float16" else "float32"
    several = {"skipped": "x", "gate_then_exits": "y"}[kind]
    assert kinds[several] == handed  # bytes of several givers would have several scales
    if options["precision"] == "int8" and kind == "gate_then_exits":
        assert kinds["x"] == "uint8"
    with Cascade(bundle, provider="cpu", threads=1) as cascade:
        said, wanted = cascade.predict(IMAGES), by_a_plain_loop(kind)
    ways = [tuple(np.array(said.stages)[way]) for way in said.way]
    assert np.mean([way == tuple(w) for way, (_, w) in zip(ways, wanted, strict=True)]) > 0.8


def test_a_chain_with_names_can_do_what_chains_can(tmp_path):
    chain = read_kind("chain")
    bundle = export_to(tmp_path / "b", chain, single_file=True, thresholds=(0.3, 0.4))
    assert bundle.manifest.flow.thresholds == (0.3, 0.4)
    assert bundle.manifest.single_file is not None


def test_routes_that_are_a_chain_take_thresholds(tmp_path):
    network = routed_networks.chain()
    network.routes = lambda: {
        "early": {"to": ["answer", "middle"], "by": {"rule": "threshold", "of": "confidence", "at": 0.6}},
        "middle": {"to": ["answer", "late"], "by": {"rule": "threshold", "of": "confidence", "at": 0.7}},
        "late": "answer",
    }
    assert export_to(tmp_path / "a", read(network)).manifest.flow.thresholds == (0.6, 0.7)
    options = {"thresholds": (0.2,), "single_file": True}
    assert export_to(tmp_path / "b", read(network), **options).manifest.flow.thresholds == (0.2, 0.2)


def test_one_temperature_for_each_stage_that_answers(tmp_path):
    bundle = export_to(tmp_path / "b", read_kind("late"), temperatures=(2.0, 3.0))
    assert [stage.exit and stage.exit.temperature for stage in bundle.manifest.stages] == [2.0, None, 3.0]
    with pytest.raises(OptionError, match="3 temperatures for 2 exits"):
        export_to(tmp_path / "b", read_kind("late"), temperatures=(2.0, 3.0, 4.0))


# --- what cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--single-file", "a single file is made of a chain of stages; the routes of this network are none"),
        ("--threshold=0.5", "--threshold is for a chain of stages with an exit each; the routes"),
    ],
)
def test_what_is_for_chains_only_is_refused(tmp_path, option, message):
    result = exported(tmp_path, "gate", option)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_calibration_of_other_routes_is_refused(tmp_path):
    assert exported(tmp_path, "skipped").exit_code == 0
    np.save(tmp_path / "images.npy", IMAGES)
    words = ["--bundle", str(tmp_path / "bundle"), str(tmp_path / "images.npy"), "--unlabelled"]
    result = CliRunner().invoke(calibrate, words)
    assert result.exit_code == 2
    assert "is no chain of stages with an exit each" in result.stderr


def test_ones_own_gate_is_calibrated(tmp_path):
    assert exported(tmp_path, "gate").exit_code == 0
    np.save(tmp_path / "images.npy", IMAGES)
    words = ["--bundle", str(tmp_path / "bundle"), str(tmp_path / "images.npy"), "--unlabelled"]
    result = CliRunner().invoke(calibrate, [*words, "--target-macs", "1G"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["way", "offset", "share"]
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == ["s", "m", "l"]


class Stage(nn.Module):
    """A stage that does as it is told with the mean of its image, or with x."""

    def __init__(self, gives):
        super().__init__()
        self.mix, self.gives = nn.Linear(3, routed_networks.CLASSES), gives


class Reads(Stage):
    def forward(self, x):
        return self.gives(x)


class First(Stage):
    def forward(self, image):
        return self.gives(self.mix(image.mean((2, 3))))


class Anything(Stage):
    def forward(self, *features):
        return self.gives(*features)


class Nothing(Stage):
    def forward(self):
        return self.mix.bias


def logits(x):
    return x


def features(x):
    return {"x": x}


def both(x):
    return {"logits": x, "x": x * 2}


def exits(to="b", at=0.5):
    return {"to": ["answer", to], "by": {"rule": "threshold", "of": "confidence", "at": at}}


def largest(*to, of="gate"):
    return {"to": list(to), "by": {"rule": "largest", "of": of}}


A = {"a": First(features), "b": Reads(logits)}
GATED = {
    "a": First(lambda x: {"x": x, "gate": x[:, :2]}),
    "b": Reads(logits),
    "c": Reads(logits),
    "d": Reads(logits),
}
DONE = {"b": "answer", "c": "answer", "d": "answer"}


@pytest.mark.parametrize(
    ("stages", "routes", "message"),
    [
        (A, {"a": "z", "b": "answer"}, "stage 'a' leads to 'z', which is no stage"),
        (A, {"a": "b", "b": "a"}, "stage 'b' leads back to 'a', expected a later stage"),
        (A, {"a": "b"}, "routes() says nothing of stage 'b'; expected where its samples go"),
        (A, {"a": "b", "b": "answer", "z": "b"}, "routes() says where 'z' leads, which is no stage"),
        (
            {**A, "c": Reads(logits)},
            {"a": "b", "b": "answer", "c": "answer"},
            "stage 'c' is reached by no route",
        ),
        (A, {"a": exits(), "b": "answer"}, "stage 'a' goes by confidence, but gives no answer"),
        (A, {"a": "answer", "b": "answer"}, "stage 'a' is left without an answer"),
        (A, {"a": largest("b", "answer"), "b": "answer"}, "stage 'a' goes by 'gate', which is not given"),
        (
            GATED,
            {"a": largest("b", "c", "d"), **DONE},
            "of stage 'a' looks at, 'gate': expected 3 numbers, got [2]",
        ),
        (
            GATED,
            {
                "a": {"to": ["b", "c"], "by": {"rule": "threshold", "of": "gate", "at": 0, "column": 2}},
                "b": "d",
                "c": "d",
                "d": "answer",
            },
            "of stage 'a' looks at, 'gate': expected column 2, got [2]",
        ),
        (
            {"a": First(both), "b": Reads(lambda x: {"y": x + 1}), "c": Reads(logits), "d": Reads(logits)},
            {"a": exits("b"), "b": "c", "c": exits("d"), "d": "answer"},
            "stage 'b' gives 'y', which nobody reads; leave it out",
        ),
        (
            {"a": First(both), "b": First(features), "c": Reads(logits)},
            {
                "start": {"to": ["a", "c"], "by": {"rule": "setting", "name": "s"}},
                "a": "b",
                "b": "c",
                "c": "answer",
            },
            "Told: the start goes by 's', which is no setting",
        ),
        (
            {"a": First(both), "b": Reads(lambda x: {"logits": x, "x": x[:, :2]}), "c": Reads(logits)},
            {"a": "b", "b": "c", "c": "answer"},
            "'x' of stage 'b' is [2, 2], that of stage 'a' is [2, 5]; expected one shape",
        ),
        ({"a": First(logits), "b": Reads(logits)}, None, "stage 'b' reads 'x', which no earlier stage gives"),
        (A, None, "stage 'a' gives no logits; Told has no routes()"),
        ({"a": First(both)}, None, "stage 'a' gives 'x', which nobody reads"),
        (
            {"a": First(lambda x: (x, x))},
            None,
            "stage 'a' gives a tuple; expected logits, or tensors by name",
        ),
        ({"a": First(lambda x: {"logits": x, "image": x})}, None, "a tensor called 'image', which is taken"),
        ({"a": First(lambda x: {"logits": x, 5: x})}, None, "gives a tensor called 5; expected a name"),
        (
            {"a": First(lambda x: x[:, :3])},
            None,
            "stage 'a' gives logits [2, 3] for 2 images, expected [2, 5]",
        ),
        (
            {"a": First(lambda x: {"x": x.long()})},
            None,
            "'x' of stage 'a' is torch.int64 [2, 5]; expected float32",
        ),
        ({"a": First(lambda x: x.nothing)}, None, "stage 'a' failed on image: AttributeError"),
        ({"a": Anything(logits)}, None, "stage 'a': forward(*features) does not name the tensors"),
        ({"a": Nothing(logits)}, None, "stage 'a' reads nothing; expected the image"),
        (
            {"a b": First(logits)},
            None,
            "stage 'a b': expected a name that is letters, digits, _ - or . inside, for its file",
        ),
        ({"answer": First(logits)}, None, "stage 'answer': expected another name"),
        ({"a": First(logits), "A": First(logits)}, None, "stages 'a' and 'A' differ in capitals only"),
        (
            {f"s{k}": First(logits) for k in range(17)},
            None,
            "stages() returned 17 modules; a bundle has at most 16",
        ),
        (A, {"a": 5, "b": "answer"}, "Told: routes['a']: expected an object, got 5"),
        (
            A,
            {"a": {"to": ["b"], "by": {"rule": "best"}}, "b": "answer"},
            "routes['a'].by.rule: expected always or",
        ),
        (A, {"a": {"to": "b"}, "b": "answer"}, "routes['a'].to: expected a list, got 'b'"),
        (A, {"a": torch.zeros(1), "b": "answer"}, "routes() of Told failed, or is no plain data: TypeError"),
    ],
)
def test_what_cannot_be_gone_is_refused_by_name(stages, routes, message):
    network = Told(stages, routes)
    with pytest.raises(ModelError, match=re.escape(message)) as told:
        read(network)
    assert len(str(told.value)) < 1000
    assert "\n" not in str(told.value)


class Told(nn.Module):
    """Says of itself what it is told."""

    def __init__(self, stages, routes):
        super().__init__()
        self.said = stages
        if routes is not None:
            self.routes = lambda: routes

    def stages(self):
        return self.said


def test_a_tensor_must_be_given_on_every_way():
    """It is called by its name, and so is the stage."""
    stages = {
        "a": First(lambda x: {"x": x, "gate": x[:, :2]}),
        "b": Reads(lambda x: {"y": x}),
        "c": ReadsMore(logits),
    }
    with pytest.raises(ModelError, match="Told: stage 'c' reads 'y', which is not given on every way there"):
        read(Told(stages, {"a": largest("b", "c"), "b": "c", "c": "answer"}))


@pytest.mark.parametrize("options", [{}, {"gather": True}, {"precision": "float16"}])
def test_what_a_stage_reads_it_computes_with(tmp_path, options):
    stages = {"a": First(both), "b": Reads(lambda x: {"logits": x, "y": x}), "c": ReadsInVain(logits)}
    with pytest.raises(ModelError, match="stage 'c' reads 'y', and computes nothing with it; leave it out"):
        export_to(tmp_path / "b", read(Told(stages, None)), **options)


class ReadsInVain(Stage):
    def forward(self, x, y):
        return self.gives(x)


class ReadsMore(Stage):
    def forward(self, x, y):
        return self.gives(x + y)


def test_settings_are_gone_by_or_refused():
    network = Told({"a": First(logits)}, {"a": "answer"})
    network.settings = lambda: {"width": {"choices": ["half"], "default": "half"}}
    with pytest.raises(ModelError, match="Told: no route goes by the setting 'width'"):
        read(network)
    network.settings = lambda: {"width": {"choices": ["half"], "default": "full"}}
    with pytest.raises(ModelError, match=r"settings\['width'\]: the default 'full' is none of the choices"):
        read(network)
    del network.routes
    network.settings = lambda: {"width": {"choices": ["half"], "default": "half"}}
    with pytest.raises(ModelError, match=r"Told has settings\(\) and no routes\(\) that go by them"):
        read(network)


def test_only_methods_say_where_samples_go(tmp_path):
    """A layer or a record may be called so."""
    network = Told([First(logits)], None)
    network.routes, network.settings = nn.ModuleList([nn.Linear(1, 1)]), {"width": 5}
    assert read(network).flow is None
    network.said = {"a": First(logits)}
    assert export_to(tmp_path / "b", read(network)).manifest.settings == {}


def test_routes_go_with_names():
    network = Told([First(logits)], {"a": "answer"})
    with pytest.raises(ModelError, match=r"has routes\(\), which go by names of stages; expected stages\(\)"):
        read(network)
