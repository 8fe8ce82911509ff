"""What may be shown to a person is the same everywhere: in messages, in documents and on a terminal."""

import pytest

from s2dnas_deploy.cli.console import readable
from s2dnas_deploy.files.bounds import Printable
from s2dnas_deploy.quoting import in_a_line, is_shown, named_in_line, number_of, spelled_out

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
TURNING = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
OTHERS = ["\u2028", "\u2029", "\ud800", "\udcff"]


@pytest.mark.parametrize("letter", [*CONTROLS, *TURNING, *OTHERS], ids=ascii)
def test_what_steers_or_hides_is_shown_nowhere(letter):
    text = f"a{letter}b"
    assert not is_shown(text)
    assert not Printable().fits(text)
    assert letter not in named_in_line(text)
    assert letter not in in_a_line(ValueError(text))
    assert letter not in spelled_out(text)
    assert letter in "\t\n" or letter not in readable(text)


@pytest.mark.parametrize("text", ["a – ü", "猫\u3000犬", "non-breaking\xa0space", "\U0001f431"])
def test_what_people_write_is_shown_as_it_is(text):
    assert is_shown(text)
    assert Printable().fits(text)
    assert named_in_line(text) == in_a_line(ValueError(text)) == spelled_out(text) == readable(text) == text


def test_what_another_library_says_does_not_grow_by_its_codes():
    assert len(in_a_line(ValueError("\u202e" * 10_000))) <= 300


def test_how_many_there_are_is_said_in_the_right_number():
    assert [number_of(count, "image") for count in (0, 1, 2, 2000)] == [
        "0 images",
        "1 image",
        "2 images",
        "2,000 images",
    ]
    assert number_of(1, "class", "classes") == "1 class"
    assert number_of(3, "class", "classes") == "3 classes"
