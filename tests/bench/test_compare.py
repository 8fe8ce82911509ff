"""A slower build is found, the same build is not called slower, and what cannot be compared is refused."""

import pytest
from made_up_report import made_up_report

from s2dnas_deploy.bench.compare import compare
from s2dnas_deploy.errors import OptionError


def seeds(quick, all_of_them):
    """The first few always, the others where there is time."""
    rest = pytest.param(range(quick, all_of_them), marks=pytest.mark.slow, id="the others")
    return pytest.mark.parametrize("seeds", [pytest.param(range(quick), id="a few"), rest])


def changes(before, after, **options):
    return {change.subject: change for change in compare(before, after, **options).changes}


@seeds(8, 30)
def test_the_same_build_on_a_noisy_machine_is_not_called_different(seeds):
    for seed in seeds:
        before = made_up_report(2 * seed, layout=0.01)
        after = made_up_report(2 * seed + 1, layout=0.01, speed=1.4)
        found = changes(before, after)
        assert not [name for name, each in found.items() if each.is_slower or each.is_faster], seed


@pytest.mark.parametrize("slowed", ["cascade", "stage 1", "exit 2"])
@seeds(3, 10)
def test_five_percent_are_found_and_nothing_else(slowed, seeds):
    for seed in seeds:
        before = made_up_report(2 * seed, layout=0.005)
        comparison = compare(before, made_up_report(2 * seed + 1, layout=0.005, factors={slowed: 1.05}))
        assert [change.subject for change in comparison.regressions(0.02)] == [slowed], seed
        (change,) = comparison.regressions(0.02)
        assert change.by.value == pytest.approx(0.05, abs=0.02)


@seeds(3, 10)
def test_a_slower_stage_is_found_though_memory_is_shared_with_other_programs(seeds):
    for seed in seeds:
        settings = {"layout": 0.005, "contention": 0.15}
        before, same = (made_up_report(2 * seed + i, **settings) for i in (0, 1))
        assert not [each for each in changes(before, same).values() if each.is_slower or each.is_faster]
        slower = made_up_report(2 * seed + 1, **settings, factors={"stage 2": 1.07})
        assert [change.subject for change in compare(before, slower).regressions(0.02)] == ["stage 2"], seed


def test_a_regression_is_above_the_limit_and_beyond_noise():
    slower = compare(made_up_report(0), made_up_report(1, factors={"cascade": 1.08}))
    assert slower.regressions(0.05)
    assert not slower.regressions(0.10)
    noisy = compare(
        made_up_report(0, layout=0.2, processes=3),
        made_up_report(1, layout=0.2, processes=3, factors={"cascade": 1.1}),
    )
    assert not noisy.regressions(0.02)


def test_faster_is_no_regression():
    found = compare(made_up_report(0), made_up_report(1, factors={"cascade": 0.8}))
    assert {change.subject for change in found.changes if change.is_faster} == {"cascade"}
    assert not found.regressions(0.001)


def test_another_machine_bundle_or_images_are_refused_unless_forced():
    from dataclasses import replace

    before = made_up_report(0)
    others = {
        "processor": made_up_report(0, machine={"processor": "Other 1"}),
        "cores": made_up_report(0, machine={"cores": 64}),
        "another bundle": replace(before, measured=replace(before.measured, digest="d" * 64)),
        "other images": replace(before, measured=replace(before.measured, images_digest="d" * 64)),
    }
    for what, other in others.items():
        with pytest.raises(OptionError, match=what):
            compare(before, other)
        assert any(what in told for told in compare(before, other, force=True).differences)


def test_a_new_kernel_is_worth_a_note_only():
    found = compare(made_up_report(0), made_up_report(0, machine={"kernel": "6.2"}))
    assert found.differences == ("kernel 6.1 and 6.2",)


def test_nothing_in_common_is_told():
    from dataclasses import replace

    before = made_up_report(0)
    after = replace(before, runs=(replace(before.runs[0], threads=8),))
    with pytest.raises(OptionError, match=r"1 thread, .* in the first, .*8 threads"):
        compare(before, after)
