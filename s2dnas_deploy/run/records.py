"""The answers as lines of a file: JSON lines, CSV or Parquet; appended, and never half a line twice.

Place in the flow: `Item` and answer ──▶ one record ──▶ `--out` or stdout.

While it is written, an output has a journal beside it, `.NAME.run.json`, that says what the run was; it goes
when the run is complete. So `--resume` knows an interrupted run from a complete one, and one from another.
Parquet cannot be appended to: its records are JSON lines in `.NAME.part` until the run is complete.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from s2dnas_deploy.bundle.files import write_text_atomically
from s2dnas_deploy.bundle.pixels import SUFFIXES
from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.run.cascade import Prediction
from s2dnas_deploy.run.inputs import Item

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet")
_ENDINGS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
COLUMNS = ("file", "label", "index", "confidence", "exit", "truth", "probabilities", "error")
Record = dict[str, Any]


def record_of(item: Item, answer: Prediction | DataError) -> Record:
    """What is written of one image: `label` and so on, or `error`."""
    record: Record = {"file": item.name}
    if isinstance(answer, Prediction):
        record |= {
            "label": answer.name,
            "index": answer.label,
            # A float32 has at most nine digits; more would be noise.
            "confidence": float(f"{answer.confidence:.9g}"),
            "exit": answer.exit,
        }
    if item.truth is not None:
        record["truth"] = item.truth
    if isinstance(answer, Prediction) and answer.probabilities is not None:
        record["probabilities"] = [float(f"{p:.9g}") for p in answer.probabilities.tolist()]
    if isinstance(answer, DataError):
        record["error"] = str(answer).removeprefix(f"{item.name}: ")
    return record


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


def line_of(record: Record, form: Format) -> bytes:
    """One record as one line."""
    if form != "csv":
        try:
            return (json.dumps(record, ensure_ascii=False) + "\n").encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8
            return (json.dumps(record) + "\n").encode()
    row = dict(record)
    if "probabilities" in row:
        row["probabilities"] = " ".join(f"{p:.9g}" for p in row["probabilities"])
    return _csv_line([row.get(column, "") for column in COLUMNS])


def header_of(form: Format) -> bytes:
    """What an output begins with, before any record."""
    return _csv_line(COLUMNS) if form == "csv" else b""


def _csv_line(values: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        [flat(value) if isinstance(value, str) else value for value in values]
    )
    return text.getvalue().encode("utf-8", "surrogateescape")


def flat(text: str) -> str:
    """Text on one line, for CSV."""
    return " ".join(text.splitlines())


def _record_in(line: bytes, form: Format) -> Record:
    text = line.decode("utf-8", "surrogateescape")
    if form != "csv":
        record: Record = json.loads(text)
        if not isinstance(record, dict) or "file" not in record:
            raise ValueError(f"{text[:60]!r} names no file")
        return record
    row = dict(zip(COLUMNS, next(csv.reader([text])), strict=True))
    full = {key: value for key, value in row.items() if value != ""}
    return full | {key: int(full[key]) for key in ("index", "exit") if key in full}


# --- output that can be resumed ----------------------------------------------------------------------------


class Output:
    """A file of records under `out`, new or resumed."""

    def __init__(self, out: Path, form: Format, run: Mapping[str, Any], *, resume: bool) -> None:
        self.out, self.form, self.run = out, form, dict(run)
        self.line_form: Format = "jsonl" if form == "parquet" else form
        self.lines = out.with_name(f".{out.name}.part") if form == "parquet" else out
        self.journal = out.with_name(f".{out.name}.run.json")
        if form == "parquet":
            _pyarrow()
        self.finished = False
        """Whether a run that was to be resumed has nothing left to do."""
        self.written: list[Record] = self._begin(resume)

    def _begin(self, resume: bool) -> list[Record]:
        """Records that are there already; the file ends after them."""
        interrupted = self.journal.exists()
        if not resume and interrupted:
            raise OptionError(
                f"{self.out} is the output of an interrupted run: --resume goes on with it; "
                f"to begin anew, remove it and {self.journal.name}"
            )
        if resume and interrupted:
            self._check_same_run()
            return self._kept()
        if resume and self.out.exists():
            self.finished = True
            return self._all()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.journal, json.dumps(self.run, indent=1) + "\n")
        self.lines.write_bytes(header_of(self.line_form))
        return []

    def _check_same_run(self) -> None:
        then = json.loads(self.journal.read_text())
        for key, value in self.run.items():
            if then.get(key) != value:
                raise OptionError(
                    f"{self.out} was begun with {key} = {then.get(key)!r}, now it is {value!r}; "
                    f"resume with the same, or remove it and {self.journal.name}"
                )

    def _kept(self) -> list[Record]:
        """Read what is there; cut off a last line that was not finished."""
        header = header_of(self.line_form)
        content = self.lines.read_bytes() if self.lines.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if not whole.startswith(header):
            whole = header
        if whole != content:
            with self.lines.open("r+b" if self.lines.exists() else "w+b") as file:
                file.seek(0)
                file.write(whole)
                file.truncate()
        return self._records_in(whole[len(header) :])

    def _all(self) -> list[Record]:
        """The records of a complete output."""
        if self.form != "parquet":
            return self._records_in(self.out.read_bytes().removeprefix(header_of(self.form)))
        try:
            rows = _pyarrow().parquet.read_table(self.out, columns=list(COLUMNS)).to_pylist()
        except ValueError as problem:  # what pyarrow raises, too
            raise self._strange(problem) from problem
        return [{key: value for key, value in row.items() if value is not None} for row in rows]

    def _records_in(self, content: bytes) -> list[Record]:
        try:
            return [_record_in(line, self.line_form) for line in content.split(b"\n")[:-1]]
        except ValueError as problem:
            raise self._strange(problem) from problem

    def _strange(self, problem: Exception) -> OptionError:
        return OptionError(f"{self.out} is not what a run has written: {problem}; remove it to begin anew")

    @contextmanager
    def appending(self) -> Iterator[BinaryIO]:
        """The open file."""
        with self.lines.open("ab") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def complete(self) -> None:
        """All images have their record: nothing is left to resume."""
        if self.form == "parquet":
            _to_parquet(self.lines, self.out)
        self.journal.unlink()
        if self.lines != self.out:
            self.lines.unlink()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as problem:
        raise OptionError("Parquet needs pyarrow: pip install pyarrow, or take .jsonl or .csv") from problem
    return pyarrow


def _to_parquet(lines: Path, out: Path) -> None:
    pyarrow = _pyarrow()
    schema = pyarrow.schema(
        {
            "file": pyarrow.string(),
            "label": pyarrow.string(),
            "index": pyarrow.int64(),
            "confidence": pyarrow.float32(),
            "exit": pyarrow.int64(),
            "truth": pyarrow.string(),
            "probabilities": pyarrow.list_(pyarrow.float32()),
            "error": pyarrow.string(),
        }
    )
    part = out.with_name(f".{out.name}.parquet.part")
    with lines.open("rb") as file, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        while batch := [json.loads(line) for _, line in zip(range(_ROWS), file, strict=False)]:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
    part.replace(out)


_ROWS = 20_000
