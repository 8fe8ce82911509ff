"""Every message that docs/troubleshooting.md explains is one that the code can give."""

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
    """All of the code's texts, each in one piece, and … for what is put into them."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "s2dnas_deploy").rglob("*.py"))
    whole = re.sub(r'"\s*\n\s*f?"', "", code)
    return re.sub(r"\{[^{}\n]*\}", "…", whole)


def test_there_are_messages():
    assert len(messages()) > 20


@pytest.mark.parametrize("message", messages())
def test_the_code_can_say_so(message, said):
    assert message in said
