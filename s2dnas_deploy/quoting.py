"""What others have written, as a message may quote it: in one line, not for ever, and nothing that steers.

Common ground, which needs nothing. What may be shown to a person is said here and nowhere else; and how many
there are of something is worded here, too.
"""

import re
from reprlib import Repr

_NOT_SHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # what moves the cursor, or worse
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what turns the order of letters around, or ends a line
    "\ud800-\udfff]"  # bytes of a file's name that are no text
)
_LONGEST_QUOTE = 100
_LONGEST_NAME = 300
_QUOTES = Repr()  # which looks at no more than it shows: lists may share lists, and be endless that way
_QUOTES.maxlevel = 4
_QUOTES.maxlist = _QUOTES.maxtuple = _QUOTES.maxset = _QUOTES.maxdict = 10
_QUOTES.maxstring = _QUOTES.maxlong = _QUOTES.maxother = 4 * _LONGEST_QUOTE


def in_a_line(error: BaseException) -> str:
    """What another library's error says, its first line; its kind, where it says nothing."""
    lines = str(error).splitlines()
    first = shortened(lines[0] if lines else type(error).__name__, _LONGEST_NAME)
    return shortened(spelled_out(first), _LONGEST_NAME)


def is_shown(text: str) -> bool:
    """Whether a text may be shown as it is: in one line, and nothing in it that a terminal would obey."""
    return _NOT_SHOWN.search(text) is None


def spelled_out(text: str, but: str = "") -> str:
    """The text with a code for each letter that may not be shown; those in `but` stay as they are."""
    return _NOT_SHOWN.sub(lambda found: found[0] if found[0] in but else _code(found[0]), text)


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """A value from a file as a message may quote it: in one line, and no longer than a person reads."""
    try:
        return shortened(" ".join(_QUOTES.repr(value).splitlines()), _LONGEST_QUOTE)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, lists in lists in lists
        return f"a {type(value).__name__}"


def named_in_line(path: str) -> str:
    """A file's name as a message may hold it: as it is, unless it would break the line or not end."""
    return path if is_shown(path) and len(path) <= _LONGEST_NAME else shown(path)


def shortened(text: str, longest: int) -> str:
    """The text, its middle left out if it is longer than so many characters."""
    if len(text) <= longest:
        return text
    head = (longest - 3) * 2 // 3
    return f"{text[:head]} … {text[len(text) - (longest - 3 - head) :]}"


def number_of(count: int, noun: str, several: str = "") -> str:
    """How many there are: `1 image`, `2 images`, `2,000 classes`; `several` where the plural adds no `s`."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"
