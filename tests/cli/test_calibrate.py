"""`s2dnas-calibrate` from the command line: thresholds in the bundle, with what they promise."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("torch")

from dying_writes import die_at_write
from exports import chain_from, export_to
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle import saving
from s2dnas_deploy.bundle.bundle import load_bundle, verify_bundle
from s2dnas_deploy.bundle.saving import replace_manifest, save_bundle
from s2dnas_deploy.cli import calibrate as command
from s2dnas_deploy.decide.flow import DONE
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.temperature import at_temperature, calibration_error
from s2dnas_deploy.decide.thresholds import Choice, Goal, Point
from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.atomic import lock_folder
from s2dnas_deploy.runtime.calibrate.calibration import promise_of
from s2dnas_deploy.runtime.cascade import Cascade


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """A bundle of three stages, and 900 images that its last exit mostly classifies as labelled."""
    root = tmp_path_factory.mktemp("made")
    static = residual()
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    export_to(root / "bundle", chain, single_file=True)
    generator = np.random.default_rng(0)
    arrays = generator.integers(0, 256, (900, 8, 8, 3), dtype=np.uint8)
    with Cascade.load(root / "bundle") as cascade:
        said = cascade.predict(arrays, thresholds=(2, 2)).label
    truth = np.where(generator.uniform(size=900) < 0.9, said, (said + 1) % 5)
    for i, (array, label) in enumerate(zip(arrays, truth, strict=True)):
        folder = root / "images" / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{i:03}.png")
    return root / "bundle", root / "images"


@pytest.fixture
def bundle(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "bundle"))


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_thresholds_land_in_the_bundle_with_their_promise(bundle, made, tmp_path):
    plot = tmp_path / "curve.svg"
    result = run("--bundle", bundle, made[1], "--max-drop", "10%", "--plot", plot)
    assert result.exit_code == 0, result.output
    manifest = verify_bundle(bundle).manifest
    first, second, last = (stage.exit for stage in manifest.stages)
    assert (first.calibrated, second.calibrated, last.calibrated) == (True, True, True)
    assert manifest.stages[-1].then == DONE
    assert "always" in result.stdout
    assert manifest.promise.max_drop == pytest.approx(0.1)
    assert manifest.promise.probability == 0.95
    assert manifest.promise.images == 900
    assert manifest.promise.statement in result.stdout
    assert manifest.promise.statement in (bundle / "README.md").read_text()
    assert "| then |" in (bundle / "README.md").read_text()
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    assert "cascade.onnx has its thresholds inside" in result.stderr
    with Cascade.load(bundle) as cascade:
        files = sorted(str(path) for path in made[1].rglob("*.png"))
        said = cascade.predict(files)
    shares = np.bincount(said.exit, minlength=3) / 900
    np.testing.assert_allclose(manifest.expected.exit_share, shares, atol=1.5 / 900)
    right = np.mean(
        [f"class {k}" == Path(file).parent.name for k, file in zip(said.label, files, strict=True)]
    )
    assert manifest.expected.cascade_accuracy == pytest.approx(right, abs=1.5 / 900)
    macs = np.cumsum(manifest.macs)
    assert manifest.expected.mean_macs == pytest.approx(float(shares @ macs), rel=0.01)


@pytest.mark.parametrize(
    ("proven_on", "told"),
    [
        (400, "Proven on 400 images; observed on all: 1.00 points below the last exit."),
        (398, "Proven on 398 of the 400 images, drawn at random: an exact test proves most by these;"),
    ],
)
def test_on_how_many_images_a_promise_is_proven_is_explained(proven_on, told):
    point = Point(thresholds=(0.5,), shares=(0.5, 0.5), cost=1.0, loss=0.01, accuracy=None)
    choice = Choice(point=point, full=point, curve=(point,), proven_on=proven_on)
    assert told in promise_of(choice, Goal(drop=0.02), 400).statement


def test_the_manifest_still_fits_its_schema(bundle, made):
    jsonschema = pytest.importorskip("jsonschema")
    assert run("--bundle", bundle, made[1], "--max-drop", "10%", "--quiet").exit_code == 0
    schema = json.loads((Path(saving.__file__).parent / "manifest.schema.json").read_text())
    jsonschema.validate(json.loads((bundle / "manifest.json").read_text()), schema)


def test_probabilities_are_told_at_the_temperatures_found(bundle, made, tmp_path):
    files = sorted(str(path) for path in made[1].rglob("*.png"))
    truth = np.array([int(Path(file).parent.name.split()[1]) for file in files])
    with Cascade.load(bundle) as cascade:
        before = [cascade.predict(files, thresholds=t, probabilities=True) for t in ((0, 0), (2, 2))]
    kept = tmp_path / "scores.npz"
    result = run("--bundle", bundle, made[1], "--max-drop", "10%", "--scores", kept)
    fits = ExitScores.load(kept).temperatures
    entries = [stage.exit for stage in verify_bundle(bundle).manifest.stages]
    assert [entry.probability_temperature for entry in entries] == [fit.temperature for fit in fits]
    assert "temperature  calibration error" in result.stdout
    assert f"{100 * fits[0].error_before:.1f}% -> {100 * fits[0].error:.1f}%" in result.stdout
    with Cascade.load(bundle) as cascade:
        after = [cascade.predict(files, thresholds=t, probabilities=True) for t in ((0, 0), (2, 2))]
        streamed = list(cascade.stream(files, thresholds=(2, 2), probabilities=True))
    for fit, cold, told in zip((fits[0], fits[-1]), before, after, strict=True):
        assert np.array_equal(cold.label, told.label)
        assert np.array_equal(cold.confidence, told.confidence)
        assert np.allclose(told.probabilities, at_temperature(cold.probabilities, fit.temperature))
        said = [
            calibration_error(p.max(1), p.argmax(1) == truth)
            for p in (cold.probabilities, told.probabilities)
        ]
        assert said == pytest.approx([fit.error_before, fit.error], abs=1e-6)
    assert fits[-1].error < fits[-1].error_before / 2  # nine of ten are right, and it was never so sure
    assert np.allclose([each.probabilities for each in streamed], after[1].probabilities, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.ones((2, 3)), np.ones((3, 2)), np.zeros((3, 3)), np.ones((3, 3), int)])
def test_temperatures_that_cannot_be_are_refused(bundle, made, tmp_path, wrong):
    kept = tmp_path / "scores.npz"
    options = ("--bundle", bundle, "--max-drop", "10%", "--scores", kept, "--dry-run")
    run(*options, made[1])
    with np.load(kept) as archive:
        arrays = dict(archive)
    np.savez(kept, **{**arrays, "temperatures": wrong})
    result = run(*options)
    assert result.exit_code == 3
    assert "expected exit scores that --scores has kept" in result.stderr
    np.savez(kept, **{name: array for name, array in arrays.items() if name != "temperatures"})
    assert run(*options).exit_code == 0  # as an earlier release kept them


def test_scores_are_kept_and_need_no_images_again(bundle, made, tmp_path):
    scores = tmp_path / "scores.npz"
    first = run("--bundle", bundle, made[1], "--max-drop", "10%", "--scores", scores, "--dry-run")
    again = run("--bundle", bundle, "--max-drop", "10%", "--scores", scores, "--dry-run")
    assert first.exit_code == again.exit_code == 0, again.output
    assert first.stdout == again.stdout
    assert load_bundle(bundle).manifest.promise is None  # a dry run


@pytest.mark.parametrize("float_input", [False, True], ids=["bytes", "floats"])
def test_the_order_of_channels_changes_neither_scores_nor_which_images_they_are_of(
    tmp_path, static, float_input
):
    whole = residual()
    chain = chain_from(whole, plans.from_text("uniform:0.5,0.5", whole.divisible.space))
    export_to(tmp_path / "bundle", chain, float_input=float_input)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    orders = {"last": images, "first": images.transpose(0, 3, 1, 2)}
    kept = []
    for name, each in orders.items():
        np.savez(tmp_path / f"{name}.npz", images=each, labels=np.arange(40) % 5)
        scores = tmp_path / f"scores-{name}.npz"
        how = ["--target-macs", "1G", "--scores", scores, "--dry-run"]
        result = run("--bundle", tmp_path / "bundle", tmp_path / f"{name}.npz", *how)
        assert result.exit_code == 0, result.output
        kept.append(ExitScores.load(scores))
    assert kept[0].images == kept[1].images
    assert np.array_equal(kept[0].confidence, kept[1].confidence)
    if not float_input:  # the static network takes what a bundle of bytes does
        against = ["--static", static, "--max-drop", "50%", "--scores", tmp_path / "scores-last.npz"]
        result = run("--bundle", tmp_path / "bundle", tmp_path / "first.npz", *against)
        assert result.exit_code == 0, result.output


def test_images_named_twice_prove_nothing(bundle, made):
    result = run("--bundle", bundle, made[1], made[1], "--max-drop", "10%")
    assert result.exit_code == 1
    assert "900 images were named more than once" in result.stderr


def test_an_image_by_another_name_is_the_same_image(bundle, made, tmp_path):
    (tmp_path / "link").symlink_to(made[1])
    relative = os.path.relpath(made[1])
    for again in (tmp_path / "link", relative, f"{made[1]}/."):
        result = run("--bundle", bundle, made[1], again, "--max-drop", "10%")
        assert result.exit_code == 1
        assert "900 images were named more than once" in result.stderr


def test_what_cannot_be_written_is_told_before_the_work(bundle, made, tmp_path):
    (tmp_path / "file").write_text("")
    for option, suffix in (("--plot", "svg"), ("--scores", "npz")):
        before = (bundle / "manifest.json").read_bytes()
        result = run("--bundle", bundle, made[1], option, tmp_path / "file" / f"x.{suffix}")
        assert result.exit_code == 2
        assert f"cannot write {option}" in result.stderr
        assert (bundle / "manifest.json").read_bytes() == before


def test_a_bundle_that_was_replaced_meanwhile_is_left_alone(bundle):
    before = load_bundle(bundle)
    static = residual()
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    export_to(bundle, chain, thresholds=(0.3, 0.3))
    with pytest.raises(BundleError, match="was replaced since it was read"):
        replace_manifest(before, replace(before.manifest, name="other"))
    assert verify_bundle(bundle).manifest.flow.thresholds[0] == 0.3


@pytest.mark.parametrize("name", ["README.md", "bundle.sig"])
def test_a_folder_in_the_place_of_what_is_replaced_leaves_the_bundle_as_it_was(bundle, name):
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).mkdir()
    before = load_bundle(bundle).manifest
    sums = (bundle / "SHA256SUMS").read_bytes()
    with pytest.raises(BundleError, match=f"{name} is no plain file"):
        replace_manifest(load_bundle(bundle), replace(before, name="other"))
    assert load_bundle(bundle).manifest == before
    assert (bundle / "SHA256SUMS").read_bytes() == sums


def test_a_bundle_that_is_being_written_is_not_written_to(bundle):
    before = load_bundle(bundle)
    with lock_folder(bundle), pytest.raises(BundleError, match="is being written by another process"):
        replace_manifest(before, replace(before.manifest, name="other"))
    assert verify_bundle(bundle).manifest == before.manifest


def test_scores_of_another_bundle_are_refused(bundle, made, tmp_path):
    scores = tmp_path / "scores.npz"
    assert run("--bundle", bundle, made[1], "--max-drop", "10%", "--scores", scores).exit_code == 0
    static = residual()
    chain = chain_from(static, plans.from_text("uniform:0.5,0.25,0.25", static.divisible.space))
    export_to(tmp_path / "other", chain)
    before = (tmp_path / "other" / "manifest.json").read_bytes()
    result = run("--bundle", tmp_path / "other", "--max-drop", "10%", "--scores", scores)
    assert result.exit_code == 3
    assert "scores of another bundle" in result.stderr
    assert (tmp_path / "other" / "manifest.json").read_bytes() == before


def test_damaged_scores_and_those_of_other_classes_are_refused(bundle, made, tmp_path):
    path = tmp_path / "scores.npz"
    options = ("--bundle", bundle, "--max-drop", "10%", "--scores", path, "--dry-run")
    assert run(*options, made[1]).exit_code == 0
    scores = ExitScores.load(path)
    for change in ("label", "truth"):
        replace(scores, **{change: getattr(scores, change) + len(load_bundle(bundle).manifest.labels)}).save(
            path
        )
        result = run(*options)
        assert result.exit_code == 3, result.output
        assert "holds scores of other classes than the bundle's: expected" in result.stderr
    two = {"label": scores.label[:2], "confidence": scores.confidence[:2]}
    replace(scores, **two, graphs=(), temperatures=scores.temperatures[:2]).save(path)
    assert "holds scores of 2 exits, the bundle has 3" in run(*options).stderr
    path.write_bytes(path.read_bytes()[:-30])
    result = run(*options)
    assert result.exit_code == 3
    assert "expected exit scores that --scores has kept" in result.stderr
    assert "Traceback" not in result.output


def test_unlabelled_images(bundle, made, tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    for path in made[1].rglob("*.png"):
        shutil.copy(path, loose / path.name)
    told = run("--bundle", bundle, loose, "--max-drop", "10%")
    assert told.exit_code == 1
    assert "add --unlabelled" in told.stderr
    result = run("--bundle", bundle, loose, "--unlabelled", "--max-drop", "19%")
    assert result.exit_code == 0, result.output
    assert "get another answer than the last exit's" in result.stdout
    assert load_bundle(bundle).manifest.expected is None


@pytest.fixture(scope="module")
def static(tmp_path_factory) -> Path:
    """The network that the bundle was made from, as one graph."""
    whole = residual()
    folder = tmp_path_factory.mktemp("static") / "bundle"
    export_to(folder, chain_from(whole, plans.static(whole.divisible.space)))
    return folder / "stage_0.onnx"


def test_a_promise_against_the_static_network(bundle, made, static, tmp_path):
    scores = tmp_path / "scores.npz"
    options = ["--bundle", bundle, "--static", static, "--max-drop", "2%", "--scores", scores]
    first, again = run(*options, made[1]), run(*options, made[1])
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert first.stdout == again.stdout
    promise = load_bundle(bundle).manifest.promise
    assert "at most 2 points below that of the static network" in promise.statement
    assert "static network" in first.stdout.splitlines()[-2]
    without = run(*options)
    assert without.exit_code == 2
    assert "expected the 900 that --scores" in without.stderr
    for place in sorted(made[1].iterdir()):  # as many of each class, but other pictures
        for path in place.iterdir():
            picture = tmp_path / "others" / place.name / path.name
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).rotate(90).save(picture)
    others = run(*options, tmp_path / "others")
    assert others.exit_code == 2
    assert "got 900 images, or others" in others.stderr


@pytest.mark.parametrize("target", ["macs", "ms"])
def test_budgets(bundle, made, target):
    macs = np.cumsum(load_bundle(bundle).manifest.macs)
    budget = f"{(macs[0] + macs[2]) / 2e6:.6f}M" if target == "macs" else "1000"
    result = run("--bundle", bundle, made[1], f"--target-{target}", budget)
    assert result.exit_code == 0, result.output
    manifest = load_bundle(bundle).manifest
    assert 1e-6 < manifest.flow.thresholds[0] < 1
    assert f"{manifest.flow.thresholds[0]:.7g}" in result.stdout
    assert "nothing is proven" in manifest.promise.statement
    if target == "macs":
        assert manifest.expected.mean_macs <= (macs[0] + macs[2]) / 2 + 1
    small = run("--bundle", bundle, made[1], f"--target-{target}", "0.0000001")
    assert small.exit_code == 2
    assert "what exit 0 alone costs" in small.stderr


def test_a_promise_may_spare_time(bundle, made, tmp_path):
    result = run("--bundle", bundle, made[1], "--max-drop", "10%", "--cost", "clock", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert re.search(r"average cost [\d.e-]+ ms, every stage [\d.e-]+ ms", result.stdout)
    assert "With probability 0.95" in load_bundle(bundle).manifest.promise.statement
    kept = tmp_path / "scores.npz"
    assert run("--bundle", bundle, made[1], "--scores", kept).exit_code == 0
    without = run("--bundle", bundle, "--scores", kept, "--cost", "clock")
    assert without.exit_code == 2
    assert "need images to time the stages on" in without.stderr


def test_stages_that_are_never_used_are_named(bundle, made):
    result = run("--bundle", bundle, made[1], "--static-accuracy", "3%", "--max-drop", "2%")
    assert result.exit_code == 0, result.output
    assert "always  100.0%" in result.stdout
    assert "every image takes exit 0" in result.stdout
    assert "more could exit early" not in result.stdout


def test_images_that_the_network_may_have_been_trained_on_are_told_of(bundle, made, tmp_path):
    assert "trained on" not in run("--bundle", bundle, made[1], "--max-drop", "10%").stderr
    with Cascade.load(bundle) as cascade:
        files = sorted(made[1].rglob("*.png"))
        said = cascade.predict([str(path) for path in files], thresholds=(2, 2)).label
        for label, path in zip(said, files, strict=True):
            if path.parent.name == cascade.labels[label]:
                known = tmp_path / "known" / path.parent.name / path.name
                known.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, known)
    result = run("--bundle", bundle, tmp_path / "known", "--max-drop", "10%")
    assert result.exit_code == 0, result.output
    assert "the last exit is right on 100.00% of these" in result.stderr
    assert "of the 900 that the bundle knows of: if these were trained on" in result.stderr


def test_an_exit_that_has_learnt_nothing_is_told_of(bundle, made, tmp_path):
    """The small network names one class, and most images are of it; nothing is said where it is right."""
    result = run("--bundle", bundle, made[1], "--max-drop", "10%", "--dry-run")
    assert "no more than answering" in result.stderr
    assert "always would be: it has learnt nothing that could be kept" in result.stderr
    with Cascade.load(bundle) as cascade:
        files = sorted(made[1].rglob("*.png"))
        said = cascade.predict([str(path) for path in files], thresholds=(2, 2)).label
        for name in {cascade.labels[label] for label in said}:
            (tmp_path / "named" / name).mkdir(parents=True)
        for label, path in zip(said, files, strict=True):
            shutil.copy(path, tmp_path / "named" / cascade.labels[label])
    result = run("--bundle", bundle, tmp_path / "named", "--max-drop", "10%", "--dry-run")
    assert "learnt nothing" not in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--max-drop", "0.5"], 2, "for 0.5 points write 0.5% or 0.005"),
        (["--max-drop", "0"], 2, "not above 0 and below 1"),
        (["--max-drop", "3"], 2, "did you mean 3%?"),
        (["--max-drop", "1%", "--target-ms", "3"], 2, "exclude each other"),
        (["--target-ms", "3", "--cost", "macs"], 2, "says by its unit what is spared: leave --cost out"),
        (["--target-macs", "many"], 2, "such as 20M"),
        (["--max-drop", "0.1%"], 1, "images cannot prove a drop of 0.1 points"),
        (["--static-accuracy", "99%", "--max-drop", "1%"], 1, "even if no image exits early"),
        (["--plot", "x.png"], 2, "does not end in .svg"),
        (["--static", "nowhere.onnx"], 2, "nowhere.onnx: no such file"),
        (["--static", "a.onnx", "--static-accuracy", "0.9"], 2, "exclude each other: what to compare"),
        (["--static", "a.onnx", "--unlabelled"], 2, "--static needs true classes"),
        (["--static", "a.onnx", "--target-macs", "3M"], 2, "--target-macs and --static exclude"),
        (["--batch", "65537"], 2, "1<=x<=65536"),
        (["--probability", "0.99999999999"], 2, "expected a probability between 0 and 0.999999999, got"),
        (["--max-drop", "0.0000000000001%"], 1, "it takes more than a million to prove it if not one"),
        (["--threads", "5000"], 2, "1<=x<="),
    ],
)
def test_what_cannot_be(bundle, made, options, code, message):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    result = run("--bundle", bundle, made[1], *options)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_stage_of_a_bundle_is_no_static_network(bundle, made):
    for stage, reason in ((0, "this is a part of one, for beside its answers it gives '"), (1, "one input")):
        result = run("--bundle", bundle, made[1], "--static", bundle / f"stage_{stage}.onnx", "--dry-run")
        assert result.exit_code == 2, result.output
        assert reason in result.stderr


@pytest.mark.parametrize("name", ["README.md", "bundle.sig"])
def test_a_folder_in_the_place_of_a_file_is_found_before_the_work(bundle, made, name):
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).mkdir()
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    result = run("--bundle", bundle, made[1], "--max-drop", "2%")
    assert result.exit_code == 3, result.output
    assert f"{name} is no plain file, and is to be written anew; remove it" in result.stderr
    assert "exit scores" not in result.stderr
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()} == before


def test_no_images_and_images_that_cannot_be_read(bundle, tmp_path):
    assert "no images: give some" in run("--bundle", bundle).stderr
    (tmp_path / "bad.png").write_bytes(b"")
    result = run("--bundle", bundle, tmp_path / "bad.png", "--unlabelled")
    assert result.exit_code == 1
    assert f"{tmp_path}/bad.png: the file is empty" in result.stderr


def test_a_replacement_that_dies_at_any_write_leaves_a_whole_bundle(made, tmp_path, monkeypatch):
    for survived in range(5):
        folder = Path(shutil.copytree(made[0], tmp_path / str(survived)))
        bundle = load_bundle(folder)
        manifest = bundle.manifest.with_thresholds([0.125, 0.125])
        writes = die_at_write(survived, monkeypatch)
        if survived < 4:
            with pytest.raises(SystemExit):
                replace_manifest(bundle, manifest)
        else:
            replace_manifest(bundle, manifest)
        monkeypatch.undo()
        now = verify_bundle(folder).manifest
        assert now in (bundle.manifest, manifest)
        assert (now == manifest) == ("manifest.json" in writes)
        replace_manifest(load_bundle(folder), manifest)  # whatever was left, it can be done again
        assert verify_bundle(folder).manifest == manifest
        assert (folder / "SHA256SUMS").read_text().count("manifest.json") == 1
        (folder / ".manifest.json.x.part").write_text("left behind")
        save_bundle({name: (made[0] / name).read_bytes() for name in _files(made[0])}, folder)
        assert verify_bundle(folder).manifest == bundle.manifest


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != "SHA256SUMS"]
