"""The tables in the pages say what the benchmarks' records say."""

import importlib
import json
import re
from pathlib import Path

import pytest

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
    ],
)
def test_every_table_equals_its_record(monkeypatch, script, record, rows):
    monkeypatch.syspath_prepend(ROOT)
    benchmark, pages = importlib.import_module(script), importlib.import_module("pages")
    content = json.loads((ROOT / "results" / f"{record}.json").read_text())
    begin, end = pages.marks(record)
    found = 0
    for page in (pages.OWN, pages.PROJECT):
        _, mark, rest = page.read_text(encoding="utf-8").partition(begin)
        if mark:
            found += 1
            brief = page == pages.PROJECT and getattr(benchmark, "brief", None)
            assert rest.partition(end)[0] == (brief or benchmark.table)(rows(content))
    assert found


def test_every_mark_has_a_table_and_a_record():
    pages = [(ROOT / "README.md").read_text(encoding="utf-8"), (ROOT.parent / "README.md").read_text()]
    names = {name for page in pages for name in re.findall(r"<!-- (\w+) -->", page)}
    assert names == {path.stem for path in (ROOT / "results").glob("*.json")}


def test_the_exits_record_holds_every_variant(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    variants = importlib.import_module("exit_accuracy").VARIANTS
    record = json.loads((ROOT / "results" / "exit_accuracy.json").read_text())
    assert [row["name"] for row in record["rows"]][1:] == list(variants)
