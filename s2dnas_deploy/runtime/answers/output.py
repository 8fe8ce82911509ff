"""A file of records that survives being interrupted: it goes on without a line lost or doubled.

Place in the flow: `--out` ──▶ `Output`, which says what is there already and takes what comes after it.

While it is written, an output has a journal beside it, `.NAME.run.json`, that says what the run was; so
`--resume` knows one run from another. It goes when the run is complete, or, if the run was one that may be
resumed, stays and says so: the same command again then finds nothing to do.
Parquet cannot be appended to: its records are JSON lines in `.NAME.lines.part` until the run is complete. The
file that is appended to is locked for as long as a process writes it.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO

from s2dnas_deploy.errors import OptionError, RecordError
from s2dnas_deploy.files.atomic import check_writable, naming, write_atomically, write_text_atomically
from s2dnas_deploy.files.bounds import Others
from s2dnas_deploy.files.document import Form
from s2dnas_deploy.quoting import in_a_line, number_of, shortened
from s2dnas_deploy.runtime.answers.records import (
    Format,
    Record,
    columns_of,
    header_of,
    record_in,
    record_of_row,
)

_ROWS = 20_000
_COMPLETE = "complete"
_LONGEST_LINE = 2**24  # bytes; the probabilities of as many classes as a bundle may have take a tenth


@dataclass(frozen=True, kw_only=True)
class _Journal:
    """The form of a journal: whether the run is complete, and all else that tells it from another."""

    complete: bool
    run: Annotated[Mapping[str, Any], Others()]


_JOURNAL = Form(record=_Journal, error=RecordError, largest_bytes=2**20)


class Output:
    """A file of records at `out`, new or resumed; held by this process until it is closed."""

    def __init__(
        self,
        out: Path,
        form: Format,
        run: Mapping[str, Any],
        *,
        images: int,
        resume: bool,
        ways: bool = False,
    ) -> None:
        """`images` are to be answered: there are no more records than that. `ways`: records tell theirs."""
        self.out, self.form, self.run, self.images, self.ways = out, form, dict(run), images, ways
        self.line_form: Format = "jsonl" if form == "parquet" else form
        self.lines = out.with_name(f".{out.name}.lines.part") if form == "parquet" else out
        self.journal = out.with_name(f".{out.name}.run.json")
        self._may_be_resumed = resume
        self.finished = False
        """Whether a run that was to be resumed has nothing left to do."""
        if form == "parquet":
            _pyarrow()
        check_writable(out)
        check_writable(self.lines)
        out.parent.mkdir(parents=True, exist_ok=True)
        was_there = self.lines.exists()
        self.file: BinaryIO = self.lines.open("ab")
        """Where lines are appended."""
        self._lock()
        try:
            self.written: list[Record] = self._begin(resume, was_there=was_there)
        except BaseException:
            with naming(out):
                self.file.close()
            if not was_there:
                self.lines.unlink(missing_ok=True)
            raise

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with naming(self.out), self.file:
            self._sync()
        if self.finished and self.lines != self.out:
            self.lines.unlink()

    def complete(self) -> None:
        """All images have their record: nothing is left to resume."""
        with naming(self.out):
            self._sync()
        if self.form == "parquet":
            write_atomically(self.out, self._write_parquet)
        if self._may_be_resumed:
            self._write_journal(complete=True)
        else:
            self.journal.unlink()
        self.finished = True

    def _sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def _write_parquet(self, stream: BinaryIO) -> None:
        pyarrow = _pyarrow()
        kinds = {
            "file": pyarrow.string(),
            "label": pyarrow.string(),
            "index": pyarrow.int64(),
            "confidence": pyarrow.float32(),
            "exit": pyarrow.int64(),
            "truth": pyarrow.string(),
            "probabilities": pyarrow.list_(pyarrow.float32()),
            "error": pyarrow.string(),
            "way": pyarrow.string(),
        }
        schema = pyarrow.schema({name: kinds[name] for name in columns_of(ways=self.ways)})
        with self.lines.open("rb") as file, pyarrow.parquet.ParquetWriter(stream, schema) as writer:
            while batch := [json.loads(line) for _, line in zip(range(_ROWS), file, strict=False)]:
                writer.write_table(pyarrow.Table.from_pylist([_in_utf8(row) for row in batch], schema=schema))

    # --- beginning -----------------------------------------------------------------------------------------

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            self.file.close()
            raise OptionError(
                f"another run is writing {self.out}; wait for it, or give another --out"
            ) from problem

    def _begin(self, resume: bool, *, was_there: bool) -> list[Record]:
        """Records that are there already; the file ends after them."""
        there = was_there if self.form != "parquet" else self.out.exists()
        before = self._read_journal() if self.journal.exists() else None
        if before is not None and not before.pop(_COMPLETE):
            if not resume:
                raise OptionError(
                    f"{self.out} is the output of an interrupted run: --resume goes on with it; "
                    f"to begin anew, remove it and {self.journal.name}"
                )
            self._check_same_run(before)
            return self._kept()
        if resume and there:
            if before is None and self.out.stat().st_size:
                raise OptionError(
                    f"{self.out} is no output of an interrupted run; give another --out, or remove it"
                )
            if before is not None:
                self._check_same_run(before)
                self.finished = True
                return self._all()
        # In this order: a journal beside an older run's lines would make them this run's.
        with naming(self.out):
            self.file.truncate(0)
            self._write_journal(complete=False)
            self._write_header()
        return []

    def _write_header(self) -> None:
        self.file.write(header_of(self.line_form, ways=self.ways))
        self.file.flush()

    def _write_journal(self, *, complete: bool) -> None:
        write_text_atomically(self.journal, json.dumps({**self.run, _COMPLETE: complete}, indent=1) + "\n")

    def _read_journal(self) -> dict[str, Any]:
        try:
            told = _JOURNAL.load(self.journal)
        except RecordError as problem:
            raise RecordError(f"{problem}; remove it and {self.out} to begin anew") from problem
        known = {"settings": None, "offsets": None, **told.run}  # 0.1.0 had none
        missing = sorted(set(self.run) - set(known))
        if missing:
            raise RecordError(
                f"{self.journal} is damaged: it tells no {missing[0]}; remove it and {self.out} to begin anew"
            )
        return {**known, _COMPLETE: told.complete}

    def _check_same_run(self, before: Mapping[str, Any]) -> None:
        for key, value in self.run.items():
            if before[key] != value:
                raise OptionError(
                    f"{self.out} was begun with {key} = {_as_json(before[key])}, now it is "
                    f"{_as_json(value)}; resume with the same, or remove it and {self.journal.name}"
                )

    def _kept(self) -> list[Record]:
        """Read what is there; cut off a last line that was not finished."""
        header = header_of(self.line_form, ways=self.ways)
        with self.lines.open("rb") as file:
            first = file.read(len(header))
            if first != header:
                if not header.startswith(first):
                    raise self._strange(ValueError("its header is not that of a run"))
                with naming(self.out):
                    self.file.truncate(0)
                    self._write_header()
                return []
            records = self._records_in(file)
            file.seek(0)
            end = _end_of_last_line(file)
        with naming(self.out):
            self.file.truncate(end)
        return records

    def _all(self) -> list[Record]:
        """The records of a complete output."""
        if self.form == "parquet":
            pyarrow = _pyarrow()
            wanted = [name for name in columns_of(ways=self.ways) if name != "probabilities"]
            try:
                with pyarrow.parquet.ParquetFile(self.out) as file:
                    self._check_count(file.metadata.num_rows)  # some kilobytes may hold millions, all alike
                    batches = file.iter_batches(batch_size=_ROWS, columns=wanted)
                    rows = (row for batch in batches for row in batch.to_pylist())
                    return [record_of_row(row, f"record {n}") for n, row in enumerate(rows, start=1)]
            except (ValueError, OSError, pyarrow.ArrowException, RecordError) as problem:
                raise self._strange(problem) from problem
        header = header_of(self.form, ways=self.ways)
        with self.out.open("rb") as file:
            if file.read(len(header)) != header:
                file.seek(0)
            return self._records_in(file)

    def _check_count(self, records: int) -> None:
        if records > self.images:
            raise OptionError(
                f"{self.out} holds {number_of(records, 'image')}, but only {self.images} are given now; "
                "resume with the same images"
            )

    def _records_in(self, file: BinaryIO) -> list[Record]:
        """Those of whole lines; a file that is one endless line is not read to its end."""
        records = list[Record]()
        while line := file.readline(_LONGEST_LINE + 1):
            what = f"record {len(records) + 1}"
            if len(line) > _LONGEST_LINE:
                raise self._strange(ValueError(f"{what} is longer than {_LONGEST_LINE:,} bytes"))
            if line.endswith(b"\n"):
                self._check_count(len(records) + 1)
                records.append(self._record_in(line[:-1], what))
        return records

    def _record_in(self, line: bytes, what: str) -> Record:
        try:
            return record_in(line, self.line_form, what)
        except RecordError as problem:
            raise self._strange(problem) from problem

    def _strange(self, problem: Exception) -> RecordError:
        told = in_a_line(problem)
        return RecordError(f"{self.out} is not what a run has written: {told}; remove it to begin anew")


def _as_json(value: object) -> str:
    """As the journal has it; of a long one, the ends."""
    return shortened(json.dumps(value), 200)


def _in_utf8(record: Record) -> Record:
    """The name of a file may hold bytes that are no text; Parquet takes text only: they are spelled out."""
    return {key: spelled(value) if isinstance(value, str) else value for key, value in record.items()}


def spelled(text: str) -> str:
    """A text with the codes of those bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _end_of_last_line(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    end = position = 0
    for line in file:
        position += len(line)
        if line.endswith(b"\n"):
            end = position
    return end


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as problem:
        raise OptionError("Parquet needs pyarrow: pip install pyarrow, or take .jsonl or .csv") from problem
    return pyarrow
