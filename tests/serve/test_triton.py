"""A model repository for Triton: its configurations, and a router that answers as the cascade does."""

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("google.protobuf")

from served import IMAGES
from tiny_flows import FLOWS, SETTING, by_a_plain_loop, images_of, tiny_bundle
from triton_stub import Asked, Repository

from s2dnas_deploy.cli import export
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.serve.triton.repository import BATCH, write_repository


def answers_of(response) -> dict[str, np.ndarray]:
    assert response.error is None, response.error.message()
    return {tensor.called: tensor.values for tensor in response.output_tensors}


@pytest.mark.parametrize("name", FLOWS)
def test_images_go_where_the_routes_send_them(tmp_path, name):
    flow, widths = FLOWS[name]
    tiny_bundle(tmp_path / "b", flow, widths)
    images = images_of(200)
    models = write_repository(tmp_path / "b", tmp_path / "repository", name="net")
    assert models == ("net", *(f"net_{stop.name}" for stop in flow.stops))
    repository = Repository(tmp_path / "repository")
    said = answers_of(repository.router("net").execute([Asked(images)])[0])
    wanted = by_a_plain_loop(flow, images, widths)
    assert said["exit"][:, 0].tolist() == [each.exit for each in wanted]
    assert said["label"][:, 0].tolist() == [each.label for each in wanted]
    assert said["confidence"][:, 0].tolist() == [each.confidence for each in wanted]
    assert [each.decode() for each in said["name"][:, 0]] == [f"class {each.label}" for each in wanted]
    for stop in flow.stops:
        came = sum(stop.name in each.way for each in wanted)
        assert sum(repository.calls[f"net_{stop.name}"]) == came, (
            "no image is in a stage that it must not see"
        )
        assert len(repository.calls[f"net_{stop.name}"]) == -(-came // BATCH), "and all of them in few calls"


def test_requests_share_calls_and_get_their_own_answers(bundle, cascade, tmp_path):
    write_repository(bundle, tmp_path)
    repository = Repository(tmp_path)
    router = repository.router(bundle.name)
    parts = (IMAGES[:3], IMAGES[3:4], IMAGES[4:])
    responses = router.execute([Asked(part) for part in parts])
    wanted = cascade.predict(IMAGES, probabilities=True)
    said = [answers_of(response) for response in responses]
    assert [len(each["label"]) for each in said] == [3, 1, len(IMAGES) - 4]
    for name in ("label", "exit", "confidence"):
        found = np.concatenate([each[name] for each in said])[:, 0]
        np.testing.assert_allclose(found, getattr(wanted, name), rtol=1e-5)
    found = np.concatenate([each["probabilities"] for each in said])
    np.testing.assert_allclose(found, wanted.probabilities, rtol=1e-4, atol=1e-6)
    assert len(set(wanted.exit)) == 3
    assert all(len(calls) == 1 for calls in repository.calls.values())


def test_a_request_may_have_thresholds_and_settings_of_its_own(bundle, cascade, tmp_path):
    write_repository(bundle, tmp_path / "chain")
    router = Repository(tmp_path / "chain").router(bundle.name)
    strict, usual = router.execute([Asked(IMAGES, {"thresholds": "2,0.5"}), Asked(IMAGES)])
    for response, wanted in (
        (strict, cascade.predict(IMAGES, thresholds=(2, 0.5))),
        (usual, cascade.predict(IMAGES)),
    ):
        assert answers_of(response)["exit"][:, 0].tolist() == wanted.exit.tolist()
    tiny_bundle(tmp_path / "b", SETTING, {})
    write_repository(tmp_path / "b", tmp_path / "widths")
    router, images = Repository(tmp_path / "widths").router("b"), images_of(5)
    responses = router.execute([Asked(images, {"setting.width": "full"}), Asked(images)])
    assert [set(answers_of(each)["exit"][:, 0]) for each in responses] == [{2}, {1}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"thresholds": "0.5"}, "expected 2 numbers"),
        ({"thresholds": "a,b"}, "could not convert"),
        ({"setting.width": "half"}, "expected the parameters thresholds or setting.NAME"),
        ({"deadline_ms": 5}, "expected the parameters"),
    ],
)
def test_a_request_that_cannot_be_answered_fails_alone(bundle, tmp_path, given, message):
    write_repository(bundle, tmp_path)
    router = Repository(tmp_path).router(bundle.name)
    wrong, fine = router.execute([Asked(IMAGES[:2], given), Asked(IMAGES[:2])])
    assert message in wrong.error.message()
    assert len(answers_of(fine)["label"]) == 2


def test_a_repository_takes_more_models_and_newer_ones(bundle, tmp_path):
    write_repository(bundle, tmp_path, name="a")
    write_repository(bundle, tmp_path, name="b")
    (tmp_path / "a" / "1" / "stale").write_text("")
    write_repository(bundle, tmp_path, name="a")
    assert {"a", "b", "a_stage_0", "b_stage_2"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "a" / "1" / "stale").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(OptionError, match="not from s2dnas-export"):
        write_repository(bundle, tmp_path, name="mine")


def test_graphs_that_pick_samples_themselves_are_refused(tmp_path):
    flow, widths = FLOWS["chain"]
    tiny_bundle(tmp_path / "b", flow, widths, gathers=True)
    with pytest.raises(OptionError, match="without --gather"):
        write_repository(tmp_path / "b", tmp_path / "repository")


def test_the_command_writes_a_bundle_s_models(bundle, tmp_path):
    result = CliRunner().invoke(export, [str(bundle), "--triton", str(tmp_path), "--name", "net"])
    assert result.exit_code == 0, result.output
    assert "net, for Triton, which calls net_stage_0, net_stage_1, net_stage_2" in result.stdout
    assert len(answers_of(Repository(tmp_path).router("net").execute([Asked(IMAGES)])[0])["label"]) == 40


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "is a bundle already; --triton REPO writes it for Triton"),
        (("--triton", "models", "--out", "b"), "is a bundle already: leave --out out"),
    ],
)
def test_of_a_bundle_nothing_else_is_made(bundle, more, message):
    result = CliRunner().invoke(export, [str(bundle), *more])
    assert result.exit_code == 2
    assert message in result.stderr
