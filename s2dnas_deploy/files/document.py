"""From a JSON document, of anyone's making, to the frozen record that it was made from, by its annotations.

Place in the flow: text ──`strict_json`──▶ plain values ──annotations──▶ a record whose every value is of its
kind and within the `bounds` that the record declares, or one error that says where it is not:

    stages[1].exit.threshold: expected a number, got 'high'

Kinds are `int`, `float`, `bool`, `str`, `Any`, `Literal[…]`, `X | None`, `tuple[X, ...]`, `tuple[X, Y]`,
`Mapping[str, X]`, dataclasses of those, and `X | Y` of dataclasses that their first field, a `Literal`, tells
apart. The same bounds hold for records made in code, whose `__post_init__` says `check_record(self, …)`. The
standard library does, for msgspec and pydantic take a double key without a word, and either is one more
compiled wheel on every board.
"""

import math
from collections.abc import Callable, Mapping, Sized
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, auto
from functools import cache, cached_property
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.files.bounds import Bound, Length, Others
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.files.strict_json import MisfitError, parse
from s2dnas_deploy.quoting import in_a_line, shortened, shown

Record = TypeVar("Record")

LARGEST_BYTES = 64 * 2**20
LONGEST_TEXT, LONGEST_LIST = 10_000, 1_000_000  # where a record does not say otherwise


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a document says of itself, its format and version, and what writes such documents."""

    format: str
    version: int
    writer: str

    def taken_off(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The rest of a document of this format and version."""
        if document.get("format") != self.format:
            found = shown(document["format"]) if "format" in document else "none"
            raise MisfitError(f'format: expected "{self.format}", as {self.writer} writes it, got {found}')
        version = document.get("version")
        if type(version) is not int or version != self.version:
            found = shown(version) if "version" in document else "none"
            raise MisfitError(
                f"version: expected {self.version}, which this release reads, got {found}; update "
                f"s2dnas_deploy, or write it anew with {self.writer}"
            )
        return {key: value for key, value in document.items() if key not in ("format", "version")}


@dataclass(frozen=True, kw_only=True)
class Form(Generic[Record]):
    """A kind of document: the record that it holds, and the error that one is refused with.

    `passed_over` are keys that are for others to read. In a document that is `complete`, no key is left out
    because its field has a default. `odd_text` and `infinite` are those of `parse`.
    """

    record: type[Record]
    error: type[S2dnasError]
    head: Head | None = None
    passed_over: frozenset[str] = frozenset()
    complete: bool = False
    largest_bytes: int = LARGEST_BYTES
    odd_text: bool = False
    infinite: bool = False

    @cached_property
    def _reader(self) -> Callable[[Any], Record]:
        reader: Callable[[Any], Record] = _record_reader(
            self.record,  # type: ignore[arg-type]  # it is hashable
            _How.COMPLETE if self.complete else _How.READ,
        )
        return reader

    def load(self, path: Path) -> Record:
        """The record in a file; one that is not there, or may not be read, is an `OSError`."""
        try:
            content = read_file(path, self.largest_bytes)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as problem:  # a pipe, a folder, or too large for such a document
            raise self._error(str(path), MisfitError(str(problem.strerror))) from problem
        return self.read(content, str(path))

    def read(self, content: bytes | str, what: str) -> Record:
        """The record in a text; a message calls it `what`."""
        return self.of(self.parsed(content, what), what)

    def parsed(self, content: bytes | str, what: str) -> Any:
        """The plain values of a text, for `of`."""
        try:
            return parse(
                content, largest_bytes=self.largest_bytes, odd_text=self.odd_text, infinite=self.infinite
            )
        except MisfitError as misfit:
            raise self._error(what, misfit) from misfit

    def of(self, document: Any, what: str) -> Record:
        """The record of values that were parsed with another document."""
        try:
            entries = _expect_object(document)
            entries = self.head.taken_off(entries) if self.head is not None else entries
            if self.passed_over:
                entries = {key: value for key, value in entries.items() if key not in self.passed_over}
            return self._reader(entries)
        except MisfitError as misfit:
            raise self._error(what, misfit) from misfit

    def _error(self, what: str, misfit: MisfitError) -> S2dnasError:
        return self.error(f"{shortened(what, 300)}: {misfit}")


