"""Flows of every kind through every way of running them: answers equal a plain loop over the samples."""

import random
import re
from collections import Counter

import numpy as np
import pytest
from tiny_flows import FLOWS, SETTING, by_a_plain_loop, exits_if, images_of, stop, tiny_bundle

from s2dnas_deploy.decide.flow import ANSWER, DONE, IMAGE, Choices, Flow, Route
from s2dnas_deploy.decide.rules import CONFIDENCE, Largest, Setting, Threshold
from s2dnas_deploy.errors import BundleError, OptionError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions.providers import PROVIDERS, Provider

IMAGES = images_of(130)
PRETEND = Provider(name="pretend", ort_name="CPUExecutionProvider", own_memory=True, buckets=True)


@pytest.fixture(scope="module", params=FLOWS)
def told(request):
    """A flow, its widths, and what a plain loop says."""
    flow, widths = FLOWS[request.param]
    return flow, widths, by_a_plain_loop(flow, IMAGES, widths)


@pytest.fixture(scope="module", params=["copied", "gathered", "gathered, own memory"])
def cascade(request, told, tmp_path_factory):
    flow, widths, _ = told
    gathers = request.param != "copied"
    folder = tmp_path_factory.mktemp("flow") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROVIDERS, "pretend", PRETEND)
        provider = "pretend" if "own memory" in request.param else "cpu"
        bundle = tiny_bundle(folder, flow, widths, gathers=gathers)
        with Cascade(bundle, provider=provider, threads=1) as each:
            yield each


def check(said, wanted) -> None:
    assert [int(label) for label in said.label] == [each.label for each in wanted]
    assert said.confidence.tobytes() == np.array([each.confidence for each in wanted], np.float32).tobytes()
    assert said.exit.tolist() == [each.exit for each in wanted]
    ways = [tuple(np.array(said.stages)[way]) for way in said.way]
    assert ways == [each.way for each in wanted]


def test_the_flows_are_worth_testing(told):
    flow, _, wanted = told
    ways = Counter(each.way for each in wanted)
    assert len(ways) >= (1 if flow is SETTING else 2)
    assert set().union(*ways) == {each.name for each in flow.stops} or flow is SETTING


@pytest.mark.parametrize("batch", [1, 7, 64, 130])
def test_a_batch_is_answered_as_by_a_plain_loop(cascade, told, batch):
    _, _, wanted = told
    for at in range(0, 130, batch):
        check(cascade.predict(IMAGES[at : at + batch]), wanted[at : at + batch])


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_stream_is_answered_as_by_a_plain_loop(cascade, told, batch):
    _, _, wanted = told
    answers = list(cascade.stream(IMAGES, batch=batch))
    assert [(each.label, each.exit, each.way) for each in answers] == [
        (each.label, each.exit, each.way) for each in wanted
    ]
    assert [np.float32(each.confidence) for each in answers] == [each.confidence for each in wanted]


def test_every_mix_of_ways_in_one_batch(cascade, told):
    _, _, wanted = told
    ways = sorted({each.way for each in wanted})
    places = {way: [i for i, each in enumerate(wanted) if each.way == way] for way in ways}
    for chosen in range(1, 2 ** len(ways)):
        rows = [i for bit, way in enumerate(ways) if chosen >> bit & 1 for i in places[way][:3]]
        rows = rows[::2] + rows[1::2]
        check(cascade.predict(IMAGES[rows]), [wanted[i] for i in rows])


def test_an_empty_batch_has_no_answers(cascade):
    said = cascade.predict(IMAGES[:0], timed=True)
    assert len(said) == 0
    assert said.way.shape == (0, len(cascade.names))
    assert set(said.stage_seconds) == {0.0}
    assert list(cascade.stream([])) == []


@pytest.mark.parametrize("threshold", [2.0, -1.0])
def test_nobody_or_everybody_exits_early(cascade, told, threshold):
    flow, widths, _ = told
    thresholds = [threshold] * len(flow.early)
    wanted = by_a_plain_loop(flow.with_thresholds(thresholds), IMAGES, widths)
    check(cascade.predict(IMAGES, thresholds=thresholds), wanted)
    answers = list(cascade.stream(IMAGES, thresholds=thresholds, batch=16))
    assert [each.way for each in answers] == [each.way for each in wanted]


def test_with_all_the_time_there_is_deadlines_change_nothing(cascade, told):
    _, _, wanted = told
    check(cascade.predict(IMAGES, deadline_ms=1e6), wanted)


