"""A bundle is refused for whatever does not fit, and is there as a whole or not at all."""

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import jsonschema
import numpy as np
import onnx
from click.testing import CliRunner
from exports import chain_from, export_to
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle import manifest as manifest_module
from s2dnas_deploy.bundle.bundle import is_bundle, load_bundle, own_static, static_beside, verify_bundle
from s2dnas_deploy.bundle.entries import MAX_STAGES
from s2dnas_deploy.bundle.exits import USUAL_RULE
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.saving import OLD, check_replaceable, save_bundle
from s2dnas_deploy.cli import inspect
from s2dnas_deploy.errors import BundleError, OptionError
from s2dnas_deploy.files.atomic import exchange
from s2dnas_deploy.files.onnx_file import read_signature
from s2dnas_deploy.files.schema import schema_of

SCHEMA = json.loads(Path(manifest_module.__file__).with_name("manifest.schema.json").read_text())


@pytest.fixture(scope="module")
def chain():
    static = residual()
    return chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))


@pytest.fixture(scope="module")
def exported(chain, tmp_path_factory):
    return export_to(tmp_path_factory.mktemp("bundles") / "whole", chain, single_file=True).folder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def refused(folder: Path, reason: str) -> None:
    """By loading, and by `s2dnas-inspect --verify` with exit code 3; each says why."""
    with pytest.raises(BundleError, match=reason):
        load_bundle(folder)
    for options in ([], ["--verify"]):
        result = CliRunner().invoke(inspect, [str(folder), *options])
        assert result.exit_code == 3, result.output
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.output


def resum(folder: Path) -> None:
    """What someone would do who wants a changed bundle to pass."""
    names = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    sums = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names if (folder / n).is_file()}
    (folder / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))


def edit(folder: Path, change) -> None:
    """Change the manifest, and make the sums fit."""
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    resum(folder)


def replace_graph(folder: Path, name: str, content: bytes) -> None:
    """Put another graph in place, and make manifest and sums fit."""
    (folder / name).write_bytes(content)

    def change(document):
        for stage in document["stages"]:
            if stage["graph"]["file"] == name:
                stage["graph"]["sha256"] = hashlib.sha256(content).hexdigest()
                stage["graph"]["size_bytes"] = len(content)

    edit(folder, change)


# --- whole -------------------------------------------------------------------------------------------------


def test_an_exported_bundle_loads_and_verifies(exported):
    bundle = verify_bundle(exported)
    assert is_bundle(exported)
    assert len(bundle.graphs) == 3
    assert bundle.graphs[1] == (exported / "stage_1.onnx").read_bytes()
    result = CliRunner().invoke(inspect, [str(exported), "--verify"])
    assert result.exit_code == 0
    assert "bundle of 3 stages" in result.stdout
    assert (
        Manifest.from_json(CliRunner().invoke(inspect, [str(exported), "--json"]).stdout) == bundle.manifest
    )


