"""Variants of a JSON document, each damaged in one place in one way, as no program of ours would write it.

`mutations(document)` walks any plain JSON values and yields `Mutation`s: what was done where, in words (a
name for a test), and the text. The text, not the values: double keys and numbers like 1e400 have no values.
Whoever reads such a text must end well, or with the one error that its documents end with; `told_well` says
whether a message is one that a person can read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from s2dnas_deploy.errors import S2dnasError

Path = tuple[str | int, ...]
_MARK = "\x00here\x00"  # stands in the values where text is to be put that is none of JSON's values

# By name: JSON text that takes the place of a value.
REPLACEMENTS: Mapping[str, str] = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "one": "1",
    "negative": "-1",
    "a fraction": "0.5",
    "huge": str(2**62),
    "beyond 64 bits": str(2**70),
    "5,000 digits": "9" * 5000,
    "tiny": "1e-320",
    "large": "1e300",
    "overflowing": "1e400",
    "NaN": "NaN",
    "infinite": "-Infinity",
    "text": '"text"',
    "empty text": '""',
    "control characters": '"\\u001b[2J\\n"',
    "half a character": '"\\ud800"',
    "a way out": '"../x"',
    "long text": json.dumps("a" * 20_000),
    "empty list": "[]",
    "list of another kind": '[null, "x", {}]',
    "empty object": "{}",
    "object of another kind": '{"x": 1}',
    "nested": "[" * 5000 + "]" * 5000,
    "nested and open": '{"a":' * 5000,
}
# Keys that are put into an object, with the value 1.
ADDED_KEYS: Mapping[str, str] = {
    "unknown key": '"unknown"',
    "key of half a character": '"\\udfff"',
    "key of control characters": '"a\\u0007"',
    "long key": json.dumps("k" * 20_000),
}


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A damaged document: where, by what, and its text, which is made only for who wants it."""

    path: Path
    kind: str
    write: Callable[[], str]

    @property
    def text(self) -> str:
        return self.write()

    def __str__(self) -> str:
        return f"{''.join(f'[{step!r}]' for step in self.path) or 'the whole'}: {self.kind}"


def mutations(document: Any, *, items: int = 2) -> Iterator[Mutation]:
    """Every variant; of a list, the first and the last of its items stand for the others."""
    for path in paths_in(document, items=items):
        yield from replaced(document, path)
        value = at(document, path)
        if isinstance(value, dict):
            yield from with_other_keys(document, path)
        if isinstance(value, list):
            yield from with_other_items(document, path)


def paths_in(document: Any, *, items: int = 2) -> Iterator[Path]:
    """Where there are values: the whole, and all within it; of a list, so many items from both ends."""
    yield ()
    if isinstance(document, dict):
        inner: list[tuple[str | int, Any]] = list(document.items())
    elif isinstance(document, list):
        chosen = sorted({*range(len(document))[: items - items // 2], *range(len(document))[-(items // 2) :]})
        inner = [(i, document[i]) for i in chosen]
    else:
        return
    for step, value in inner:
        yield from ((step, *path) for path in paths_in(value, items=items))


def replaced(document: Any, path: Path) -> Iterator[Mutation]:
    """The value there, replaced by others."""
    for kind, text in REPLACEMENTS.items():
        yield Mutation(path=path, kind=kind, write=partial(_with, document, path, _MARK, text))


def with_other_keys(document: Any, path: Path) -> Iterator[Mutation]:
    """The object there with a key less, a key more, and a key twice."""
    own = at(document, path)
    for key in own:
        left = {other: value for other, value in own.items() if other != key}
        yield Mutation(path=(*path, key), kind="missing", write=partial(_with, document, path, left))
    for kind, key in ADDED_KEYS.items():
        yield Mutation(path=path, kind=kind, write=partial(_with, document, path, {**own, _MARK: 1}, key))
    if own:
        first = next(iter(own))
        twice = partial(_with, document, path, {**own, _MARK: own[first]}, json.dumps(first))
        yield Mutation(path=path, kind="double key", write=twice)


def with_other_items(document: Any, path: Path) -> Iterator[Mutation]:
    """The list there with an item less, an item twice, and in another order."""
    own = at(document, path)
    variants = {"shorter": own[:-1], "longer": [*own, *own[-1:]], "backwards": own[::-1]}
    for kind, value in variants.items():
        if value != own:
            yield Mutation(path=path, kind=kind, write=partial(_with, document, path, value))


def at(document: Any, path: Path) -> Any:
    """The value there."""
    for step in path:
        document = document[step]
    return document


def put(document: Any, path: Path, value: Any) -> Any:
    """A copy of the document with another value there."""
    if not path:
        return value
    first, *rest = path
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[first] = put(document[first], tuple(rest), value)
    return copy


def told_well(error: S2dnasError) -> bool:
    """One line of less than 1,000 characters, which steers no terminal."""
    message = str(error)
    return len(message) < 1000 and "\n" not in message and "\x1b" not in message


def _with(document: Any, path: Path, value: Any, marked: str = "") -> str:
    """The text of the document with another value there, and in that the mark replaced by a text."""
    return json.dumps(put(document, path, value)).replace(json.dumps(_MARK), marked, 1)
