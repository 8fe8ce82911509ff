"""`--sign` and `--trust` from the command line: who signed what, and what is refused with which exit code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")

from exports import model_of
from keys import key_pair
from scored_bundle import images_of, scored_bundle
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.bundle import load_bundle
from s2dnas_deploy.bundle.device_profile import PROBES
from s2dnas_deploy.bundle.signature import SIGNATURE
from s2dnas_deploy.cli import bench, calibrate, export, inspect
from s2dnas_deploy.cli import run as classify
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.workshop.network.model_file import save_model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with keys, a model.pt, its signed bundle, and images that its last exit is right about."""
    root = tmp_path_factory.mktemp("made")
    private, _ = key_pair(root)
    static = residual()
    model = model_of(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    save_model(model, root / "model.pt")
    done = command(export, root / "model.pt", "--out", root / "bundle", "--sign", private, "--quiet")
    assert done.exit_code == 0, done.output
    images = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    with Cascade.load(root / "bundle", provider="cpu", threads=1) as cascade:
        said = cascade.predict(images, thresholds=(2, 2)).label
    np.savez(root / "images.npz", images=images, labels=said)
    return root


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    """A copy of all that to work in."""
    monkeypatch.delenv("S2DNAS_TRUST", raising=False)
    monkeypatch.delenv("S2DNAS_KEY_PASSWORD", raising=False)
    copy = Path(shutil.copytree(made, tmp_path / "made"))
    monkeypatch.chdir(copy)
    return copy


def command(entry, *arguments: object) -> Result:
    return CliRunner().invoke(entry, [str(argument) for argument in arguments])


def run(*arguments: object) -> Result:
    return command(classify, "--bundle", "bundle", "--provider", "cpu", "images.npz", *arguments)


def test_what_is_exported_signed_runs_where_its_key_is_trusted(folder):
    assert load_bundle("bundle", "key.pub").trust == folder / "key.pub"
    done = run("--trust", "key.pub")
    assert done.exit_code == 0, done.output
    assert done.stdout == run().stdout
    shown = command(inspect, "bundle", "--trust", "key.pub", "--verify")
    assert shown.exit_code == 0
    assert "signed by the owner of key.pub: every file is as it was signed" in shown.stderr


def forged(folder: Path) -> None:
    (folder / "bundle" / "labels.txt").write_text("a\nb\nc\nd\ne\n")


def crowded(folder: Path) -> None:
    (folder / "bundle" / "more.onnx").touch()


def unsigned(folder: Path) -> None:
    (folder / "bundle" / SIGNATURE).unlink()


def cut(folder: Path) -> None:
    (folder / "bundle" / SIGNATURE).write_text("{")


def signed_by_another(folder: Path) -> None:
    private, _ = key_pair(folder, "another")
    done = command(export, "model.pt", "--out", "bundle", "--sign", private, "--quiet")
    assert done.exit_code == 0, done.output


def trusting_nothing(folder: Path) -> None:
    (folder / "key.pub").write_text("no key\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (forged, "labels.txt is not the file that was signed"),
        (crowded, "it holds 'more.onnx', which is not signed"),
        (unsigned, "it is not signed, for it has no bundle.sig"),
        (cut, "bundle.sig is damaged"),
        (signed_by_another, "bundle.sig is not by the key"),
        (trusting_nothing, "expected a public key to trust"),
    ],
)
def test_every_command_refuses_what_is_not_signed_before_any_graph_is_run(
    folder, monkeypatch, change, reason
):
    change(folder)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("it was run"))
    images = ("--data", "images.npz", "--noise")
    for done in (
        run("--trust", "key.pub"),
        command(calibrate, "--bundle", "bundle", "images.npz", "--trust", "key.pub"),
        command(inspect, "bundle", "--trust", "key.pub"),
        command(bench, "bundle", *images, "--trust", "key.pub"),
    ):
        assert done.exit_code == 3, done.output
        assert reason in done.stderr
        assert done.stderr.startswith("error: bundle ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_the_environment_says_whom_to_trust(folder, monkeypatch):
    monkeypatch.setenv("S2DNAS_TRUST", "key.pub")
    assert run().exit_code == 0
    unsigned(folder)
    for done in (
        run(),
        command(calibrate, "--bundle", "bundle", "images.npz"),
        command(inspect, "bundle"),
        command(bench, "bundle", "--data", "images.npz"),
        command(bench, "measure", "--bundle", "bundle", "--data", "images.npz"),
    ):
        assert done.exit_code == 3, done.output
        assert "it is not signed" in done.stderr
    assert command(inspect, "model.pt").exit_code == 0  # which is no bundle


def test_loads_are_not_put_on_what_is_not_signed(folder):
    pytest.importorskip("mlperf_loadgen")
    unsigned(folder)
    done = command(bench, "load", "bundle", "--data", "images.npz", "--noise", "--trust", "key.pub")
    assert done.exit_code == 3, done.output
    assert "it is not signed" in done.stderr


def test_what_nobody_signs_is_not_taken_for_signed(folder):
    done = command(inspect, "model.pt", "--trust", "key.pub")
    assert done.exit_code == 2
    assert "--trust is for a bundle" in done.stderr
    (folder / "probes").mkdir()
    (folder / "probes" / PROBES).touch()
    done = command(bench, "probes", "--out", "device.json", "--trust", "key.pub")
    assert done.exit_code == 3
    assert "probes holds probes, which nobody signs" in done.stderr


def test_calibration_ends_a_signature_and_says_so_before_and_after(folder):
    arguments = ("--bundle", "bundle", "images.npz", "--max-drop", "2%", "--provider", "cpu")
    done = command(calibrate, *arguments, "--dry-run")
    assert "is signed" not in done.stderr
    load_bundle("bundle", "key.pub")
    done = command(calibrate, *arguments)
    assert done.exit_code == 0, done.output
    before, _, after = done.stderr.partition("choosing thresholds")
    assert "bundle is signed: other thresholds end that, unless --sign signs them" in before
    assert "written to bundle, which is no longer signed: --sign signs it" in after
    assert not Path("bundle", SIGNATURE).exists()
    done = command(calibrate, *arguments, "--sign", "key.pem")
    assert done.exit_code == 0, done.output
    assert "no longer signed" not in done.stderr
    assert load_bundle("bundle", "key.pub").manifest.promise is not None
    done = command(calibrate, *arguments, "--trust", "key.pub", "--sign", "key.pem", "--quiet")
    assert done.exit_code == 0, done.output
    load_bundle("bundle", "key.pub")


def test_an_export_without_a_key_over_a_signed_bundle_says_so(folder):
    done = command(export, "model.pt", "--out", "bundle")
    assert done.exit_code == 0, done.output
    assert "bundle was signed: the new one is not (give --sign)" in done.stderr
    assert not Path("bundle", SIGNATURE).exists()


def test_a_key_that_cannot_sign_is_refused_before_the_work(folder):
    key_pair(folder, "rsa", "rsa")
    key_pair(folder, "encrypted", "p256", "open")
    os.mkfifo("pipe.pem")
    for key, reason in (
        ("rsa.pem", "expected a private key to sign with"),
        ("encrypted.pem", "put its password into $S2DNAS_KEY_PASSWORD"),
        ("nowhere.pem", "found no file nowhere.pem"),
        ("pipe.pem", "which pipe.pem is not: expected a file, got a pipe"),
    ):
        for done in (
            command(export, "model.pt", "--out", "other", "--sign", key),
            command(calibrate, "--bundle", "bundle", "images.npz", "--sign", key),
        ):
            assert done.exit_code == 2, done.output
            assert reason in done.stderr
            assert done.stderr.count("\n") == 1
    assert not Path("other").exists()
    done = command(calibrate, "--bundle", "bundle", "images.npz", "--sign", "key.pem", "--dry-run")
    assert done.exit_code == 2
    assert "leave --sign out" in done.stderr


def test_without_the_extra_a_trust_in_the_environment_runs_nothing(folder, monkeypatch):
    loaded = [name for name in sys.modules if name.partition(".")[0] == "model_signing"]
    for name in ("model_signing", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("S2DNAS_TRUST", "key.pub")
    for done in (run(), command(inspect, "bundle"), command(bench, "bundle", "--data", "images.npz")):
        assert done.exit_code == 1
        assert "pip install -e '.[signing]'" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    done = command(export, "model.pt", "--out", "other", "--sign", "key.pem")
    assert done.exit_code == 1
    assert "pip install -e '.[signing]'" in done.stderr


@pytest.mark.slow
def test_the_page_about_trust_can_be_followed(folder):
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 3
    shutil.rmtree("bundle")
    Path("held-out").mkdir()
    Path("images.npz").rename("held-out/validation.npz")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", "\n".join(blocks)],
        input="a password\n",
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0
    load_bundle("bundle", "bundle.pub")


def test_an_empty_variable_is_no_consent(tmp_path):
    scored_bundle(tmp_path / "b")
    images = tmp_path / "images.npz"
    np.savez(images, images=images_of(np.full((2, 3), 0.9)))
    words = ["--bundle", str(tmp_path / "b"), str(images)]
    for given in ({"env": {"S2DNAS_TRUST": ""}}, {"args": [*words, "--trust", ""]}):
        result = CliRunner().invoke(classify, **{"args": words, **given})
        assert result.exit_code == 2, result.output
        assert "expected the file of a public key, got none" in result.stderr
    missing = CliRunner().invoke(classify, [*words, "--trust", str(tmp_path / "none.pub")])
    assert missing.exit_code == 3
    assert "found no file" in missing.stderr


def test_answers_are_not_written_into_the_bundle(tmp_path):
    bundle = scored_bundle(tmp_path / "b").folder
    images = tmp_path / "images.npz"
    np.savez(images, images=images_of(np.full((2, 3), 0.9)))
    result = CliRunner().invoke(
        classify, ["--bundle", str(bundle), str(images), "--out", str(bundle / "a.csv")]
    )
    assert result.exit_code == 2
    assert "is inside the bundle" in result.stderr
    assert not (bundle / "a.csv").exists()