def test_without_any_time_each_sample_has_its_first_answer(cascade, told):
    flow, _, wanted = told
    cascade.predict(IMAGES[:8], timed=True)
    said = cascade.predict(IMAGES, deadline_ms=0)
    answering = {each.name for each in flow.stops if each.answers}
    firsts = [next(i for i, name in enumerate(each.way) if name in answering) for each in wanted]
    assert [tuple(np.array(said.stages)[way]) for way in said.way] == [
        each.way[: first + 1] for each, first in zip(wanted, firsts, strict=True)
    ]


def test_a_setting_is_the_callers_to_choose(tmp_path):
    with Cascade(tiny_bundle(tmp_path / "bundle", SETTING), provider="cpu", threads=1) as cascade:
        for choice in ("quarter", "half", "full"):
            settings = {"width": choice}
            wanted = by_a_plain_loop(SETTING, IMAGES, settings=settings)
            check(cascade.predict(IMAGES, settings=settings), wanted)
            assert {each.way for each in cascade.stream(IMAGES, settings=settings)} == {(choice,)}
        for settings, told in (
            ({"width": "double"}, "width: expected quarter or half or full, got 'double'"),
            ({"height": "full"}, "expected width as a setting, got 'height'"),
            ({"width": 1}, "expected settings by name"),
            ("full", "expected settings by name"),
        ):
            with pytest.raises(OptionError, match=told):
                cascade.predict(IMAGES, settings=settings)


def test_probabilities_and_times_come_with_the_answers(cascade, told):
    _, _, wanted = told
    said = cascade.predict(IMAGES, probabilities=True, timed=True)
    assert (said.probabilities == said.confidence[:, None]).all()
    ran = {name for each in wanted for name in each.way}
    assert {name for name, s in zip(said.stages, said.stage_seconds, strict=True) if s > 0} == ran
    assert said.timing.copied > 0
    assert said.timing.rest > 0
    for answer, each in zip(cascade.stream(IMAGES, probabilities=True), wanted, strict=True):
        assert (answer.probabilities == each.confidence).all()


def test_only_a_chain_has_a_last_stage(cascade, told):
    flow, widths, _ = told
    if flow.is_chain:
        check(cascade.predict(IMAGES, last_stage=1), by_a_plain_loop(flow.up_to(1), IMAGES, widths))
    else:
        with pytest.raises(OptionError, match="a last stage goes with a chain"):
            cascade.predict(IMAGES, last_stage=1)


# --- what is no flow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stops", "told"),
    [
        ([stop("a", [IMAGE]), stop("b", [IMAGE])], "stage 'b' is reached by no route"),
        ([stop("a", ["x"])], "stage 'a' reads 'x', which is not given on every way there"),
        ([stop("a", [IMAGE], then=Route(to=("a",)))], "stage 'a' leads back to 'a', expected a later stage"),
        ([stop("a", [IMAGE], then=Route(to=("z",)))], "stage 'a' leads to 'z', which is no stage"),
        ([stop("a", [IMAGE], answers=False)], "stage 'a' gives nothing"),
        ([stop("a", [IMAGE], ["x"], answers=False)], "stage 'a' is left without an answer"),
        ([stop("a", [IMAGE]), stop("a", [IMAGE])], "no two stages may be called alike"),
        ([stop("answer", [IMAGE])], "no two stages may be called alike"),
        (
            [stop("a", [IMAGE], then=Route(to=(ANSWER,), by=Threshold(of=CONFIDENCE, at=0.5)))],
            "stage 'a' leads to 1 places, its rule to 2",
        ),
        (
            [stop("a", [IMAGE], then=Route(to=(ANSWER,), by=Largest(of="gate")))],
            "stage 'a' goes by 'gate', which is not given",
        ),
        (
            [
                stop("a", [IMAGE], ["x"], Route(to=("b", "c"), by=Threshold(of=CONFIDENCE, at=0.5))),
                stop("b", ["x"], ["y"], Route(to=("c",))),
                stop("c", ["x", "y"]),
            ],
            "stage 'c' reads 'y', which is not given on every way there",
        ),
        (
            [stop("a", [IMAGE], then=Route(to=(ANSWER,), by=Setting(name="width")))],
            "stage 'a' goes by 'width', which is no setting",
        ),
        (
            [
                stop("a", [IMAGE], ["x"], Route(to=("b",))),
                stop("b", ["x"], ["y"], exits_if(0.5, "c"), answers=False),
                stop("c", ["x"]),
            ],
            "stage 'b' goes by confidence, but gives no answer",
        ),
    ],
)
def test_what_cannot_be_gone_is_refused_with_stage_and_tensor(stops, told):
    with pytest.raises(BundleError, match=told):
        Flow(start=Route(to=(stops[0].name,)), stops=tuple(stops))


