"""Bundles that release 0.1.0 has exported are read, and answer as they did there."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from forged import resum

from s2dnas_deploy.bundle.bundle import load_bundle, verify_bundle
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.cli import calibrate, inspect, run
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions.every_stage import StageSession, run_chain

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_1"


@pytest.fixture(params=["chain", "gathers"])
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    return Path(shutil.copytree(FIXTURES / name, tmp_path / "bundle"))


def test_it_answers_as_it_did(name):
    known = np.load(FIXTURES / f"{name}.npz")
    bundle = verify_bundle(FIXTURES / name)
    with Cascade(bundle, provider="cpu", threads=1) as cascade:
        for batch in (1, 7, 40):
            parts = [cascade.predict(known["images"][at : at + batch]) for at in range(0, 40, batch)]
            joined = {
                key: np.concatenate([getattr(part, key) for part in parts])
                for key in ("label", "exit", "confidence")
            }
            assert (joined["label"] == known["label"]).all()
            assert (joined["exit"] == known["exit"]).all()
            np.testing.assert_allclose(joined["confidence"], known["confidence"], rtol=1e-5)
        answers = list(cascade.stream(known["images"], batch=8))
        assert [answer.exit for answer in answers] == known["exit"].tolist()
    # To the bit on one machine: by this machine's sessions, run one after the other by hand.
    every = run_chain([StageSession(graph) for graph in bundle.graphs], known["images"][:7])
    with Cascade(bundle, provider="cpu", threads=1) as cascade:
        for k, answer in enumerate(every):
            said = cascade.predict(known["images"][:7], thresholds=(2, 2), last_stage=k, probabilities=True)
            assert said.confidence.tobytes() == answer.confidence.tobytes()
            assert said.probabilities.tobytes() == answer.probabilities.tobytes()


def test_it_is_told_as_a_chain_and_written_as_this_release_does(folder, name):
    manifest = load_bundle(folder).manifest
    assert manifest.flow.is_chain
    assert manifest.flow.thresholds == (0.2646, 0.2537)
    assert manifest.gathers is (name == "gathers")
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert json.loads(manifest.to_json())["version"] == 2
    told = CliRunner().invoke(inspect, [str(folder), "--verify"])
    assert told.exit_code == 0
    assert "max_prob ≥ 0.2646, not calibrated: answer, else stage_1" in told.stdout


def test_other_thresholds_make_it_a_bundle_of_this_release(folder, name):
    images = str(FIXTURES / f"{name}.npz")
    words = ["--bundle", str(folder), "--unlabelled", "--max-drop", "60%", images]
    result = CliRunner().invoke(calibrate, words)
    assert result.exit_code == 0, result.output
    verify_bundle(folder)
    assert json.loads((folder / "manifest.json").read_text())["version"] == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["stages"][0]["gives"][0].update(shape=[1, 1, 1]), "read by stage 1: expected"),
        (lambda d: d.update(gathers=not d["gathers"]), "rows_0"),
        (lambda d: d["stages"][2]["exit"].update(threshold=0.5), "the threshold of exit 2: expected none"),
        (
            lambda d: d["stages"][0]["exit"].update(threshold=None),
            "threshold of exit 0: expected a number",
        ),
        (lambda d: d["stages"][0].update(gives=[]), "expected what an earlier stage gives"),
        (lambda d: d["stages"][0]["gives"][0].update(name="rows_1"), "expected"),
        (lambda d: d["stages"][0]["gives"][0].update(name="image"), "expected"),
        (lambda d: d["stages"][1]["reads"].extend(d["stages"][1]["reads"][:1]), "no tensor twice"),
        (lambda d: d.update(labels=["a"] * 5), "no name twice"),
        (lambda d: [stage.update(macs=0) for stage in d["stages"]], "MACs of all stages"),
        (lambda d: d.pop("gathers"), 'expected "gathers" among the keys'),
        (lambda d: d.update(start={}), "expected no other keys"),
        (lambda d: d.update(version=True), "version: expected 2"),
    ],
)
def test_what_is_wrong_in_it_is_told(folder, change, reason):
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    resum(folder)
    with pytest.raises(BundleError, match=reason):
        load_bundle(folder)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_run_that_0_1_0_began_is_gone_on_with(folder, name, form, tmp_path):
    images, out = FIXTURES / f"{name}.npz", tmp_path / f"out.{form}"
    words = ["--bundle", str(folder), str(images), "--provider", "cpu", "--threads", "1", "--out", str(out)]
    assert CliRunner().invoke(run, words).exit_code == 0
    whole, manifest = out.read_bytes(), (FIXTURES / name / "manifest.json").read_bytes()
    began = {
        "bundle": hashlib.sha256(manifest).hexdigest(),
        "provider": "cpu",
        "threads": 1,
        "batch": 32,
        "thresholds": None,
        "last_stage": None,
        "probabilities": False,
        "format": form,
        "complete": False,
    }
    (tmp_path / f".out.{form}.run.json").write_text(json.dumps(began))
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:20]))
    resumed = CliRunner().invoke(run, [*words, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert out.read_bytes() == whole
