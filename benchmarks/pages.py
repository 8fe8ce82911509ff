"""Tables in pages: a benchmark writes its own between two marks, so that page and record say the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OWN, SITE, FRONT = HERE / "README.md", HERE.parent / "docs" / "results.md", HERE.parent / "README.md"
"""Every table, the most of them at length; what the site tells of them; what the front page does."""


def put_record(
    name: str, content: Mapping[str, Any], table: str, *, brief: str | None = None, front: str | None = None
) -> None:
    """Write the record, and the table that tells it."""
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    put_table(name, table, brief=brief, front=front)


def put_table(name: str, table: str, *, brief: str | None = None, front: str | None = None) -> None:
    """Replace what stands between the marks of `name`: on the site by `brief`, in front by `front`."""
    check_place(name)
    begin, end = marks(name)
    for page, text in ((OWN, table), (SITE, brief or table), (FRONT, front or brief or table)):
        before, found, rest = page.read_text(encoding="utf-8").partition(begin)
        if found:
            page.write_text(before + begin + text + end + rest.partition(end)[2], encoding="utf-8")


def check_place(name: str) -> None:
    """A record needs marks for its table, and is better told so before hours of measuring."""
    if marks(name)[0] not in OWN.read_text(encoding="utf-8"):
        raise click.UsageError(f"--record {name}: {OWN} has no place for it, {marks(name)[0]!r}")


def marks(name: str) -> tuple[str, str]:
    """What stands before and after the table of `name`."""
    return f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
