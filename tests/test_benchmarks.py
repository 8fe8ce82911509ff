"""The tables in benchmarks/README.md say what the records say."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[1] / "benchmarks"


def test_the_exit_accuracy_table_equals_its_record(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    spec = importlib.util.spec_from_file_location("exit_accuracy", ROOT / "exit_accuracy.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    record = json.loads((ROOT / "results" / "exit_accuracy.json").read_text())
    for page in benchmark.PAGES:
        written = page.read_text().partition(benchmark.BEGIN)[2].partition(benchmark.END)[0]
        assert written == benchmark.table(record["rows"])
    assert len(record["rows"]) == 1 + len(benchmark.VARIANTS)
