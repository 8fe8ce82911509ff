"""The promise, watched: what is compared, what is told, and that callers notice nothing of it."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_flows import CHAIN, FLOWS, images_of, tiny_bundle

from s2dnas_deploy.bundle.entries import Promise
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.serve.audit import bound_of, more_cautious
from s2dnas_deploy.serve.service import Service

IMAGES = images_of(400)
SOON = 30


def promise(**changes):
    values = {"statement": "Fine.", "images": 9, "max_drop": 0.01, "probability": 0.95, "observed_drop": 0.0}
    return Promise(**{**values, "other_answers": 0.02, **changes})


@pytest.fixture
def load(tmp_path):
    """The chain with a promise, whose early exits answer otherwise than the last one on some images."""
    opened = []

    def load(made=None, name="chain"):
        flow, widths = (CHAIN, None) if name == "chain" else FLOWS[name]
        bundle = tiny_bundle(tmp_path / name, flow, widths)
        bundle = replace(bundle, manifest=replace(bundle.manifest, promise=made or promise()))
        opened.append(Cascade(bundle, provider="cpu", threads=1))
        return opened[-1]

    yield load
    for cascade in opened:
        cascade.close()


def test_all_are_compared_with_the_last_exit_and_answered_as_ever(load):
    cascade = load()
    never = (2.0,) * len(cascade.flow.early)
    said, last = cascade.predict(IMAGES), cascade.predict(IMAGES, thresholds=never)
    with Service(cascade, batch=16, audit=1.0) as service:
        for k in range(0, len(IMAGES), 4):  # a few at a time, so that there is always time
            found = service.predict(IMAGES[k : k + 4])
            np.testing.assert_array_equal(found.label, said.label[k : k + 4])
            np.testing.assert_array_equal(found.exit, said.exit[k : k + 4])
        service.close(SOON)
        watch = service.audit.watch if not service.audit.broken else None
        told = service.audit.told
        assert sum(service.counts.exits) == len(IMAGES)
    assert told["audited_total"] == len(IMAGES)
    assert told["audited_otherwise_total"] == (said.label != last.label).sum() > 0
    assert watch is None or not watch.broken


def test_a_promise_that_is_broken_is_told_once(load):
    heard = []
    cascade = load(promise(other_answers=0.001, max_drop=0.001))
    with Service(cascade, batch=16, audit=1.0, say=heard.append) as service:
        for _ in range(5):
            for k in range(0, len(IMAGES), 4):
                service.predict(IMAGES[k : k + 4])
        service.close(SOON)
        assert service.audit.told["promise_broken_total"] == 1
        assert service.thresholds is None
    (told,) = heard
    assert "the promise is broken: the last exit answers" in told
    assert "0.20% were promised" in told


def test_thresholds_rise_if_that_was_asked_for_and_fewer_exit_early(load):
    heard = []
    cascade = load(promise(other_answers=0.001, max_drop=0.001))
    with Service(cascade, audit=1.0, on_broken="raise-thresholds", say=heard.append) as service:
        shares = []
        for _ in range(12):
            exits = [service.predict(IMAGES[k : k + 4]).exit for k in range(0, len(IMAGES), 4)]
            shares.append((np.concatenate(exits) == len(cascade.names) - 1).mean())
        own = service.predict(IMAGES, thresholds=cascade.flow.thresholds)
        np.testing.assert_array_equal(own.exit, cascade.predict(IMAGES).exit)  # what a caller says goes
    assert shares[-1] > shares[0]
    assert len(heard) >= 4
    assert "from now on" in heard[1]


def test_requests_that_ask_for_something_else_are_not_compared(load):
    cascade = load()
    asked = [{"thresholds": cascade.flow.thresholds}, {"last_stage": 0}, {"deadline_ms": 1000}]
    with Service(cascade, audit=1.0) as service:
        for options in asked:
            service.submit(IMAGES[:20], **options).result(SOON)
        service.close(SOON)
        assert service.audit.told["audited_total"] == 0


def test_where_there_is_much_to_do_nothing_is_compared(load):
    cascade = load()
    with Service(cascade, batch=4, audit=1.0) as service:
        tickets = [service.submit(IMAGES) for _ in range(20)]
        for ticket in tickets:
            ticket.result(SOON)
        service.close(SOON)
        assert service.audit.told["audited_total"] < 20 * len(IMAGES) / 4


def test_about_a_share_is_compared(load):
    with Service(load(), audit=0.1) as service:
        for _ in range(5):
            for k in range(0, len(IMAGES), 4):
                service.predict(IMAGES[k : k + 4])
        service.close(SOON)
        assert service.audit.told["audited_total"] == pytest.approx(200, abs=60)


@pytest.mark.parametrize(
    ("made", "bound"),
    [
        (promise(), 0.03),
        (promise(observed_drop=0.004), 0.026),
        (promise(observed_drop=-0.02), 0.03),
        (promise(observed_drop=0.02), 0.02),
    ],
)
def test_the_bound_is_what_was_usual_and_what_may_be_lost(made, bound):
    assert bound_of(made) == pytest.approx(bound)


@pytest.mark.parametrize("made", [None, promise(max_drop=None), promise(other_answers=None)])
def test_without_a_promise_there_is_nothing_to_watch(made):
    with pytest.raises(OptionError, match="calibrate it with s2dnas-calibrate"):
        bound_of(made)


def test_only_a_chain_is_watched(load):
    with pytest.raises(OptionError, match="for a chain of stages"):
        Service(load(name="gate"), audit=0.1)


def test_more_cautious_thresholds_are_the_next_on_the_path():
    first, second, never, always = more_cautious((0.5, 0.9, 2.0, 0.0))
    assert (first, second) == pytest.approx((0.6225, 0.9368), abs=1e-4)
    assert (never, always) == (2.0, 0.0)
