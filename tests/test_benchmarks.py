"""The tables in the pages say what the benchmarks' records say; and newcomers bring what they should."""

import dataclasses
import importlib
import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

from s2dnas_deploy.workshop.reading.read import read_network

ROOT = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "record", "rows"),
    [
        ("exit_accuracy", "exit_accuracy", lambda record: record["rows"]),
        ("chain_cost", "chain_cost_float32", lambda record: record["rows"]),
        ("chain_cost", "chain_cost_int8", lambda record: record["rows"]),
        ("chain_cost", "chain_cost_resnet56", lambda record: record["rows"]),
        ("int8_cascade", "int8_cascade", lambda record: record),
        ("hand_over", "hand_over", lambda record: record),
        ("starts", "starts", lambda record: record),
        ("newcomers", "newcomers", lambda record: record["rows"]),
        ("best_of_ten", "best_of_ten", lambda record: record["rows"]),
        ("overhead", "overhead", lambda record: record["rows"]),
        ("bulk", "bulk", lambda record: record),
        ("latency_model", "latency_model", lambda record: record["rows"]),
        ("shared_scores", "shared_scores", lambda record: record),
        ("searched_plan", "searched_plan", lambda record: record["rows"]),
        ("search_strategies", "search_strategies", lambda record: record["rows"]),
        ("guarantee", "guarantee", lambda record: record["rows"]),
        ("peers", "peers", lambda record: record),
        ("peers", "peers_vgg16_bn", lambda record: record),
        ("peers", "peers_mobilenet_v2", lambda record: record),
        ("end_to_end", "end_to_end", lambda record: record["rows"]),
        ("systems", "systems", lambda record: record["rows"]),
        ("gated_blocks", "gated_blocks", lambda record: record["rows"]),
        ("widths_found", "widths_found", lambda record: record["rows"]),
        ("confidence_rules", "confidence_rules", lambda record: record["rows"]),
        ("watch", "watch", lambda record: record["rows"]),
        ("serving", "serving", lambda record: record),
        ("real_size", "real_size", lambda record: record),
    ],
)
def test_every_table_equals_its_record(monkeypatch, script, record, rows):
    monkeypatch.syspath_prepend(ROOT)
    benchmark, pages = importlib.import_module(script), importlib.import_module("pages")
    content = json.loads((ROOT / "results" / f"{record}.json").read_text())
    begin, end = pages.marks(record)
    found = 0
    for page, forms in ((pages.OWN, ()), (pages.SITE, ("brief",)), (pages.FRONT, ("front", "brief"))):
        _, mark, rest = page.read_text(encoding="utf-8").partition(begin)
        if mark:
            found += 1
            own = (getattr(benchmark, form) for form in forms if hasattr(benchmark, form))
            assert rest.partition(end)[0] == next(own, benchmark.table)(rows(content))
    assert found


@pytest.mark.parametrize("record", ["peers", "peers_vgg16_bn", "peers_mobilenet_v2"])
def test_the_picture_of_the_peers_names_each_beside_its_points(monkeypatch, tmp_path, record):
    monkeypatch.syspath_prepend(ROOT)
    peers, labels = importlib.import_module("peers"), importlib.import_module("labels")
    found, place = [], labels.placed
    monkeypatch.setattr(peers, "placed", lambda *asked: found.append((asked, place(*asked))) or found[0][1])
    rows = json.loads((ROOT / "results" / f"{record}.json").read_text())["rows"]
    peers.draw(rows, tmp_path / "peers.svg")
    ((curves, within), named) = found[0]
    assert len(named) == len({row["family"] for row in rows} - {"static network"}) + sum(
        row["family"] == "static network" for row in rows
    )
    boxes = [label.box for label in named]
    assert all(box.is_within(within) for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    points = [point for curve in curves for point in curve.points]
    assert not any(box.has(point) for box in boxes for point in points)


def test_every_mark_has_a_table_and_a_record():
    paths = [ROOT / "README.md", ROOT.parent / "README.md", *(ROOT.parent / "docs").glob("*.md")]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    names = {name for text in texts for name in re.findall(r"<!-- (\w+) -->", text)}
    assert names == {path.stem for path in (ROOT / "results").glob("*.json")}


def test_the_exits_record_holds_every_variant(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    variants = importlib.import_module("exit_accuracy").VARIANTS
    record = json.loads((ROOT / "results" / "exit_accuracy.json").read_text())
    assert [row["name"] for row in record["rows"]][1:] == list(variants)


@pytest.fixture
def newcomers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("newcomers")


def test_every_newcomer_has_an_output_for_each_of_its_classes(newcomers):
    for newcomer in newcomers.NEWCOMERS:
        folders = range({"tiny": 100, "cifar": 10}[newcomer.source])
        *_, bias = newcomer.make().parameters()
        assert len(bias) == len(folders[newcomer.classes]), newcomer.name


@pytest.mark.slow
def test_every_newcomer_is_read(newcomers):
    for newcomer in newcomers.NEWCOMERS:
        read_network(newcomer.make(), (3, newcomer.size, newcomer.size))


def test_the_front_page_has_one_processor_and_five_rows(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    benchmark = importlib.import_module("end_to_end")
    rows = json.loads((ROOT / "results" / "end_to_end.json").read_text())["rows"]
    assert len({row["machine"]["cpu"] for row in rows if row["network"] == benchmark.FRONT}) == 1
    assert len(benchmark.front(rows).splitlines()) == 2 + 5


def test_newcomers_type_what_the_readme_tells_them_to(newcomers):
    page = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    _, export, calibrate, bench = newcomers.COMMANDS.strip().splitlines()
    assert f"\n{export}\n{calibrate}\n" in page
    assert bench.partition(" --out")[0] in page


def test_a_newcomers_images_are_in_one_part_each(newcomers, monkeypatch, tmp_path):
    static = importlib.import_module("newcomers_static")
    monkeypatch.setattr(static, "VALIDATED", 2)
    monkeypatch.setattr(static, "TESTED", {"tiny": 3, "cifar": 1})
    for part, name, number in ((p, c, n) for p in ("train", "test") for c in "abcdef" for n in range(15)):
        file = tmp_path / "source" / part / name / f"{number:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for source, first, tested in (("tiny", 0, 18), ("cifar", 5, 1)):
        newcomer = next(each for each in newcomers.NEWCOMERS if each.source == source)
        newcomer = dataclasses.replace(newcomer, classes=slice(1, None, 2), first=first, trained=4)
        images = tmp_path / source
        static.put_images(newcomer, tmp_path / "source", images)
        parts = {part: sorted((images / part).glob("*/*")) for part in ("train", "val", "test")}
        assert [len(parts[part]) for part in parts] == [3 * 4, 3 * 2, 3 * tested]
        assert {path.parent.name for paths in parts.values() for path in paths} == set("bdf")
        originals = [path.resolve() for paths in parts.values() for path in paths]
        assert len(set(originals)) == len(originals)


def test_a_command_is_given_again_only_after_another(newcomers, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: given.append(command[3:]))
    first, second = (
        [["s2dnas-train", "a"], ["s2dnas-export", "b"]],
        [["s2dnas-train", "c"], ["s2dnas-export", "b"]],
    )
    seconds = newcomers.run_once(first, tmp_path)
    assert newcomers.run_once(first, tmp_path) == seconds
    assert given == [["train", "a"], ["export", "b"]]
    newcomers.run_once(second, tmp_path)
    assert given[2:] == [["train", "c"], ["export", "b"]]
