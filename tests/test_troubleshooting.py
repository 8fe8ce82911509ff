"""Every message that docs/troubleshooting.md explains is one that the code can give."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def messages():
    """What stands in the first column of tables whose head says `message`."""
    tables = re.findall(r"\| message \|.*?\n\n", PAGE, re.DOTALL)
    return [cell for table in tables for cell in re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)]


@pytest.fixture(scope="module")
def said():
    """All texts in the code but docstrings, a line each, with … for what is put into them."""
    found = []
    for path in (ROOT / "s2dnas_deploy").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [text_of(node) for node in ast.walk(tree) if id(node) not in alone]
    return "\n".join(text for text in found if text)


def text_of(node) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def test_there_are_messages():
    assert len(messages()) > 20


@pytest.mark.parametrize("message", messages())
def test_the_code_can_say_so(message, said):
    assert message in said
