"""The record comes back as it was written, and what it says adds up."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_report import TIMES, made_up_report, report_and_summary

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bench.summary import summarise
from s2dnas_deploy.bench.workers.subjects import YARDSTICKS
from s2dnas_deploy.cli.text.bench import report_csv, report_text
from s2dnas_deploy.errors import RecordError


def test_a_report_comes_back_as_it_was(tmp_path):
    report = made_up_report()
    (tmp_path / "r.json").write_text(report.to_json())
    assert Report.load(tmp_path / "r.json") == report


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "{}",
        '{"format": "s2dnas-bench", "version": 2}',
        '{"format": "s2dnas-bench", "version": 1, "runs": 3}',
    ],
)
def test_what_is_no_report_is_told(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(RecordError, match=r"r.json: .*expected"):
        Report.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("answers", "images"), "many"),
        (("decode_ms",), "soon"),
        (("measured", "timed_exits"), {"a": 1}),
        (("runs", 0, "batch"), True),
        (("answers", "counts"), [1, "2"]),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path, where, value):
    document = json.loads(made_up_report(processes=2, blocks=2).to_json())
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match="expected"):
        Report.load(tmp_path / "r.json")


def test_the_parts_add_up_to_the_mean():
    _, summary = report_and_summary()
    mean = summary.subjects["cascade"].mean.value
    assert summary.bare_ms + sum(v for k, v in summary.losses.items() if k != "kernels") == pytest.approx(
        mean
    )
    static = summary.subjects["static"].mean.value
    mean_macs = 0.6 * 100 + 0.2 * 300 + 0.2 * 1000
    assert summary.bare_ms - summary.losses["kernels"] == pytest.approx(static * mean_macs / 2000)
    assert summary.speed_up.by_macs == pytest.approx(2000 / mean_macs)
    assert summary.speed_up.realised.value == pytest.approx(static / mean)
    assert summary.speed_up.ideal == pytest.approx(static / summary.bare_ms)


def test_means_and_percentiles_are_those_of_the_timings():
    report, summary = report_and_summary()
    for name in TIMES:
        every = np.ravel(report.runs[0].subjects[name])
        found = summary.subjects[name]
        assert found.mean.value == pytest.approx(every.mean())
        assert found.batches == len(every) == 5 * 40 * 16
        assert found.quantiles["p90"].value == pytest.approx(np.quantile(every, 0.9))
        assert found.quantiles["p99.9"] is None  # of 3200 timings 3 are beyond: a matter of chance


def test_latency_by_exit_is_of_the_images_that_left_there():
    report = made_up_report(blocks=10)
    summary = summarise(report.runs[0], report)
    assert [each.batches for each in summary.exits] == [
        5 * 96,
        5 * 32,
        5 * 32,
    ]


def test_the_table_names_what_was_not_measured():
    report = made_up_report(blocks=10, static=False)
    text = report_text(report, [summarise(run, report) for run in report.runs])
    assert "as fast as" not in text
    assert "static" not in text.replace("the static network's share", "")
    assert "p99.9" not in text


@pytest.mark.parametrize(
    ("speed_up", "layout", "words"),
    [
        (2.5, 0.05, ""),
        (0.6, 0.05, "The cascade is slower than the static network here"),
        (1.03, 0.0, "The cascade is hardly faster than the static network here"),
        (1.2, 0.5, "Whether the cascade is faster is not certain"),
    ],
)
def test_a_cascade_that_is_not_worth_it_is_told(speed_up, layout, words):
    factor = TIMES["static"] / TIMES["cascade"] / speed_up
    report = made_up_report(factors={"cascade": factor}, layout=layout, blocks=10)
    text = report_text(report, [summarise(run, report) for run in report.runs])
    assert words in text
    assert bool(words) == any(word in text for word in ("The cascade is", "Whether the cascade"))


@pytest.mark.parametrize("speed", [1.0, 200.0])
def test_columns_stay_apart_however_long_things_take(speed):
    report = made_up_report(speed=speed, blocks=10)
    lines = report_text(report, [summarise(run, report) for run in report.runs]).splitlines()
    head = next(number for number, line in enumerate(lines) if line.split()[:2] == ["mean", "p50"])
    columns = len(lines[head].split())
    assert len(lines[head + 1].split()) == 1 + columns
    assert len(lines[head + 2].split()) == columns


def test_csv_has_a_row_for_each_subject():
    report, summary = report_and_summary()
    rows = list(csv.DictReader(io.StringIO(report_csv(report, [summary]))))
    subjects = [name for name in TIMES if name not in YARDSTICKS]
    parts = [f"{what} {k}" for what in ("leaving at", "stage") for k in range(3)]
    assert [row["subject"] for row in rows] == [*subjects, *parts]
    for row in rows:
        assert float(row["mean_low_ms"]) <= float(row["mean_ms"]) <= float(row["mean_high_ms"])
        assert float(row["p50_low_ms"]) <= float(row["p50_ms"]) <= float(row["p50_high_ms"])
        assert row["p99.9_ms"] == row["p99.9_low_ms"] == ""


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("answers", "images"), 0, "answers.images: expected a whole number from 1"),
        (("answers", "counts"), [60, 20, 21], "101 images left at some exit, of 100"),
        (("answers", "counts"), [60, 40], "3 accuracies for 2 exits"),
        (("answers", "exit_accuracy"), [0.5], "1 accuracies for 3 exits"),
        (("answers", "cascade_accuracy"), 1.5, "from 0 to 1, got 1.5"),
        (("measured", "timed_exits"), [], "timed_exits: expected a list of length 1"),
        (("measured", "timed_exits"), [3], "exit 3 of 3 stages"),
        (("measured", "stage_macs"), [0, 0, 0], "MACs of all stages above 0"),
        (("measured", "static_macs"), 0, "static_macs: expected a whole number from 1"),
        (("measured", "static"), None, "that was not measured"),
        (("runs",), [], "runs: expected a list of length 1"),
        (("runs", 0, "provider"), "abacus", "provider: expected cpu or"),
        (("runs", 0, "subjects", "cascade"), [], "cascade'.: expected a list of length 1"),
        (("runs", 0, "subjects", "memory", 0, 0), [], r"memory'.\[0\]\[0\]: expected a list of length 1"),
        (("runs", 0, "subjects", "static", 0, 0, 0), 0, "'static': expected times above 0"),
        (("runs", 0, "stages"), [[[[0.0] * 16] * 2] * 2] * 3, "'stages': expected times above 0"),
        (("runs", 0, "subjects", "static", 0, 0, 0), -1, "expected a number from 0"),
        (("runs", 0, "subjects", "static", 0, 0, 0), float("nan"), "finite, got NaN"),
        (
            ("runs", 0, "subjects", "static", 0, 0),
            [1.0],
            "'static': expected as many blocks as of the cascade",
        ),
        (("runs", 0, "subjects", "static"), [[[1.0] * 16]], "'static': expected as many blocks"),
        (("runs", 0, "copied", 0), [[1.0] * 16], "'copied': expected as many blocks"),
        (("runs", 0, "stages"), [], "stages: expected a list of length 1"),
        (("runs", 0, "energy", "cascade", "images"), 0, "images: expected a whole number from 1"),
        (("cold", "cascade", "peak_bytes"), [], "peak_bytes: expected a list of length 1"),
        (("environment", "machine", "processor"), None, "machine.processor: expected text, got null"),
        (("environment", "machine", "processor"), "a\x1b[2J", "without control characters"),
        (("frontier", 0, "cost"), 0, r"frontier\[0\].cost: expected a number from"),
        (("unknown",), 1, "expected no other keys, got 'unknown'"),
    ],
)
def test_what_arithmetic_could_not_be_done_with_is_refused(tmp_path, where, value, message):
    document = json.loads(made_up_report(processes=2, blocks=2).to_json())
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match=message):
        Report.load(tmp_path / "r.json")


@pytest.mark.parametrize("missing", ["cascade", "memory", "arithmetic", "exit 1", "static"])
def test_a_subject_that_is_missing_is_told(tmp_path, missing):
    document = json.loads(made_up_report(processes=2, blocks=2).to_json())
    del document["runs"][0]["subjects"][missing]
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match="expected"):
        Report.load(tmp_path / "r.json")


def test_a_cascade_without_macs_has_no_speed_up_by_macs():
    report = made_up_report(processes=2, blocks=2)
    measured = replace(report.measured, stage_macs=(0, 0, 1))
    answers = replace(report.answers, counts=(100, 0, 0))
    report = replace(report, measured=measured, answers=answers)
    summary = summarise(report.runs[0], report)
    assert summary.speed_up.by_macs is None
    assert report_text(report, [summary])
