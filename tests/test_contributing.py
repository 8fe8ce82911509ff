"""CONTRIBUTING.md speaks of files, names and commands that exist; hooks and citation agree with the code."""

import importlib
import re
from pathlib import Path

import pytest

import s2dnas_deploy

ROOT = Path(__file__).parents[1]
PATH = re.compile(r"[\w.-]+/[\w./-]*|[\w-]+\.(?:py|md|txt|toml|json|yaml)|\.[\w-]+\.yaml")
NAME = re.compile(r"@?(\w+)(?:\(.*\))?")
# What `make` sets up, and what is the reader's.
NOT_OURS = (".venv", "FILE.py")


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


PAGE = text_of("CONTRIBUTING.md")


def passages() -> list[str]:
    """Items of lists, rows of tables and paragraphs."""
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    return [part for part in re.split(r"\n\s*\n|\n(?=[-|#]|\d+\. )", text) if "`" in part]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def place_of(path: str) -> Path:
    inside = ROOT / "s2dnas_deploy" / path
    return inside if inside.exists() else ROOT / path


def paths_in(text: str) -> list[str]:
    return [each for each in quoted(text) if PATH.fullmatch(each) and not each.startswith(NOT_OURS)]


def names_in(text: str) -> list[str]:
    """Names of code, `emit` or `@refused(…)`, that are said with a file."""
    return [match[1] for each in quoted(text) if (match := NAME.fullmatch(each))]


def content_of(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_there_is_something_to_look_at():
    assert len(set(paths_in(PAGE))) > 40
    assert len({name for passage in passages() if paths_in(passage) for name in names_in(passage)}) > 60


@pytest.mark.parametrize("path", sorted(set(paths_in(PAGE)) | set(re.findall(r"\]\(([^)#:]+)\)", PAGE))))
def test_a_path_is_there(path):
    assert place_of(path).exists()


def test_the_layout_is_that_of_the_package():
    listed = {
        path.rstrip("/") for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for path in paths_in(row)
    }
    package = {path.name for path in (ROOT / "s2dnas_deploy").iterdir() if not path.name.startswith("_")}
    assert package - {"py.typed"} <= listed


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(s2dnas_deploy\.[\w.]+)`", PAGE))))
def test_a_dotted_name_is_there(name):
    module, last = name.rpartition(".")[::2]
    assert hasattr(importlib.import_module(module), last) or importlib.import_module(name)


@pytest.mark.parametrize(
    "passage", [each for each in passages() if paths_in(each)], ids=lambda text: text[:40]
)
def test_a_name_is_in_one_of_the_files_it_is_said_with(passage):
    content = "\n".join(content_of(place_of(path)) for path in paths_in(passage))
    assert [name for name in names_in(passage) if not re.search(rf"\b{name}\b", content)] == []


def test_commands_are_those_of_make_and_of_the_package():
    targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z][\w-]+)", "\n".join(quoted(PAGE)))) <= set(targets)
    commands = re.findall(r"^(s2dnas-\w+) = ", text_of("pyproject.toml"), re.MULTILINE)
    assert set(re.findall(r"\bs2dnas-\w+", PAGE)) <= set(commands)


def test_hooks_before_a_commit_run_the_linters_of_make():
    linters = re.findall(r"^\t\$\(BIN\)/((?:ruff|mypy|lint-imports).*)", text_of("Makefile"), re.MULTILINE)
    hooks = re.findall(r"entry: \.venv/bin/(.*)", text_of(".pre-commit-config.yaml"))
    # A hook is given files, which `make` looks for, and mends the format, which `make` only checks.
    assert [hook.removesuffix(" --force-exclude") for hook in hooks] == [
        linter.removesuffix(" .").removesuffix(" --check") for linter in linters
    ]


def test_what_is_cited_is_this_version():
    assert f"version: {s2dnas_deploy.__version__}" in text_of("CITATION.cff").splitlines()
