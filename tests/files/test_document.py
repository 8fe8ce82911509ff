"""Documents are read strictly: what JSON leaves open is refused, and each value is held to its bounds."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from mutations import told_well

from s2dnas_deploy.errors import BundleError, PlanError
from s2dnas_deploy.files.bounds import Above, Between, Length, Matching, Name, Others, Printable, Share
from s2dnas_deploy.files.document import Form, Head, check_record


@dataclass(frozen=True, kw_only=True)
class Base:
    size: Annotated[int, Between(1, 2**20)]


@dataclass(frozen=True, kw_only=True)
class Part(Base):
    share: Share = 0.5
    speed: Annotated[float, Above(0)] | None = None

    def __post_init__(self) -> None:
        check_record(self, PlanError)
        if self.size == 13:
            raise PlanError("13 brings\nbad luck")


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: Annotated[tuple[Part, ...], Length(1, 3)]
    pair: tuple[int, str] = (0, "")
    flag: bool = False
    choice: Literal["a", "b", 3] = "a"
    title: Annotated[str, Printable()] = ""
    code: Annotated[str, Matching("[a-z]{2}", "two letters")] = "ab"
    named: Mapping[Name, Share] = field(default_factory=dict)
    plain: Any = None


FORM = Form(record=Whole, error=BundleError, head=Head(format="f", version=2, writer="a test"))


def read(text: str = "", **entries: Any) -> Whole:
    about = {"format": "f", "version": 2, "parts": [{"size": 1}]}
    return FORM.read(text or json.dumps({**about, **entries}), "the whole")


def with_plain(text: str) -> str:
    return f'{{"format": "f", "version": 2, "parts": [{{"size": 1}}], "plain": {text}}}'


def test_values_of_all_kinds_come_back():
    whole = read(
        parts=[{"size": 2, "share": 1}], pair=[3, "x"], flag=True, choice=3, named={"k": 0.5}, plain=[{}]
    )
    assert whole.parts == (Part(size=2, share=1.0),)
    assert isinstance(whole.parts[0].share, float)
    assert (whole.pair, whole.flag, whole.choice, whole.named, whole.plain) == (
        (3, "x"),
        True,
        3,
        {"k": 0.5},
        [{}],
    )


UPDATE = "; update s2dnas_deploy, or write it anew with a test"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"parts": [{"size": 1}, {"size": "x"}]}, "parts[1].size: expected a whole number, got 'x'"),
        ({"parts": [{"size": True}]}, "parts[0].size: expected a whole number, got true"),
        ({"parts": [{"size": 1.0}]}, "parts[0].size: expected a whole number, got 1.0"),
        (
            {"parts": [{"size": 0}]},
            "parts[0].size: expected a whole number from 1 to 1,048,576, got 0",
        ),
        ({"parts": [{"size": 1, "share": None}]}, "parts[0].share: expected a number, got null"),
        ({"parts": [{"size": 1, "share": False}]}, "parts[0].share: expected a number, got false"),
        ({"parts": [{"size": 1, "share": 1.5}]}, "parts[0].share: expected a number from 0 to 1, got 1.5"),
        ({"parts": [{"size": 1, "speed": 0}]}, "parts[0].speed: expected a number above 0, got 0"),
        ({"parts": [{}]}, 'parts[0]: expected "size" among the keys, got none'),
        ({"parts": [{"size": 1, "colour": 1}]}, "parts[0]: expected no other keys, got 'colour'"),
        ({"parts": [{"size": 13}]}, "parts[0]: 13 brings"),
        ({"parts": []}, "parts: expected a list of length 1 to 3, got a list of 0"),
        ({"parts": {}}, "parts: expected a list, got an object of 0"),
        ({"parts": [[]]}, "parts[0]: expected an object, got a list of 0"),
        ({"pair": [1]}, "pair: expected a list of 2, got a list of 1"),
        ({"pair": ["x", "x"]}, "pair[0]: expected a whole number, got 'x'"),
        ({"flag": 1}, "flag: expected true or false, got 1"),
        ({"choice": "c"}, "choice: expected a or b or 3, got 'c'"),
        ({"choice": 3.0}, "choice: expected a or b or 3, got 3.0"),
        ({"title": "\x1b[2J"}, "title: expected text without control characters, got '\\x1b[2J'"),
        ({"title": "\u202eevil"}, "title: expected text without control characters, got '\\u202eevil'"),
        (
            {"title": "x" * 10_001},
            "title: expected text of length 0 to 10,000, got text of 10,001 characters",
        ),
        ({"code": "abc"}, "code: expected text that is two letters, got 'abc'"),
        ({"code": "ab\n"}, "code: expected text that is two letters, got 'ab\\n'"),
        ({"named": {"k": 2}}, "named['k']: expected a number from 0 to 1, got 2"),
        ({"named": {"": 1}}, "named: expected text of length 1 to 1,000, got ''"),
        ({"format": "g"}, "format: expected \"f\", as a test writes it, got 'g'"),
        ({"version": 3}, f"version: expected 2, which this release reads, got 3{UPDATE}"),
        ({"version": 2.0}, f"version: expected 2, which this release reads, got 2.0{UPDATE}"),
    ],
)
def test_what_does_not_fit_is_refused_and_told_where(entries, message):
    with pytest.raises(BundleError) as refused:
        read(**entries)
    assert str(refused.value) == f"the whole: {message}"


TOO_DEEP = "expected at most 64 lists and objects within each other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON"),
        ("{", "expected JSON"),
        ("[]", "expected an object, got a list of 0"),
        ("\ufeff{}", "expected JSON"),
        ('{"a": 1, "a": 2}', "expected every key once, got 'a' twice"),
        (with_plain('{"a": 1, "b": 2, "a": 1}'), "expected every key once, got 'a' twice"),
        (with_plain("NaN"), "expected numbers that are finite, got NaN"),
        (with_plain("-Infinity"), "expected numbers that are finite, got -Infinity"),
        (with_plain("1e400"), "expected numbers that are finite, got '1e400'"),
        (with_plain("0." + "1" * 5000), "expected numbers that are finite, got '0.111"),
        (with_plain(str(2**63)), "expected whole numbers of 64 bits"),
        (with_plain(str(-(2**63) - 1)), "expected whole numbers of 64 bits"),
        (with_plain("1" * 5000), "expected whole numbers of 64 bits"),
        (with_plain('"\\ud800"'), r"expected whole characters, got '\ud800', half of one"),
        (with_plain('{"\\uDFFF": 1}'), r"expected whole characters, got '\udfff', half of one"),
        ('"\ud800"', "expected text in UTF-8"),
        (with_plain("[" * 64 + "]" * 64), "expected at most 64 lists and objects within each other"),
        (with_plain("[" * 100_000), "expected at most 64 lists and objects within each other"),
        (
            with_plain("[" * 100_000 + "]" * 100_000),
            "expected at most 64 lists and objects within each other",
        ),
        (with_plain('{"a":' * 100_000), "expected at most 64 lists and objects within each other"),
        (with_plain('[""' + ',["\\\\"' * 100_000), "expected at most 64 lists and objects within each other"),
    ],
)
def test_what_json_leaves_open_is_refused(text, message):
    begun = time.process_time()
    with pytest.raises(BundleError, match="the whole: ") as refused:
        FORM.read(text, "the whole")
    assert message in str(refused.value)
    assert told_well(refused.value)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize(
    ("number", "fits"),
    [
        (str(2**63 - 1), True),
        (str(10**18), True),
        (str(10**19), False),
        ("9" * 19, False),
        ("2" * 309 + ".0", False),
        ("1e99", True),
        ("1" * 18 + ".5E+99", True),
        ("1.0e308", True),
        ("1.0e309", False),
        ("1E309", False),
        ("1e+309", False),
        ("1E+0309", False),
        ("0." + "0" * 400, False),
        ("1e-400", True),
        ("1e-" + "0" * 400, False),
    ],
)
def test_a_number_is_as_large_as_it_may_be_or_refused(number, fits, sign):
    text = with_plain(f"[{sign}{number}]")
    if fits:
        assert read(text).plain == json.loads(f"[{sign}{number}]")
    else:
        with pytest.raises(BundleError, match=r"expected (whole )?numbers"):
            read(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 63 + "]" * 63,
        '"' + "[{" * 200 + '"',
        '"\\"[' + "[" * 200 + '"',
        '["\\\\", {}]',
        '"\\ud83d\\ude00"',
    ],
)
def test_what_only_looks_odd_is_read(text):
    assert read(with_plain(text)).plain == json.loads(text)


def test_nesting_does_not_depend_on_how_deep_python_may_go():
    """A parser that recurses in C would end the process where Python's own limit was lifted."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        with pytest.raises(BundleError, match="within each other"):
            FORM.read(with_plain("[" * 10**6), "the whole")
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "entries",
    [
        {"title": "a" * 30_000_000},
        {"parts": "a" * 30_000_000},
        {"a" * 30_000_000: 1},
        {"named": {"a" * 30_000_000: 1}},
        {"parts": [{"size": "a" * 30_000_000}]},
    ],
)
def test_a_message_is_short_however_long_the_document(entries):
    with pytest.raises(BundleError) as refused:
        read(**entries)
    assert told_well(refused.value)