def test_sums_are_what_sha256sum_writes(exported):
    result = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=exported, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr
    listed = {line.split("  ")[1] for line in (exported / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in exported.iterdir()} - {"SHA256SUMS"}


def test_the_manifest_fits_its_schema_and_comes_back_equal(exported):
    text = (exported / "manifest.json").read_text()
    made = schema_of(manifest_module.FORM, SCHEMA["title"])
    assert made == SCHEMA, "write it anew: .ci/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(text), SCHEMA)
    manifest = Manifest.from_json(text)
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=3),
        lambda d: d.update(labels=[]),
        lambda d: d["stages"][0]["graph"].update(file="../stage_0.onnx"),
        lambda d: d["stages"][0]["graph"].update(sha256="0"),
        lambda d: d["stages"][0]["exit"].update(rule="hope"),
        lambda d: d["stages"][0]["exit"].update(temperature=0),
        lambda d: tensor(d).update(shape=[0]),
        lambda d: tensor(d).update(type="float64"),
        lambda d: d["stages"][1].pop("reads"),
        lambda d: d.update(precision="int4"),
        lambda d: d["preprocessing"].update(std=[0, 1, 1]),
        lambda d: d["preprocessing"].update(resize="crop:0.3"),
        lambda d: d["stages"][0]["then"]["by"].update(rule="hope"),
        lambda d: d["stages"][0]["then"]["by"].pop("at"),
        lambda d: d["stages"][0]["then"]["by"].update(column=-1),
        lambda d: d["stages"][0]["then"].update(to=[]),
        lambda d: d["stages"][0].pop("then"),
        lambda d: d["start"]["by"].update(unknown=1),
        lambda d: d["settings"].update(width={"choices": [], "default": "half", "macs": None}),
        lambda d: d.update(name="a\x1b[2J"),
        lambda d: d.update(name=""),
        lambda d: d.update(unknown=1),
        lambda d: d["labels"].append("b\x07"),
        lambda d: d["labels"].append("b" * 1001),
        lambda d: d.update(stages=d["stages"] * 6),
        lambda d: d["stages"][0].update(macs=-1),
        lambda d: d["stages"][0].update(macs=2**62 + 1),
        lambda d: d["stages"][0]["graph"].update(size_bytes=2**40),
        lambda d: d["stages"][0]["graph"].update(size_bytes=0),
        lambda d: d["preprocessing"].update(input_shape=[3, 2**30, 8]),
        lambda d: tensor(d).update(shape=[2**40]),
        lambda d: tensor(d).update(shape=[1] * 9),
        lambda d: d.update(expected=expected(images=0)),
        lambda d: d.update(expected=expected(cascade_accuracy=1.5)),
        lambda d: d.update(expected=expected(exit_accuracy=[0.5, -0.1, 0.5])),
        lambda d: d.update(expected=expected(exit_share=[0.5, 0.5, 1.1])),
        lambda d: d.update(expected=expected(mean_macs=-1)),
        lambda d: d.update(promise=promise(images=0)),
        lambda d: d.update(promise=promise(probability=1.5)),
        lambda d: d.update(promise=promise(max_drop=-2)),
        lambda d: d.update(promise=promise(observed_drop=2)),
        lambda d: d.update(promise=promise(statement="")),
        lambda d: d["tools"].update({"a\x07": "1"}),
        lambda d: d["sources"].update(a=1),
        lambda d: d["stages"][0]["exit"].pop("calibrated"),
        lambda d: d.pop("promise"),
    ],
)
def test_schema_and_loader_refuse_alike(exported, change):
    document = json.loads((exported / "manifest.json").read_text())
    change(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
    with pytest.raises(BundleError):
        Manifest.from_json(json.dumps(document))


def tensor(document):
    return next(iter(document["tensors"].values()))


def last(document):
    return document["stages"][2]["then"]


def picks_rows(stage):
    stage["rows"] = {"rows_0": stage["reads"]}


def setting(name):
    return {"rule": "setting", "name": name}


def test_a_bundle_has_as_many_stages_as_a_plan_may_have():
    assert MAX_STAGES == plans.MAX_STAGES


def expected(**changes):
    whole = {"images": 9, "exit_accuracy": [0.5] * 3, "exit_share": [0.5, 0.5, 0], "cascade_accuracy": 0.5}
    return {**whole, "mean_macs": 1.5, **changes}


def promise(**changes):
    about = {"statement": "As good.", "images": 9, "max_drop": None, "probability": None}
    return {**about, "observed_drop": 0, "other_answers": None, **changes}


def test_what_is_expected_and_promised_is_read(exported):
    document = json.loads((exported / "manifest.json").read_text())
    document |= {"expected": expected(), "promise": promise()}
    jsonschema.validate(document, SCHEMA)
    assert Manifest.from_json(json.dumps(document)).promise.statement == "As good."


# --- damaged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["stage_0.onnx", "stage_2.onnx", "manifest.json", "labels.txt", "SHA256SUMS"]
)
def test_a_flipped_byte_is_found(folder, name):
    content = (folder / name).read_bytes()
    for at in (0, len(content) // 3, len(content) - 2):
        flipped = bytearray(content)
        flipped[at] ^= 1
        (folder / name).write_bytes(flipped)
        with pytest.raises(BundleError):
            verify_bundle(folder)
    if name != "SHA256SUMS":
        refused(folder, name)


def test_a_flipped_byte_in_the_report_is_found_when_verifying(folder):
    (folder / "verification.txt").write_text("all is well\n")
    load_bundle(folder)
    with pytest.raises(BundleError, match=r"verification\.txt"):
        verify_bundle(folder)


@pytest.mark.parametrize(
    "name",
    ["stage_1.onnx", "cascade.onnx", "labels.txt", "manifest.json", "README.md", "verification.txt", "new"],
)
def test_a_file_without_a_sum_is_found_when_verifying(folder, name):
    if name == "new":
        (folder / name).write_bytes(b"put in later")
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")))
    with pytest.raises(BundleError, match=re.escape(name)):
        verify_bundle(folder)
    result = CliRunner().invoke(inspect, [str(folder), "--verify"])
    assert result.exit_code == 3
    assert name in result.stderr


def test_a_file_with_two_sums_is_found_when_verifying(folder):
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write("0" * 64 + "  stage_1.onnx\n")
    with pytest.raises(BundleError, match=r"lists 'stage_1\.onnx' with 2 sums, expected one"):
        verify_bundle(folder)


def test_what_a_killed_calibration_left_half_written_is_no_file_of_the_bundle(folder):
    (folder / ".manifest.json.abcdefgh.part").write_text("half")
    verify_bundle(folder)


def test_a_pipe_in_a_bundle_is_not_waited_for(folder):
    (folder / "stage_1.onnx").unlink()
    os.mkfifo(folder / "stage_1.onnx")
    refused(folder, r"stage_1\.onnx: expected a file, got a pipe")


def test_a_truncated_graph_is_found(folder):
    content = (folder / "stage_1.onnx").read_bytes()
    (folder / "stage_1.onnx").write_bytes(content[: len(content) // 2])
    refused(folder, r"stage_1\.onnx has \d+ bytes, expected")


def test_a_truncated_graph_is_found_even_if_the_sums_fit(folder):
    content = (folder / "stage_1.onnx").read_bytes()
    replace_graph(folder, "stage_1.onnx", content[: len(content) // 2])
    refused(folder, "truncated or damaged")


def test_what_is_no_onnx_file_is_refused(folder):
    replace_graph(folder, "stage_1.onnx", b"MZ" + bytes(1000))
    refused(folder, r"stage_1\.onnx")


@pytest.mark.parametrize("name", ["stage_1.onnx", "labels.txt", "SHA256SUMS", "manifest.json"])
def test_a_missing_file_is_found(folder, name):
    (folder / name).unlink()
    refused(folder, name)


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_an_unknown_version_is_refused(folder, version):
    edit(folder, lambda d: d.update(version=version))
    refused(folder, "version: expected 2, which this release reads, got .*; update s2dnas_deploy, or write")


@pytest.mark.parametrize(
    "path", ["../stage_0.onnx", "/etc/passwd.onnx", "a/b.onnx", "..", ".hidden.onnx", "a\\b.onnx"]
)
def test_a_path_out_of_the_folder_is_refused(folder, path):
    edit(folder, lambda d: d["stages"][0]["graph"].update(file=path))
    refused(folder, "a plain name ending in .onnx")


def test_sums_may_not_lead_out_of_the_folder(folder):
    with (folder / "SHA256SUMS").open("a") as stream:
        stream.write("0" * 64 + "  ../secret\n")
    refused(folder, "plain file name")


def test_a_link_is_refused(folder, exported):
    (folder / "stage_0.onnx").unlink()
    (folder / "stage_0.onnx").symlink_to(exported / "stage_0.onnx")
    refused(folder, r"stage_0\.onnx: .* no plain file; cp -rL copies a bundle with what its links lead to")


def test_a_file_that_was_not_exported_is_named_to_be_removed(folder):
    (folder / ".DS_Store").touch()
    with pytest.raises(BundleError, match=r"'\.DS_Store' is not listed in SHA256SUMS, .*; remove it"):
        verify_bundle(folder)


def test_data_in_another_file_is_refused(folder):
    model = onnx.load_model(folder / "stage_0.onnx")
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    replace_graph(folder, "stage_0.onnx", model.SerializeToString())
    refused(folder, "refers to data in another file")


def test_data_in_another_file_is_refused_wherever_it_hides():
    def external(name):
        tensor = onnx.numpy_helper.from_array(np.zeros(2, dtype=np.float32), name)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="x")
        return tensor

    value = onnx.helper.make_tensor_value_info("y", 1, [2])
    constant = onnx.helper.make_node("Constant", [], ["y"], value=external("c"))
    inner = onnx.helper.make_graph([constant], "inner", [], [value])
    branch = onnx.helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)
    condition = onnx.helper.make_tensor_value_info("b", onnx.TensorProto.BOOL, [1])
    for graph in (
        onnx.helper.make_graph([constant], "g", [], [value]),
        onnx.helper.make_graph([branch], "g", [condition], [value]),
        onnx.helper.make_graph([], "g", [], [value], [external("y")]),
    ):
        with pytest.raises(BundleError, match="another file"):
            read_signature(onnx.helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: tensor(d).update(shape=[1, 1, 1]), r"the manifest says float32 \[N, 1, 1, 1\]"),
        (
            lambda d: d["preprocessing"].update(input_shape=[3, 9, 9]),
            r"input 'image' is uint8 \[N, 8, 8, 3\]",
        ),
        (lambda d: d.update(image_type="float32"), "input 'image' is uint8"),
        (
            lambda d: d["stages"][1]["rows"].update(rows_0=["image"]),
            "rows: expected every tensor",
        ),
        (
            lambda d: picks_rows(d["stages"][1]),
            "stage 'stage_2', to which samples come from",
        ),
        (lambda d: last(d).update(to=["answer", "answer"]), "leads to 2 places, its rule to 1"),
        (
            lambda d: d["stages"][0]["then"].update(to=["answer", "none"]),
            "leads to 'none', which is no",
        ),
        (
            lambda d: d["stages"][0].update(exit=None),
            "'stage_0' goes by confidence, but gives no answer",
        ),
        (lambda d: d["stages"].reverse(), "leads back to 'stage_2', expected a later stage"),
        (lambda d: d["stages"][0]["gives"].pop(), "tensors: expected all that stages give, and nothing else"),
        (
            lambda d: d["stages"][0].update(reads=["stage1/relu"]),
            "reads 'stage1/relu', which is not",
        ),
        (lambda d: d["stages"][0]["outputs"].update(x="y"), "outputs: expected tensors that it gives"),
        (
            lambda d: d["stages"][1]["then"].update(by=setting("width")),
            "'width', which is no setting",
        ),
        (
            lambda d: d["stages"][0]["then"]["by"].update(of="probabilities"),
            "expected one number, or",
        ),
        (lambda d: d["tensors"].update(image=tensor(d)), "tensors: expected names that are not taken"),
        (lambda d: d["stages"][1].update(name="stage_0"), "no two stages may be called alike"),
        (lambda d: d["stages"][0].update(name="answer"), "no two stages may be called alike"),
        (lambda d: d["labels"].append("one more"), "other labels"),
        (lambda d: d.update(labels=["a"] * 5), "labels: expected no name twice"),
        (lambda d: d["stages"][0].update(macs="many"), "stages.0..macs: expected a whole number, got 'many'"),
        (lambda d: d.pop("stages"), 'expected "stages" among the keys'),
        (lambda d: [stage.update(macs=0) for stage in d["stages"]], "MACs of all stages: expected 1 to"),
        (lambda d: [stage.update(macs=2**62) for stage in d["stages"]], "MACs of all stages: expected 1 to"),
        (lambda d: d["stages"][0].update(macs=10**309), "expected whole numbers of 64 bits"),
        (lambda d: d["stages"][1]["reads"].extend(d["stages"][1]["reads"][:1]), "no tensor twice"),
        (lambda d: d["stages"][0]["then"]["by"].update(at=float("inf")), "finite, got Infinity"),
        (lambda d: d["stages"][0]["exit"].update(temperature=float("nan")), "finite, got NaN"),
        (lambda d: d["preprocessing"].update(mean=[float("nan")] * 3), "finite, got NaN"),
        (lambda d: d.update(name="\ud800"), "half of one"),
        (lambda d: d["tools"].update({"\ud800": "1"}), "half of one"),
        (lambda d: d.update(name="x" * 1_000_000), "text of 1,000,000 characters"),
        (
            lambda d: [each.update(shape=[2**28]) for each in d["tensors"].values()],
            "numbers in all tensors: expected at",
        ),
        (lambda d: d.update(single_file=d["stages"][0]["graph"]), "a file for each stage"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder, change, reason):
    edit(folder, change)
    refused(folder, reason)


def test_shapes_are_compared_with_the_graphs(folder):
    edit(folder, lambda document: tensor(document).update(shape=[99, 8, 8]))
    refused(folder, r"stage_0\.onnx: output 'stage0/.*the manifest says float32 \[N, 99, 8, 8\]")


def test_a_manifest_made_in_code_is_held_to_the_same_bounds(exported):
    manifest = load_bundle(exported).manifest
    for changes in (
        {"name": "a\x1b"},
        {"labels": ()},
        {"labels": ("a\n", "b")},
        {"stages": manifest.stages[:1] * 17},
        {"stages": tuple(replace(stage, macs=0) for stage in manifest.stages)},
    ):
        with pytest.raises(BundleError):
            replace(manifest, **changes)
    with pytest.raises(BundleError):
        replace(manifest.stages[0].exit, temperature=float("nan"))
    for at in (float("inf"), float("nan"), "high"):
        with pytest.raises(BundleError):
            replace(manifest.stages[0].then.by, at=at)


def test_what_is_no_manifest_is_refused(folder):
    for content in (
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"format": "other"}',
        b"[" * 100_000,
        b'{"format": 1, "format": 2}',
    ):
        (folder / "manifest.json").write_bytes(content)
        resum(folder)
        refused(folder, "manifest")


# --- written -----------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_bundle_is_not_overwritten(chain, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(OptionError, match="no bundle, and is not overwritten"):
        export_to(tmp_path / "photos", chain)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OptionError, match="no folder"):
        export_to(tmp_path / "file", chain)


def test_a_bundle_is_replaced_and_an_empty_folder_filled(chain, tmp_path):
    (tmp_path / "out").mkdir()
    first = export_to(tmp_path / "out", chain)
    second = export_to(tmp_path / "out", chain, rule="margin")
    assert first.manifest.stages[0].exit.rule == USUAL_RULE
    assert second.manifest.stages[0].exit.rule == "margin"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_bundle_with_something_else_in_it_is_not_replaced(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"notes\.txt"):
        check_replaceable(folder)


def test_what_a_killed_export_left_is_removed_by_the_next(chain, tmp_path):
    (tmp_path / ".out.abc.part").mkdir()
    (tmp_path / ".out.abc.part" / "stage_0.onnx").write_text("half")
    anothers = tmp_path / ".out.int8.abc.part"  # killed where it had moved the bundle out.int8 aside
    (anothers / OLD).mkdir(parents=True)
    export_to(tmp_path / "out", chain)
    assert sorted(path.name for path in tmp_path.iterdir()) == [anothers.name, "out"]
    assert (anothers / OLD).exists()


_REPLACING = """
import sys
from pathlib import Path
from s2dnas_deploy.bundle import saving
if sys.argv[1] == "without exchange":
    saving.exchange = lambda one, other: False
bundles = [
    {path.name: path.read_bytes() for path in Path(each).iterdir() if path.name != "SHA256SUMS"}
    for each in sys.argv[3:]
]
print("ready", flush=True)
while True:
    for files in bundles:
        saving.save_bundle(files, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("how", ["with exchange", "without exchange"])
def test_who_reads_while_exports_replace_a_bundle_always_finds_one(chain, exported, tmp_path, how):
    other = export_to(tmp_path / "other", chain, rule="margin")
    shutil.copytree(exported, tmp_path / "out")
    known = {load_bundle(exported).manifest.to_json(): 0, other.manifest.to_json(): 0}
    words = [sys.executable, "-c", _REPLACING, how, tmp_path / "out", exported, other.folder]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        for look in range(50):
            read = load_bundle if look % 3 else verify_bundle
            known[read(tmp_path / "out").manifest.to_json()] += 1
        assert process.poll() is None
        process.kill()
    assert all(known.values()), known.values()


def test_two_folders_change_places_in_one_step_where_the_system_can(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    if not exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this system cannot")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "missing")


def test_a_bundle_that_is_not_there_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("s2dnas_deploy.bundle.bundle._LONGEST_REPLACING", 60)
    begun = time.monotonic()
    with pytest.raises(BundleError, match="there is no such folder"):
        load_bundle(tmp_path / "out")
    assert time.monotonic() - begun < 30
    monkeypatch.setattr("s2dnas_deploy.bundle.bundle._LONGEST_REPLACING", 0.1)
    (tmp_path / ".out.abcdefgh.part").mkdir()  # of an export that was killed: it may be one that still runs
    with pytest.raises(BundleError, match="there is no such folder"):
        load_bundle(tmp_path / "out")


def test_a_full_disk_is_told_of_the_bundle_and_nothing_is_left(exported, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("s2dnas_deploy.bundle.saving._write", full)
    with pytest.raises(OSError, match="the bundle cannot be written: No space left on device") as caught:
        save_bundle({"manifest.json": b"{}"}, tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_kill_at_random_moments_leaves_no_half_bundle(tmp_path):
    """Twenty exports, killed between the first moment of writing and the end, over one another."""
    script = tmp_path / "work.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from exports import chain_from, export_to\n"
        "from small_networks import residual\n"
        "from s2dnas_deploy import plan as plans\n"
        "static = residual()\n"
        "chain = chain_from(static, plans.from_text('uniform:0.5,0.5', static.divisible.space))\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        f"    export_to(Path({str(tmp_path / 'out')!r}), chain)\n"
        "    print('done', flush=True)\n"
    )
    rng = np.random.default_rng(0)
    whole = 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if (tmp_path / "out").exists():
            verify_bundle(tmp_path / "out")
            whole += 1
    assert whole > 0
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".out.")} == {
        "work.py",
        "out",
    }


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300, "\x1b[2J", ".."])
def test_a_name_that_no_file_of_a_bundle_has_is_refused(folder, name):
    with (folder / "SHA256SUMS").open("a") as stream:
        stream.write(f"{'0' * 64}  {name}\n")
    refused(folder, "no sha256 and a plain file name|is not listed|missing")


def test_a_static_network_of_any_size_is_looked_at_piece_by_piece(folder):
    beside = static_beside(folder)
    with beside.open("wb") as stream:
        stream.truncate(2**28)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    manifest = load_bundle(folder).manifest
    assert own_static(folder, replace(manifest, sources={"static": "sha256:0"})) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # kilobytes
    beside.unlink()
