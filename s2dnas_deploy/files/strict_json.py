"""JSON text to plain values, strictly: what JSON's own rules leave open is refused.

Double keys, numbers without bounds or end, halves of characters, and lists in lists in lists would each be
taken by one program and not by the next, or end a program in a way of its own. Nothing is known here of what
is in a document.
"""

import json
import math
import re
from collections import Counter
from functools import cache
from typing import Any

from s2dnas_deploy.quoting import in_a_line, shortened, shown

DEEPEST = 64
_LONGEST_NUMBER = 400  # characters; those that programs write have 25 at the most


class MisfitError(Exception):
    """What was expected and found, and where; the steps that lead there are added on the way out."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self._told, self._steps = told, list[str]()

    def under(self, step: str) -> "MisfitError":
        """The same, seen from one step further out."""
        self._steps.insert(0, step)
        return self

    def __str__(self) -> str:
        path = shortened("".join(self._steps).removeprefix("."), 200)
        return shortened(f"{path}: {self._told}" if path else self._told, 500)


def parse(content: bytes | str, *, largest_bytes: int, odd_text: bool = False, infinite: bool = False) -> Any:
    """The plain values of a text, or a `MisfitError`.

    `odd_text` takes halves of characters, by which names of files are spelled that are not in UTF-8;
    `infinite` takes the numbers without end.
    """
    raw, text = _in_utf8(content)
    if len(raw) > largest_bytes:
        raise MisfitError(f"expected at most {largest_bytes:,} bytes, got more")
    left = _brackets_left(raw)
    if left > DEEPEST:  # the parser goes as deep as the brackets do, and might not come back
        raise _too_deep()
    document = _parsed(raw, text, infinite=infinite)
    if left:
        raise _too_deep()
    if not odd_text:
        _refuse_odd_text(raw, document)
    return document


def _in_utf8(content: bytes | str) -> tuple[bytes, str]:
    """The same as bytes and as text."""
    try:
        if isinstance(content, str):
            return content.encode(), content
        return content, content.decode()
    except UnicodeError as problem:
        raise MisfitError(f"expected text in UTF-8, got other bytes ({problem.reason})") from problem  # type: ignore[attr-defined]


def _too_deep() -> MisfitError:
    return MisfitError(f"expected at most {DEEPEST} lists and objects within each other, got more")


_ROUND = bytes.maketrans(b"[]{}", b"()()")
_ALL_ELSE = bytes(set(range(256)) - set(b'[]{}"'))


def _brackets_left(raw: bytes) -> int:
    """How many brackets stay open when all lists and objects are taken out from within, `DEEPEST` times."""
    if raw.count(b"[") + raw.count(b"{") <= DEEPEST:
        return 0
    bare = raw.replace(rb"\\", b"").replace(rb"\"", b"").translate(_ROUND, delete=_ALL_ELSE)
    # Texts without brackets are gone; of the others, what stands between two quotes is dropped.
    brackets = b"".join(bare.replace(b'""', b"").split(b'"')[::2])
    for _ in range(DEEPEST):
        if not brackets:
            break
        brackets = brackets.replace(b"()", b"")
    return brackets.count(b"(")


# What a number that is too large has, with 0 for all digits: 19 in a row, or an exponent of three that is not
# below 0. Where nothing is such, the parser takes numbers in its own way: a call for each takes long.
_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_LARGE_EXPONENT = re.compile(rb"e(?<=0e)\+?000")  # begins with what is rare, so that the search is quick


def _may_overflow(raw: bytes) -> bool:
    shape = raw.translate(_ALIKE)
    return b"0" * 19 in shape or _LARGE_EXPONENT.search(shape) is not None


def _parsed(raw: bytes, text: str, *, infinite: bool) -> Any:
    decoder = _decoder(infinite=infinite, numbers_may_overflow=_may_overflow(raw))
    try:
        return decoder.decode(text)
    except ValueError as problem:
        raise MisfitError(f"expected JSON, got what is none: {in_a_line(problem)}") from problem


@cache
def _decoder(*, infinite: bool, numbers_may_overflow: bool) -> json.JSONDecoder:
    def constant(name: str) -> float:
        if infinite and name != "NaN":
            return float(name)
        raise MisfitError(f"expected numbers that are finite, got {name}")

    return json.JSONDecoder(
        object_pairs_hook=_object,
        parse_constant=constant,
        parse_int=_whole if numbers_may_overflow else None,
        parse_float=_number if numbers_may_overflow else None,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        double, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise MisfitError(f"expected every key once, got {shown(double)} twice in one object")
    return entries


def _whole(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise MisfitError(f"expected whole numbers of 64 bits, got {shown(text)}")
    return value


def _number(text: str) -> float:
    value = float(text) if len(text) <= _LONGEST_NUMBER else math.inf
    if math.isinf(value):
        raise MisfitError(f"expected numbers that are finite, got {shown(text)}")
    return value


def _refuse_odd_text(raw: bytes, document: Any) -> None:
    if re.search(rb"\\u[dD][89a-fA-F]", raw) is None:  # most documents have none
        return
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as problem:
        half = problem.object[problem.start]
        raise MisfitError(f"expected whole characters, got {shown(half)}, half of one") from problem