def test_a_document_that_is_too_large_is_not_parsed(tmp_path):
    small = Form(record=Whole, error=BundleError, largest_bytes=100)
    (tmp_path / "d.json").write_text("[" * 101)
    with pytest.raises(BundleError, match=r"d\.json: expected at most 100 bytes, got 101$"):
        small.load(tmp_path / "d.json")


def test_a_complete_document_has_a_key_for_every_field():
    complete = Form(record=Part, error=BundleError, complete=True)
    assert complete.read('{"size": 1, "share": 1, "speed": null}', "it") == Part(size=1, share=1.0)
    with pytest.raises(BundleError, match='"speed" among the keys'):
        complete.read('{"size": 1, "share": 1}', "it")


def test_other_keys_go_where_a_record_takes_them():
    @dataclass(frozen=True, kw_only=True)
    class Open:
        known: int = 0
        rest: Annotated[Mapping[str, Any], Others()]

    form = Form(record=Open, error=BundleError)
    assert form.read('{"known": 1, "rest": 2, "more": []}', "it") == Open(
        known=1, rest={"rest": 2, "more": []}
    )


def test_infinite_numbers_and_odd_text_only_where_they_are_expected():
    text = '{"parts": [{"size": 1}], "plain": [-Infinity, "\\udcff"]}'
    odd = Form(record=Whole, error=BundleError, infinite=True, odd_text=True)
    assert odd.read(text, "it").plain == [float("-inf"), "\udcff"]
    for bad in ("NaN", "1e999"):
        with pytest.raises(BundleError, match="finite"):
            odd.read(text.replace("-Infinity", bad), "it")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "Part.size: expected a whole number from 1 to 1,048,576, got 0"),
        ({"size": "1"}, "Part.size: expected a whole number, got '1'"),
        ({"size": 1, "share": float("nan")}, "Part.share: expected a number that is finite, got nan"),
        (
            {"size": np.int64(1)},
            "Part.size: expected a whole number, got int64(1), which JSON cannot hold; int(…) or float(…) "
            "makes one that it can",
        ),
        (
            {"size": 1, "share": np.float32(0.5)},
            "Part.share: expected a number, got float32(0.5), which JSON cannot hold; int(…) or float(…) "
            "makes one that it can",
        ),
        ({"size": 1, "speed": float("inf")}, "Part.speed: expected a number that is finite, got inf"),
    ],
)
def test_bounds_hold_for_records_made_in_code(values, message):
    with pytest.raises(PlanError) as refused:
        Part(**values)
    assert str(refused.value) == message


def test_tuples_and_records_in_code_are_tuples_and_records():
    @dataclass(frozen=True, kw_only=True)
    class Holder:
        parts: tuple[Part, ...]

        def __post_init__(self) -> None:
            check_record(self, PlanError)

    assert Holder(parts=(Part(size=1),)).parts[0].size == 1
    with pytest.raises(PlanError, match=r"Holder\.parts: expected a list, got a list of 0"):
        Holder(parts=[])
    with pytest.raises(PlanError, match=r"Holder\.parts\[0\]: expected a Part, got an object of 1"):
        Holder(parts=({"size": 1},))