def check_record(record: Any, error: type[S2dnasError]) -> None:
    """Refuse a record that was made in code with values that its annotations do not allow."""
    for name, check in _checks(type(record)):  # type: ignore[arg-type]
        try:
            check(getattr(record, name))
        except MisfitError as misfit:
            raise error(f"{type(record).__name__}.{misfit.under(name)}") from misfit


# --- records -----------------------------------------------------------------------------------------------

_Read = Callable[[Any], Any]


class _How(Enum):
    """Of a record in code, which has tuples; of JSON; or of JSON where each field has its key."""

    MADE = auto()
    READ = auto()
    COMPLETE = auto()


@cache
def _record_reader(kind: Any, how: _How) -> _Read:
    """How a record of this kind is made of a JSON object."""
    optional = {
        each.name
        for each in fields(kind)
        if how is _How.READ and not (each.default is MISSING and each.default_factory is MISSING)
    }
    hints = hints_of(kind)
    rest = next((name for name, hint in hints.items() if Others() in bounds_of(hint)), None)
    readers = {name: _reader(hint, how) for name, hint in hints.items() if name != rest}

    def read(value: Any) -> Any:
        document = _expect_object(value)
        entries: dict[str, Any] = {}
        if rest is not None:
            entries[rest] = {key: each for key, each in document.items() if key not in readers}
        elif not document.keys() <= readers.keys():
            unknown = next(key for key in document if key not in readers)
            raise MisfitError(f"expected no other keys, got {shown(unknown)}")
        for name, own in readers.items():
            if name in document:
                try:
                    entries[name] = own(document[name])
                except MisfitError as misfit:
                    misfit.under(f".{name}")
                    raise
            elif name not in optional:
                raise MisfitError(f'expected "{name}" among the keys, got none')
        try:
            return kind(**entries)
        except S2dnasError as problem:  # by a rule for several fields
            raise MisfitError(in_a_line(problem)) from problem

    return read


@cache
def _checks(kind: Any) -> tuple[tuple[str, _Read], ...]:
    """How each field of a record is checked that was made in code."""
    return tuple((name, _reader(hint, _How.MADE)) for name, hint in hints_of(kind).items())


def hints_of(kind: Any) -> dict[str, Any]:
    """The annotation of each field of a record."""
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind)}


def bounds_of(kind: Any) -> tuple[Any, ...]:
    """The bounds that an annotation declares."""
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()


# --- values ------------------------------------------------------------------------------------------------


def _reader(kind: Any, how: _How) -> _Read:
    """How a value of a kind is read."""
    plain = get_args(kind)[0] if bounds_of(kind) else kind
    own = get_origin(plain) or plain
    read, word = _plain_reader(plain, how), _WORDS.get(own, "a value")
    lengths = [bound for bound in bounds_of(kind) if isinstance(bound, Length)]
    bounds = [bound for bound in bounds_of(kind) if isinstance(bound, Bound) and bound not in lengths]
    sized: tuple[type[Sized], ...] = {str: (str,), tuple: (list, tuple), Mapping: (Mapping,)}.get(own, ())
    if sized:
        lengths = lengths or [Length(0, LONGEST_TEXT if own is str else LONGEST_LIST)]
    low = max((each.low for each in lengths), default=0)
    high = min((each.high for each in lengths), default=0)

    def read_bounded(value: Any) -> Any:
        if isinstance(value, sized) and not low <= len(value) <= high:  # so nothing of it is read
            raise _misfit(f"{word} {Length(low, high)}", value)
        result = read(value)
        for bound in bounds:
            if not bound.fits(value):
                raise _misfit(f"{word} {bound}", value)
        return result

    return read_bounded if lengths or bounds else read


def _plain_reader(kind: Any, how: _How) -> _Read:
    if is_dataclass(kind):
        return _instance_reader((kind,)) if how is _How.MADE else _record_reader(kind, how)  # type: ignore[arg-type]
    if kind in _OF_KIND:
        return _OF_KIND[kind]
    return _OF_ORIGIN[get_origin(kind)](get_args(kind), how)


def _read_any(value: Any) -> Any:
    return value


def _read_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _misfit("a number", value)
    if not math.isfinite(value):
        raise _misfit("a number that is finite", value)
    return float(value)


