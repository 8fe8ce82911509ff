"""The pages: short where they must be, no link to nothing, and notebooks that run."""

import json
import os
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [ROOT / "docs" / "notebooks" / f"{name}.ipynb" for name in ("cascade", "where_images_exit")]
"""In the order of a reader: the second reads what the first has left."""
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *NOTEBOOKS,
    *(ROOT / name / "README.md" for name in ("benchmarks", "models")),
]
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)#?([^)\s]*)\)")


@cache
def text_of(path: Path) -> str:
    """A page, or the words of a notebook, without blocks of code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(path: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub and the site call them."""
    headings = re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_leads_to_nothing(page):
    for path, anchor in LINK.findall(text_of(page)):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{path}#{anchor}"


def test_the_front_page_is_read_in_three_minutes():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(page.split()) <= 900
    assert len(page.encode()) <= 9000


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs") for path in PAGES if (ROOT / "docs") in path.parents]
    assert [page for page in pages if f": {page.with_suffix('.md')}\n" not in navigation] == []


def test_the_site_needs_nothing_from_the_net():
    assert "font: false" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "http" not in (ROOT / "docs" / "site.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, folder, monkeypatch):
    pytest.importorskip("torch")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    kept = [cell.get("outputs", []) for cell in notebook.cells]
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    assert [bool(cell.get("outputs", [])) for cell in notebook.cells] == [bool(each) for each in kept]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_knows_nothing_of_who_ran_it(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert not re.search(r"/(home|root|tmp|Users)/", text)