# --- any flow ----------------------------------------------------------------------------------------------

NAMES = ("p", "q", "r", "gate_2", "gate_3", "one")
REFUSED = (
    r"stage 'stage_\d' (reads '\w+', which is not given on every|is left without an answer|gives nothing)"
)
RANDOM_WIDTHS = {"gate_2": 2, "gate_3": 3, "one": 0}


def random_flow(rng: random.Random) -> Flow:
    """Most of what a stage reads has been given, now and then not; the next stage is always a way to go."""
    count = rng.randint(2, 6)
    choices = Choices(choices=("this", "that"), default=rng.choice(["this", "that"]))
    names = [f"stage_{k}" for k in range(count)]
    there: dict[str, set[str]] = {names[0]: {IMAGE}}
    stops = []
    for k, name in enumerate(names):
        has = there[name]
        pool = NAMES if rng.random() < 0.05 else sorted(has & {IMAGE, *NAMES})
        reads = rng.sample(pool, rng.randint(1, min(3, len(pool))))
        gives = rng.sample(NAMES, rng.randint(0, 3))
        answers = rng.random() < 0.6 or k == count - 1
        has = has | set(gives) | ({"answered"} if answers else set())
        route = random_route(rng, names[k + 1 :], has, answers=answers) if k < count - 1 else DONE
        for target in route.to:
            there[target] = there.get(target, has) & has
        stops.append(stop(name, reads, gives, route, answers=answers))
    return Flow(start=Route(to=(names[0],)), stops=tuple(stops), settings={"choice": choices})


def random_route(rng: random.Random, later: list[str], has: set[str], *, answers: bool) -> Route:
    after = [*later, *([ANSWER] * 2 if "answered" in has or rng.random() < 0.05 else [])]
    rules = [Setting(name="choice")]
    rules += [Threshold(of=CONFIDENCE, at=rng.choice([0.2, 0.5, 0.8, 2.0]))] * 2 if answers else []
    rules += [Largest(of=name) for name in ("gate_2", "gate_3") if name in has]
    rules += [Threshold(of=name, at=rng.uniform(-1, 1), column=1) for name in ("p", "gate_3") if name in has]
    rules += [Threshold(of="one", at=-0.2)] if "one" in has else []
    rule = rng.choice(rules)
    to = [later[0], *rng.choices(after, k=2 if rule == Largest(of="gate_3") else 1)]
    rng.shuffle(to)
    return Route(to=tuple(to), by=rule)


def flow_number(seed: int) -> Flow | str:
    """A random flow, or why it is none."""
    try:
        return random_flow(random.Random(seed))  # noqa: S311 - tests, not secrets
    except BundleError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(100))
def test_a_random_flow_is_refused_or_runs_right(seed, tmp_path):
    flow = flow_number(seed)
    if isinstance(flow, str):
        assert re.match(REFUSED, flow)
        return
    wanted = by_a_plain_loop(flow, IMAGES[:40], RANDOM_WIDTHS)
    bundle = tiny_bundle(tmp_path / "bundle", flow, RANDOM_WIDTHS, gathers=bool(seed % 2))
    with Cascade(bundle, provider="cpu", threads=1) as cascade:
        check(cascade.predict(IMAGES[:40]), wanted)
        streamed = list(cascade.stream(IMAGES[:40], batch=7))
    assert [(each.label, each.exit, each.way) for each in streamed] == [
        (each.label, each.exit, each.way) for each in wanted
    ]


def test_random_flows_are_worth_testing():
    tried = [flow_number(seed) for seed in range(100)]
    sound = [flow for flow in tried if not isinstance(flow, str)]
    ways = [len({each.way for each in by_a_plain_loop(flow, IMAGES[:20], RANDOM_WIDTHS)}) for flow in sound]
    assert len(sound) in range(50, 96)
    assert sum(each > 1 for each in ways) >= 30
    assert sum(each > 2 for each in ways) >= 6
