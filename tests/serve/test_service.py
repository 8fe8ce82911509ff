"""The service: whoever else is served at the time, a request is answered as `Cascade.predict` answers it."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from served import Held
from tiny_flows import CHAIN, FLOWS, SETTING, by_a_plain_loop, images_of, tiny_bundle

from s2dnas_deploy.errors import BundleError, DataError, OptionError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Stages
from s2dnas_deploy.serve.queue import BusyError, ClosedError
from s2dnas_deploy.serve.service import Service
from s2dnas_deploy.serve.ticket import CancelledError

IMAGES = images_of(130)
SOON = 30  # seconds: a test that waits longer has failed


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Cascades of tiny flows, each loaded once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            flow, widths = FLOWS[name]
            bundle = tiny_bundle(tmp_path_factory.mktemp("flow") / "bundle", flow, widths)
            loaded[name] = Cascade(bundle, provider="cpu", threads=1)
        return loaded[name]

    yield load
    for cascade in loaded.values():
        cascade.close()


@pytest.fixture
def chain(load):
    return load(next(name for name, (flow, _) in FLOWS.items() if flow is CHAIN))


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("workers", "wait"), [(1, 0), (1, 20), (3, 2)])
def test_many_callers_are_answered_as_by_a_plain_loop(load, name, workers, wait):
    flow, widths = FLOWS[name]
    wanted = by_a_plain_loop(flow, IMAGES, widths)
    rng, parts = np.random.default_rng(0), []
    while sum(map(len, parts)) < 600:
        parts.append(rng.integers(0, len(IMAGES), rng.integers(1, 9)))
    with Service(load(name), batch=8, max_wait_ms=wait, workers=workers) as service:
        with ThreadPoolExecutor(8) as callers:
            said = list(callers.map(lambda rows: service.predict(IMAGES[rows], probabilities=True), parts))
        counts = service.counts
    for rows, each in zip(parts, said, strict=True):
        assert each.label.tolist() == [wanted[row].label for row in rows]
        assert each.confidence.tolist() == [wanted[row].confidence for row in rows]
        ways = [tuple(np.array(each.stages)[way]) for way in each.way]
        assert ways == [wanted[row].way for row in rows]
        assert each.probabilities.shape == (len(rows), len(load(name).labels))
    asked = sum(map(len, parts))
    assert sum(counts.exits) == counts.waited.count == asked
    assert counts.took.count == len(parts)
    assert sum(histogram.sum for histogram in counts.fill) == sum(
        len(wanted[row].way) for rows in parts for row in rows
    )


def test_each_request_has_its_own_thresholds_and_last_stage_in_a_shared_batch(chain, monkeypatch):
    held = Held(monkeypatch)
    asked = [{"thresholds": t} for t in ((0.0, 0.0), (2.0, 2.0), (0.5, 2.0), (2.0, 0.3))]
    asked += [{"last_stage": 0}, {"last_stage": 1, "thresholds": (2.0, 2.0)}, {}]
    with Service(chain, batch=256) as service:
        service.submit(IMAGES[:1])
        assert held.begun.wait(SOON)  # all that follow wait for the first stage together
        tickets = [(options, service.submit(IMAGES[:30], **options)) for options in asked]
        held.go.set()
        said = [(options, ticket.result(SOON)) for options, ticket in tickets]
        assert service.counts.fill[0].count == 2
    monkeypatch.undo()
    for options, each in said:
        wanted = chain.predict(IMAGES[:30], **options)
        np.testing.assert_array_equal(each.label, wanted.label)
        np.testing.assert_array_equal(each.confidence, wanted.confidence)
        np.testing.assert_array_equal(each.exit, wanted.exit)


def test_each_request_has_its_own_setting(load):
    name = next(name for name, (flow, _) in FLOWS.items() if flow is SETTING)
    ((setting, choices),) = SETTING.settings.items()
    with Service(load(name), batch=16) as service:
        tickets = [
            (choice, service.submit(IMAGES[k : k + 3], settings={setting: choice}))
            for k in range(20)
            for choice in choices.choices
        ]
        for number, (choice, ticket) in enumerate(tickets):
            at = number // len(choices.choices)
            wanted = load(name).predict(IMAGES[at : at + 3], settings={setting: choice})
            np.testing.assert_array_equal(ticket.result(SOON).label, wanted.label)
            np.testing.assert_array_equal(ticket.result(SOON).exit, wanted.exit)


def test_whose_time_is_up_gets_the_best_answer_so_far_and_others_go_on(chain, monkeypatch):
    held = Held(monkeypatch)
    never = (2.0,) * len(chain.flow.early)
    with Service(chain, batch=64) as service:
        patient = service.submit(IMAGES[:20], thresholds=never)
        assert held.begun.wait(SOON)
        hasty = service.submit(IMAGES[:20], thresholds=never, deadline_ms=0)
        held.go.set()
        assert set(hasty.result(SOON).exit) == {0}
        assert set(patient.result(SOON).exit) == {len(chain.names) - 1}
        assert set(service.predict(IMAGES[:5], thresholds=never, deadline_ms=60_000).exit) == {
            len(chain.names) - 1
        }
    np.testing.assert_array_equal(hasty.answers().label, chain.predict(IMAGES[:20], last_stage=0).label)


def test_past_the_bound_callers_are_refused_at_once_and_admitted_again_later(chain, monkeypatch):
    held = Held(monkeypatch)
    size = IMAGES[:10].nbytes
    with Service(chain, batch=64, most_bytes=2 * size) as service:
        with pytest.raises(BusyError, match="more than is admitted at all") as never:
            service.submit(IMAGES[:21])
        assert never.value.retry_after == 0
        accepted = [service.submit(IMAGES[:10]) for _ in range(2)]
        with pytest.raises(BusyError, match="try again in") as refused:
            service.submit(IMAGES[:1])
        assert refused.value.retry_after > 0
        held.go.set()
        for ticket in accepted:
            ticket.result(SOON)
        until = time.monotonic() + SOON
        while service.queue.held_bytes and time.monotonic() < until:
            time.sleep(0.001)
        assert len(service.predict(IMAGES[:10])) == 10


def test_who_would_wait_too_long_is_refused_at_once(chain, monkeypatch):
    held = Held(monkeypatch)
    with Service(chain, batch=4, max_queue_ms=2000, workers=2) as service:
        service.queue.give_back([], answered=10, seconds=10.0)  # so long images have taken lately
        tickets = [service.submit(IMAGES[:4]) for _ in range(2)]
        assert held.begun.wait(SOON)
        while service.queue.samples:
            time.sleep(0.001)
        tickets += [service.submit(IMAGES[:2]) for _ in range(3)]  # 4 of them take 2 s, of two workers
        with pytest.raises(BusyError, match=r"one has to wait for 3\.0 s, and 2 s are admitted") as refused:
            service.submit(IMAGES[:1])
        assert refused.value.retry_after == pytest.approx(1.0)
        held.go.set()
        for ticket in tickets:
            ticket.result(SOON)


def test_who_hangs_up_frees_its_place_and_harms_nobody(chain, monkeypatch):
    held = Held(monkeypatch)
    with Service(chain, batch=8) as service:
        running = service.submit(IMAGES[:8])
        assert held.begun.wait(SOON)
        waiting, other = service.submit(IMAGES[:40], caller="a"), service.submit(IMAGES[:8], caller="b")
        running.cancel()
        waiting.cancel()
        held.go.set()
        np.testing.assert_array_equal(other.result(SOON).label, chain.predict(IMAGES[:8]).label)
        for ticket in (running, waiting):
            with pytest.raises(CancelledError):
                ticket.result(SOON)
        assert service.counts.fill[0].sum == 16  # nothing ran of what had not begun
        service.close(SOON)
        assert service.queue.held_bytes == service.queue.samples == 0


def test_a_caller_who_asks_for_much_does_not_keep_others_waiting(chain, monkeypatch):
    held = Held(monkeypatch)
    order = []
    with Service(chain, batch=8) as service:
        service.submit(IMAGES[:1], caller="first")
        assert held.begun.wait(SOON)
        much = [
            service.submit(IMAGES[:100], caller="much", ended=lambda ticket: order.append("much"))
            for _ in range(3)
        ]
        little = service.submit(IMAGES[:4], caller="little", ended=lambda ticket: order.append("little"))
        held.go.set()
        for ticket in (*much, little):
            ticket.result(SOON)
    assert order == ["little", "much", "much", "much"]


def test_closing_answers_all_that_was_accepted_and_takes_no_more(chain):
    service = Service(chain, batch=4, max_wait_ms=60_000)
    tickets = [service.submit(IMAGES[k : k + 3]) for k in range(50)]
    assert service.close(SOON)
    for k, ticket in enumerate(tickets):
        np.testing.assert_array_equal(ticket.answers().label, chain.predict(IMAGES[k : k + 3]).label)
    with pytest.raises(ClosedError):
        service.submit(IMAGES[:1])


def test_a_stage_that_fails_is_told_to_whom_it_concerns_and_the_service_goes_on(chain, monkeypatch):
    run = Stages.run

    def failing(stages, stage, buffers, count, brought=None):
        if stage == 1:
            raise BundleError("stage 1 is broken")
        run(stages, stage, buffers, count, brought)

    monkeypatch.setattr(Stages, "run", failing)
    never, at_once = (2.0,) * len(chain.flow.early), (0.0,) * len(chain.flow.early)
    with Service(chain, batch=16) as service:
        for _ in range(3):
            with pytest.raises(BundleError, match="stage 1 is broken"):
                service.submit(IMAGES[:40], thresholds=never).result(SOON)
            assert len(service.submit(IMAGES[:40], thresholds=at_once).result(SOON)) == 40
        service.close(SOON)
        assert service.queue.held_bytes == 0


def test_later_rooms_wait_for_company_no_longer_than_they_may(chain):
    """Few survivors of many requests share a batch if they may wait, and none does if not."""
    exits = chain.predict(IMAGES).exit
    some = np.flatnonzero(exits > 0)[:40]
    assert len(some) > 8
    fills = {}
    for wait in (0, 60_000):
        with Service(chain, batch=8, max_wait_ms=wait) as service:
            tickets = []
            for row in some:
                tickets.append(service.submit(IMAGES[row : row + 1]))
                if not wait:
                    tickets[-1].result(SOON)
            service.close(SOON)
            fills[wait] = service.counts.fill[1]
    assert fills[0].sum == fills[0].count == len(some)
    assert fills[60_000].count < len(some) / 4


@pytest.mark.parametrize(
    ("images", "options", "error"),
    [
        (IMAGES[:0], {}, DataError),
        (IMAGES[0], {}, DataError),
        (IMAGES.astype(np.float64), {}, DataError),
        (["none.png"], {}, DataError),
        (IMAGES[:1], {"thresholds": (0.5,) * 9}, OptionError),
        (IMAGES[:1], {"last_stage": 99}, OptionError),
        (IMAGES[:1], {"settings": {"width": "half"}}, OptionError),
        (IMAGES[:1], {"deadline_ms": -1}, OptionError),
    ],
)
def test_what_cannot_be_answered_is_refused_before_it_waits(chain, images, options, error):
    with Service(chain) as service, pytest.raises(error):
        service.submit(images, **options)


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"max_wait_ms": -1}, {"workers": 0}, {"workers": 1000}, {"most_bytes": 0}]
)
def test_a_service_that_cannot_be_is_refused(chain, options):
    with pytest.raises(OptionError):
        Service(chain, **options)
