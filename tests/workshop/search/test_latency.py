"""Prices by the clock: a time that is a sum of costs is learned; foreign profiles are told."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from small_networks import residual

from s2dnas_deploy.bundle.device_profile import STATIC, Profile, StageTimes
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.cli import bench
from s2dnas_deploy.errors import RecordError
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.network.network import as_network, carry_over
from s2dnas_deploy.workshop.network.stages import slice_stages
from s2dnas_deploy.workshop.pricing.latency import by_clock, features_of, fit
from s2dnas_deploy.workshop.pricing.price import by_macs
from s2dnas_deploy.workshop.pricing.probes import Probed, write_probes
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.search.space.candidate import candidate_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.space.spanning import probe_plans
from s2dnas_deploy.workshop.training.request import Prepared

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(scope="module")
def prepared():
    generator = torch.Generator().manual_seed(0)
    images = LabelledImages(
        images=torch.randint(0, 256, (40, 3, 8, 8), generator=generator).byte(), labels=torch.arange(40) % 5
    )
    names = tuple(f"class {i}" for i in range(5))
    splits = ImageSplits(train=images, val=images, test=None, class_names=names, digest="none")
    preprocessing = Preprocessing(input_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.3,) * 3)
    return Prepared(static=residual(), is_trained=True, splits=splits, preprocessing=preprocessing)


@pytest.fixture(scope="module")
def space(prepared):
    return make_space(prepared.static.divisible.space, stages=2)


def whole(static):
    """The static network as if it were a candidate."""
    return candidate_of(static, (), static_plan(static.divisible.space))


def features_of_network(network):
    return features_of(slice_stages(network), network.division.graph.input_shape)


def made_up_profile(prepared, plans, cost):
    """A device on which a stage takes what `cost` says of its features."""
    times = {}
    for name, plan in plans.items():
        network = as_network(prepared.static) if name == STATIC else carry_over(prepared.static, plan)
        stage_ms = tuple(cost(features) for features in features_of_network(network))
        times[name] = StageTimes(stage_ms=stage_ms, reference_ms=2.0)
    return Profile(device={"processor": "made up"}, times=times, plans=plans)


def test_a_time_that_is_a_sum_of_costs_is_learned(prepared, space):
    def cost(features):
        macs = sum(amount for name, amount in features.items() if name.endswith("MACs in 16x16"))
        return 0.1 + 1e-6 * macs + 1e-5 * features.get("numbers read", 0)

    profile = made_up_profile(prepared, probe_plans(space, 16), cost)
    model = fit(prepared.static, profile)
    errors = []
    for name, plan in probe_plans(space, 16, seed=1).items():
        if name == STATIC:
            continue
        for features in features_of_network(carry_over(prepared.static, plan)):
            errors.append(abs(model.time(features) / (cost(features) / 2.0) - 1))
    assert np.median(errors) < 0.02


@pytest.mark.parametrize(("before", "after"), [((3, 8), (7, 8)), ((3, 8), (3, 2))])
def test_what_a_grouped_convolution_computes_has_a_price(before, after):
    """A larger kernel or larger groups, with the same outputs, are more multiply-accumulates of a kind."""

    def macs(kernel, groups):
        layers = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=groups)]
        static = read_network(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 5)), (3, 4, 4))
        (features,) = features_of_network(as_network(static))
        kind = f"grouped_conv {kernel}x{kernel} at 16: "
        assert features[kind + "layers"] == 1
        return features[kind + "MACs in 1x1"]

    assert macs(*after) > macs(*before) > 0


def test_prices_grow_from_exit_to_exit_and_are_relative_to_the_static_network(prepared, space):
    profile = made_up_profile(prepared, probe_plans(space, 16), lambda features: 1.0)
    for price, static_price in ((by_clock(prepared.static, profile), 0.5), (by_macs(prepared.static), 1.0)):
        assert price(whole(prepared.static))[-1] == pytest.approx(static_price, rel=0.05)
        for choices in (space.draw(np.random.default_rng(seed)) for seed in range(5)):
            first, last = price(candidate_of(prepared.static, choices, space.plan(choices)))
            assert 0 < first < last


@pytest.mark.slow
def test_probes_are_timed_by_the_command_and_price_plans(prepared, space, tmp_path):
    plans = probe_plans(space, 6)
    write_probes(Probed.of(prepared), plans, tmp_path / "probes", lambda done, total, note: None)
    out = tmp_path / "device.json"
    result = CliRunner().invoke(bench, [str(tmp_path / "probes"), "--out", str(out), "--provider", "cpu"])
    assert result.exit_code == 0, result.output
    profile = Profile.load(out)
    assert set(profile.times) == set(plans)
    assert profile.device["provider"] == "cpu"
    static = profile.times[STATIC]
    assert static.stage_ms[0] == pytest.approx(static.reference_ms, rel=0.5)
    price = by_clock(prepared.static, profile)
    assert price(whole(prepared.static))[0] > 0


def test_what_is_no_probe_or_profile_is_told(prepared, space, tmp_path):
    (tmp_path / "probes").mkdir()
    result = CliRunner().invoke(bench, [str(tmp_path / "probes"), "--out", str(tmp_path / "d.json")])
    assert result.exit_code == 1
    assert "or a folder of probes that s2dnas-search --write-probes wrote" in result.stderr
    for content in (
        "{}",
        "no JSON",
        '{"format": "s2dnas-device", "version": 1, "device": {}, "probes": [1]}',
    ):
        path = tmp_path / "device.json"
        path.write_text(content)
        with pytest.raises(RecordError, match=r"device\.json.*expected"):
            Profile.load(path)


def test_a_profile_of_another_network_is_refused(prepared, space):
    profile = made_up_profile(prepared, probe_plans(space, 4), lambda features: 1.0)
    plans = {name: replace(plan, channels={"other": (1, 1)}) for name, plan in profile.plans.items()}
    with pytest.raises(RecordError, match="is of another network"):
        by_clock(prepared.static, replace(profile, plans=plans))


def test_a_profile_of_other_images_is_refused(prepared, space):
    profile = made_up_profile(prepared, probe_plans(space, 4), lambda features: 1.0)
    assert by_clock(prepared.static, replace(profile, input_shape=(3, 8, 8)))
    with pytest.raises(RecordError, match=r"is of images \(3, 16, 16\), the network's are \(3, 8, 8\)"):
        by_clock(prepared.static, replace(profile, input_shape=(3, 16, 16)))


def test_damaged_images_among_probes_are_told(prepared, space, tmp_path):
    write_probes(
        Probed.of(prepared), probe_plans(space, 1), tmp_path / "probes", lambda done, total, note: None
    )
    whole = (tmp_path / "probes" / "images.npz").read_bytes()
    for damaged in (b"", whole[:100], whole.replace(b"images.npy", b"others.npy")):
        (tmp_path / "probes" / "images.npz").write_bytes(damaged)
        result = CliRunner().invoke(bench, [str(tmp_path / "probes"), "--out", str(tmp_path / "d.json")])
        assert result.exit_code == 1
        assert "images.npz: expected images that s2dnas-search --write-probes wrote, got" in result.stderr


@pytest.mark.parametrize("shape", [None, (3, 8, 8)])
def test_profiles_come_back_as_they_were(prepared, space, tmp_path, shape):
    profile = made_up_profile(prepared, probe_plans(space, 4), lambda features: 1.0)
    profile = replace(profile, input_shape=shape)
    (tmp_path / "device.json").write_text(profile.to_json())
    assert Profile.load(tmp_path / "device.json") == profile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["probes"]["static"].update(stage_ms=[]), "stage_ms: expected a list of length 1 to 16"),
        (lambda d: d["probes"]["static"].update(stage_ms=[0]), r"stage_ms\[0\]: expected a number from"),
        (
            lambda d: d["probes"]["static"].update(stage_ms=["1"]),
            r"stage_ms\[0\]: expected a number, got '1'",
        ),
        (lambda d: d["probes"]["static"].update(stage_ms=[float("nan")]), "finite, got NaN"),
        (lambda d: d["probes"]["static"].update(reference_ms=-1), "reference_ms: expected a number from"),
        (lambda d: d["probes"]["static"].update(plan={}), r"probes\['static'\].plan: .*s2dnas-plan"),
        (lambda d: d["probes"].update({"../x": d["probes"]["static"]}), "a plain name, got '../x'"),
        (lambda d: d["probes"].update({".": d["probes"]["static"]}), "a plain name, got '.'"),
        (lambda d: d.update(probes={}), "probes: expected an object of length 1"),
        (lambda d: d.update(input_shape=[3, 8]), "input_shape: expected a list of 3"),
        (lambda d: d.update(version=2), "version: expected 1"),
    ],
)
def test_a_damaged_profile_is_refused(prepared, space, tmp_path, change, message):
    document = json.loads(made_up_profile(prepared, probe_plans(space, 1), lambda features: 1.0).to_json())
    change(document)
    (tmp_path / "device.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match=message):
        Profile.load(tmp_path / "device.json")


def test_a_probe_may_not_lead_out_of_its_folder(prepared, space, tmp_path):
    plan = json.loads(probe_plans(space, 1)[STATIC].to_json())
    document = {"format": "s2dnas-probes", "version": 1, "probes": {STATIC: plan, "../elsewhere": plan}}
    (tmp_path / "probes.json").write_text(json.dumps(document))
    result = CliRunner().invoke(bench, [str(tmp_path), "--out", str(tmp_path / "d.json")])
    assert result.exit_code == 3
    assert "a plain name, got '../elsewhere'" in result.stderr
