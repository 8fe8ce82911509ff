"""One answer as one line: JSON or CSV, written and read back.

Place in the flow: `Item` and answer ──▶ record ──▶ line, for stdout or for an `Output`.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from s2dnas_deploy.errors import DataError, OptionError, RecordError
from s2dnas_deploy.files.bounds import Count, Length
from s2dnas_deploy.files.document import Form
from s2dnas_deploy.images.pixels import SUFFIXES
from s2dnas_deploy.quoting import in_a_line, named_in_line
from s2dnas_deploy.runtime.answers.inputs import Item
from s2dnas_deploy.runtime.predictions import Prediction

Format = Literal["jsonl", "csv", "parquet"]
_ENDINGS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
COLUMNS = ("file", "label", "index", "confidence", "exit", "truth", "probabilities", "error")
Record = dict[str, Any]
_NOT_COUNTED = ("confidence", "probabilities")
_COUNT = re.compile("[0-9]{1,18}")


def record_of(item: Item, answer: Prediction | DataError, *, way: bool = False) -> Record:
    """What is written of one image: `label` and so on, or `error`. In a chain the exit tells the `way`."""
    record: Record = {"file": item.name}
    if isinstance(answer, Prediction):
        record |= {
            "label": answer.name,
            "index": answer.label,
            "confidence": _number(answer.confidence),
            "exit": answer.exit,
        }
        if way:
            record["way"] = " > ".join(answer.way)
    if item.truth is not None:
        record["truth"] = item.truth
    if isinstance(answer, Prediction) and answer.probabilities is not None:
        record["probabilities"] = [_number(p) for p in answer.probabilities.tolist()]
    if isinstance(answer, DataError):
        record["error"] = str(answer).removeprefix(f"{named_in_line(item.name)}: ")
    return record


def _number(value: float) -> float | None:
    """A float32 has at most nine digits, more would be noise; JSON has no word for what is no number."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def format_of(out: Path | None, wanted: Format | None) -> Format:
    """The format asked for, or the one that the output's name ends with; JSON lines on stdout."""
    if out is None:
        if wanted == "parquet":
            raise OptionError("Parquet is no text: give --out FILE.parquet")
        return wanted or "jsonl"
    ending = _ENDINGS.get(out.suffix.lower())
    if wanted is None and ending is None:
        raise OptionError(f"--out {out}: expected a name ending in {', '.join(_ENDINGS)}, or --format")
    if out.suffix.lower() in SUFFIXES:
        raise OptionError(f"--out {out} is the name of a picture; is it one of the images?")
    return wanted or ending or "jsonl"


# --- lines -------------------------------------------------------------------------------------------------


def columns_of(*, ways: bool) -> tuple[str, ...]:
    """The columns of a table of records: of a chain, where the exit tells the way, without the `way`."""
    return (*COLUMNS, "way") if ways else COLUMNS


def line_of(record: Record, form: Format, *, ways: bool = False) -> bytes:
    """One record as one line; in CSV, with a cell for the way if there are several."""
    if form != "csv":
        try:
            return (json.dumps(record, ensure_ascii=False) + "\n").encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8
            return (json.dumps(record) + "\n").encode()
    row = dict(record)
    if "probabilities" in row:
        row["probabilities"] = " ".join("nan" if p is None else f"{p:.9g}" for p in row["probabilities"])
    return _csv_line([row.get(column, "") for column in columns_of(ways=ways)])


def header_of(form: Format, *, ways: bool = False) -> bytes:
    """What an output begins with, before any record."""
    return _csv_line(columns_of(ways=ways)) if form == "csv" else b""


def _csv_line(values: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        [flat(value) if isinstance(value, str) else value for value in values]
    )
    return text.getvalue().encode("utf-8", "surrogateescape")


def flat(text: str) -> str:
    """Text on one line, for CSV."""
    return " ".join(text.splitlines())


@dataclass(frozen=True, kw_only=True)
class _Line:
    """The form of a record: an answer, or an error in its place."""

    file: str
    label: str | None = None
    index: Count | None = None
    confidence: float | None = None
    exit: Count | None = None
    way: str | None = None
    truth: str | None = None
    probabilities: Any = None
    error: Annotated[str, Length(0, 2**20)] | None = None

    def __post_init__(self) -> None:
        # They are told to nobody, so they are not read one by one.
        if self.probabilities is not None and not _are_numbers(self.probabilities):
            raise RecordError("probabilities: expected a list of numbers, got what is none")
        if self.error is None and None in (self.label, self.index, self.exit):
            raise RecordError("expected an answer (label, index, exit) or an error, got neither")


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and {float, int, NoneType}.issuperset(map(type, values))


# The name of a file may be in any encoding.
_FORM = Form(record=_Line, error=RecordError, odd_text=True)


def record_in(line: bytes, form: Format, what: str) -> Record:
    """What a line says, without the probabilities; a `RecordError` if it is none of ours."""
    if form == "csv":
        return record_of_row(_cells_of(line, what), what)
    return _record(_FORM.read(line, what))


def record_of_row(row: Mapping[str, Any], what: str) -> Record:
    """The record in a row of a table; a `RecordError` if it is none of ours."""
    return _record(_FORM.of(row, what))


def _record(told: _Line) -> Record:
    return {key: value for key, value in vars(told).items() if value is not None and key != "probabilities"}


def _cells_of(line: bytes, what: str) -> dict[str, Any]:
    """What a line of CSV says; of numbers only those that are counted with."""
    text = line.decode("utf-8", "surrogateescape")
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        values = next(csv.reader([text]))
    except csv.Error as problem:
        raise RecordError(f"{what}: expected CSV, got what is none ({in_a_line(problem)})") from problem
    columns = columns_of(ways=len(values) > len(COLUMNS))
    if len(values) != len(columns):
        raise RecordError(f"{what}: expected {len(COLUMNS)} columns, got {len(values)}")
    cells = {key: value for key, value in zip(columns, values, strict=True) if value != ""}
    counts = {key: int(cells[key]) for key in ("index", "exit") if _COUNT.fullmatch(cells.get(key, ""))}
    return {key: value for key, value in cells.items() if key not in _NOT_COUNTED} | counts