def _read_whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _misfit("a whole number", value)
    return value


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _misfit("true or false", value)
    return value


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _misfit("text", value)
    return value


def _expect_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, (dict, Mapping)):  # whether it is a dictionary is told sooner
        raise _misfit("an object", value)
    return value


def _instance_reader(kinds: tuple[Any, ...]) -> _Read:
    words = "a " + " or ".join(kind.__name__ for kind in kinds)

    def read(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise _misfit(words, value)
        return value

    return read


def _union_reader(kinds: tuple[Any, ...], how: _How) -> _Read:
    known = tuple(each for each in kinds if each is not type(None))
    read = _reader(known[0], how) if len(known) == 1 else _tagged_reader(known, how)
    if len(known) == len(kinds):
        return read
    return lambda value: None if value is None else read(value)


def _tagged_reader(kinds: tuple[Any, ...], how: _How) -> _Read:
    """One of several records, which their first field tells apart."""
    if how is _How.MADE:
        return _instance_reader(kinds)
    tag, tags = tags_of(kinds)
    readers = {name: _record_reader(kind, how) for name, kind in tags.items()}

    def read(value: Any) -> Any:
        own = _expect_object(value).get(tag)
        if not isinstance(own, str) or own not in readers:
            misfit = _misfit(" or ".join(readers), own)
            misfit.under(f".{tag}")
            raise misfit
        return readers[own](value)

    return read


def tags_of(kinds: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    """The field that tells several records apart, and the record by what it holds."""
    tag = fields(kinds[0])[0].name
    return tag, {get_args(hints_of(kind)[tag])[0]: kind for kind in kinds}


def _choice_reader(choices: tuple[Any, ...], how: _How) -> _Read:
    def read(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise _misfit(" or ".join(map(str, choices)), value)
        return value

    return read


def _tuple_reader(kinds: tuple[Any, ...], how: _How) -> _Read:
    """Of any length, all alike, or a kind for each place."""
    alike = kinds[1:] == (Ellipsis,)
    readers = [_reader(kind, how) for kind in (kinds[:1] if alike else kinds)]

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, tuple if how is _How.MADE else list):
            raise _misfit("a list", value)
        if not alike and len(value) != len(readers):
            raise _misfit(f"a list of {len(readers)}", value)
        items: list[Any] = []
        try:
            for item, own in zip(value, readers * len(value) if alike else readers, strict=True):
                items.append(own(item))
        except MisfitError as misfit:
            misfit.under(f"[{len(items)}]")
            raise
        return tuple(items)

    return read


def _mapping_reader(kinds: tuple[Any, ...], how: _How) -> _Read:
    read_key, read_each = (_reader(kind, how) for kind in kinds)

    def read(value: Any) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, each in _expect_object(value).items():
            known = read_key(key)
            try:
                entries[known] = read_each(each)
            except MisfitError as misfit:
                misfit.under(f"[{shown(key)}]")
                raise
        return entries

    return read


_OF_KIND: Mapping[Any, _Read] = {
    Any: _read_any,
    float: _read_number,
    int: _read_whole,
    bool: _read_flag,
    str: _read_text,
}
_OF_ORIGIN: Mapping[Any, Callable[[tuple[Any, ...], _How], _Read]] = {
    Union: _union_reader,
    UnionType: _union_reader,
    Literal: _choice_reader,
    tuple: _tuple_reader,
    Mapping: _mapping_reader,
}
_WORDS: Mapping[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "text",
    tuple: "a list",
    Mapping: "an object",
}


def _misfit(expected: str, got: object) -> MisfitError:
    return MisfitError(f"expected {expected}, got {_described(got)}")


def _described(value: object) -> str:
    """As JSON has it, and of lists and long texts no more than how long they are."""
    if isinstance(value, (Mapping, list, tuple)):
        return f"{'an object' if isinstance(value, Mapping) else 'a list'} of {len(value):,}"
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"text of {len(value):,} characters"
    if isinstance(value, Real) and not isinstance(value, (int, float)):  # NumPy's, of a record made in code
        own = f"{type(value).__name__}({shortened(str(value), 40)})"
        return f"{own}, which JSON cannot hold; int(…) or float(…) makes one that it can"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else shown(value)
