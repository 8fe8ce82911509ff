"""The plan of a training: given or chosen, forecast, and the same when the run goes on."""

from dataclasses import replace

import pytest
from small_networks import residual

from s2dnas_deploy.bundle.device_profile import STATIC, Profile, StageTimes, probes_in
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import AUTO, from_text, has_all, uniform
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.forecast import auto, planner
from s2dnas_deploy.workshop.forecast.forecast import FILE
from s2dnas_deploy.workshop.forecast.instead import alternatives
from s2dnas_deploy.workshop.forecast.planner import Planner
from s2dnas_deploy.workshop.pricing import machine_clock
from s2dnas_deploy.workshop.pricing.machine_clock import this_device
from s2dnas_deploy.workshop.pricing.probes import Probed
from s2dnas_deploy.workshop.reading.static_source import StaticSource
from s2dnas_deploy.workshop.training.request import Prepared, Request
from s2dnas_deploy.workshop.training.settings import Settings

torch = pytest.importorskip("torch")


class Heard:
    """A reporter that remembers."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)

    def phase(self, name, counted="images"):
        return lambda done, total, note: None


class Clock:
    """A machine on which the first stage takes `first` of the static network, and later ones a half each."""

    def __init__(self, first):
        self.first, self.asked = first, 0

    def __call__(self, folder, *, provider, threads, progress, batch=1):
        self.asked += 1
        plans = probes_in(folder)
        times = {
            name: StageTimes(
                stage_ms=(2 * self.first(name, plan), *[1.0] * (plan.stages - 1)), reference_ms=2.0 * batch
            )
            for name, plan in plans.items()
        }
        return Profile(device=this_device(), times=times, plans=plans, input_shape=(3, 8, 8))


class Alike:
    """Exits that answer as the static network does, which knows all its images by heart."""

    def __init__(self, prepared):
        pass

    def __call__(self, plan):
        return (0.0,) * plan.stages

    def by_heart(self, error):
        return 1.0


@pytest.fixture(autouse=True)
def alike(monkeypatch):
    monkeypatch.setattr(planner, "Likeness", Alike)


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


@pytest.fixture
def request_(tmp_path):
    (tmp_path / "model.run").mkdir()
    return Request(
        source=StaticSource(model=None, model_arguments={}, input_shape=None, weights=None),
        data="none", val_fraction=0.1, resize=None, limit=None, normalize=None, plan=AUTO, align=1,
        static_epochs=0, static_lr=None, settings=Settings(epochs=1), out=tmp_path / "model.pt",
        restart=False,
    )  # fmt: skip


def decide(clock, request, prepared, plan=None, error=0.2):
    heard = Heard()
    decided = Planner(cost="clock", timer=clock)(request, prepared, plan, lambda: {"val": 1 - error}, heard)
    return decided, heard.said


def test_auto_takes_what_the_clock_says_is_fast(prepared, request_):
    clock = Clock(lambda name, plan: 0.1 if plan.no_reuse and plan.stages == 3 else 0.9)
    plan, said = decide(clock, request_, prepared)
    assert plan.no_reuse
    assert plan.stages == 3
    assert any("0.10 + 0.50 + 0.50 = 1.10 of the time" in line for line in said)


def test_auto_takes_widths_in_turn_where_a_chains_last_exit_loses_much(prepared, request_, monkeypatch):
    class Unlike(Alike):
        def __call__(self, plan):
            is_whole = plan.nested and has_all(plan, plan.stages - 1, prepared.static.divisible.space)
            return (*[0.5] * (plan.stages - 1), 0.0 if is_whole else 0.9)

    monkeypatch.setattr(planner, "Likeness", Unlike)
    plan, said = decide(Clock(lambda name, plan: 0.1), request_, prepared)
    assert plan.in_turn
    assert any("0.10 + 1.00 = 1.10 of the time" in line for line in said)
    anew = replace(request_, restart=True)
    asked = (anew, prepared, None, lambda: {"val": 0.8}, Heard())
    planner_ = Planner(cost="clock", timer=Clock(lambda name, plan: 0.1))
    assert not planner_.forecast(*asked, stages=None, in_turn=False).plan.in_turn
    given, repeated = decide(Clock(lambda name, plan: 0.1), anew, prepared, plan)
    assert given == plan
    assert repeated == said


def test_where_widths_in_turn_leave_out_a_part_the_static_network_is_forecast_to_answer_last(
    prepared, request_
):
    plan = from_text("in-turn:0.25,0.5", prepared.static.divisible.space)
    asked = (request_, prepared, plan, lambda: {"val": 0.8})
    planner_, heard = Planner(cost="clock", timer=Clock(lambda name, plan: 0.25)), Heard()
    forecast = planner_.forecast(*asked, heard, stages=None)
    assert forecast.stages == (0.25, 0.25, 1.0)
    assert forecast.accuracies[-1] == pytest.approx(0.8, abs=0.02)
    assert not forecast.falls_short
    assert any(
        "0.25 + 0.25 + 1.00 = 1.50 of the time of the static network, which answers last" in line
        for line in heard.said
    )
    assert planner_.forecast(*asked, Heard(), stages=None) == forecast


def test_of_a_large_network_few_plans_are_fitted_and_widths_in_turn_are_among_them(
    prepared, request_, monkeypatch
):
    fitted = []

    class Unlike(Alike):
        def __call__(self, plan):
            fitted.append(plan)
            return (*[0.9] * (plan.stages - 1), 0.0 if plan.nested else 0.6)

    monkeypatch.setattr(planner, "Likeness", Unlike)
    monkeypatch.setattr(auto, "_FITTED_MACS", 0)
    dear_in_turn = Clock(lambda name, plan: 0.6 if plan.stages == 2 and not plan.no_reuse else 0.1)
    decide(dear_in_turn, request_, prepared)
    assert [plan.in_turn for plan in fitted] == [False] * 4 + [True]


def test_a_run_that_goes_on_keeps_its_plan_and_asks_no_clock(prepared, request_):
    fast = Clock(lambda name, plan: 0.1 if plan.no_reuse else 0.9)
    slow = Clock(lambda name, plan: 0.9 if plan.no_reuse else 0.1)
    plan, said = decide(fast, request_, prepared)
    again, repeated = decide(slow, request_, prepared)
    assert again == plan
    assert not slow.asked
    assert repeated == said
    other, _ = decide(slow, replace(request_, restart=True), prepared)
    assert other != plan


def test_a_model_that_is_there_keeps_its_forecast(prepared, request_):
    clock = Clock(lambda name, plan: 0.2)
    decide(clock, request_, prepared)
    kept = (request_.folder / FILE).read_text()
    request_.out.write_text("a model")
    other = uniform(prepared.static.divisible.space, (0.5, 0.5))
    assert decide(clock, request_, prepared, other)[0] == other
    assert (request_.folder / FILE).read_text() == kept


def test_what_was_given_is_taken_and_forecast(prepared, request_):
    space = prepared.static.divisible.space
    plan, said = decide(Clock(lambda name, plan: 0.25), request_, prepared, uniform(space, (0.25, 0.75)))
    assert plan == uniform(space, (0.25, 0.75))
    assert any("0.25 + 0.50 = 0.75 of the time" in line for line in said)
    clock = Clock(lambda name, plan: 0.25)
    assert decide(clock, request_, prepared, static_plan(space)) == (static_plan(space), [])
    assert not clock.asked


def test_exit_weights_say_how_many_stages_there_are(prepared, request_):
    settings = replace(request_.settings, exit_weights=(1.0, 1.0, 1.0))
    plan, _ = decide(Clock(lambda name, plan: 0.3), replace(request_, settings=settings), prepared)
    assert plan.stages == 3
    settings = replace(request_.settings, exit_weights=(1.0,) * 9)
    with pytest.raises(PlanError, match="9 stages"):
        decide(Clock(lambda name, plan: 0.3), replace(request_, settings=settings), prepared)


def test_where_little_is_to_be_gained_it_is_told_what_else_is_measured(prepared, request_):
    _, said = decide(Clock(lambda name, plan: 0.5 if name in ("int8", "half") else 0.9), request_, prepared)
    (told,) = [line for line in said if "little is to be gained" in line]
    assert "INT8" in told
    assert "2.0 times as fast" in told
    _, said = decide(Clock(lambda name, plan: 0.1), replace(request_, restart=True), prepared)
    assert not any("little" in line for line in said)


def test_alternatives_are_measured_in_int8_at_half_width_and_many_at_a_time(prepared):
    clock = Clock(lambda name, plan: {STATIC: 1.0, "int8": 0.5, "half": 0.25}[name])
    found = alternatives(Probed.of(prepared), clock, Heard())
    assert list(found.values()) == pytest.approx([2.0, 4.0, 1.0])
    assert "INT8" in next(iter(found))
    assert "half" in list(found)[1]
    assert "32" in list(found)[2]


def test_plans_of_a_large_network_are_timed_some_at_a_time(prepared, request_, monkeypatch):
    all_at_once, few = Clock(lambda name, plan: 0.3), Clock(lambda name, plan: 0.3)
    plan, _ = decide(all_at_once, request_, prepared)
    assert all_at_once.asked == 1
    size = sum(4 * tensor.numel() for tensor in prepared.static.weights.values())
    monkeypatch.setattr(machine_clock, "_MOST_BYTES", 2 * size)
    assert decide(few, replace(request_, restart=True), prepared)[0] == plan
    assert few.asked > 1
