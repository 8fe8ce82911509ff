"""Bundles whose stages are no chain, from the command line: run, measured, and what they cannot do."""

import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_flows import FLOWS, SETTING, by_a_plain_loop, images_of, tiny_bundle

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.cli import bench, calibrate, inspect, run

IMAGES = images_of(200)
FLOW, WIDTHS = FLOWS["gate then exits"]
WANTED = by_a_plain_loop(FLOW, IMAGES, WIDTHS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two bundles, and images in an archive."""
    folder = tmp_path_factory.mktemp("flows")
    tiny_bundle(folder / "ways", FLOW, WIDTHS)
    tiny_bundle(folder / "widths", SETTING)
    np.save(folder / "images.npy", IMAGES)
    return folder


def invoke(command, *words):
    return CliRunner().invoke(command, [str(word) for word in words])


def test_records_tell_the_way(folder):
    words = ("--bundle", folder / "ways", folder / "images.npy")
    lines = [json.loads(line) for line in invoke(run, *words).stdout.splitlines()]
    assert [line["way"] for line in lines] == [" > ".join(each.way) for each in WANTED]
    assert [line["exit"] for line in lines] == [each.exit for each in WANTED]
    rows = list(csv.DictReader(io.StringIO(invoke(run, *words, "--format", "csv").stdout)))
    assert [row["way"] for row in rows] == [" > ".join(each.way) for each in WANTED]


def test_the_bundle_is_told_in_words(folder):
    result = invoke(inspect, folder / "ways", "--verify")
    assert result.exit_code == 0, result.output
    assert "the largest of gate: s, l" in result.stdout
    assert "max_prob ≥ 0.6, not calibrated: answer, else s_more" in result.stdout


def test_it_is_measured(folder, tmp_path):
    words = "--noise --seconds 0.1 --processes 2 --threads 1"
    out, page = tmp_path / "bench.json", tmp_path / "bench.html"
    data = ("--data", folder / "images.npy", "--out", out, "--html", page)
    result = invoke(bench, folder / "ways", *data, *words.split())
    assert result.exit_code == 0, result.output
    report = Report.load(out)
    ways = {way.stages: way.images for way in report.answers.ways}
    names = [stop.name for stop in FLOW.stops]
    assert ways == {
        tuple(map(names.index, way)): sum(each.way == way for each in WANTED)
        for way in {e.way for e in WANTED}
    }
    assert sum(report.answers.counts) == len(IMAGES)
    assert "exit 0" not in report.runs[0].subjects
    assert "cascade" in result.stdout
    assert page.stat().st_size > 1000
    assert invoke(bench, "compare", out, out).exit_code == 0


def test_thresholds_have_no_path_where_there_is_no_chain(folder):
    result = invoke(calibrate, "--bundle", folder / "ways", folder / "images.npy", "--unlabelled")
    assert result.exit_code == 2
    assert "is no chain of stages with an exit each" in result.stderr
    last = invoke(run, "--bundle", folder / "ways", folder / "images.npy", "--last-stage", "1")
    assert last.exit_code == 2
    assert "a last stage goes with a chain of stages" in last.stderr
