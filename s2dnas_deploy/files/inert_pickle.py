"""Pickles from anyone's hands: containers, numbers and text are read, and nothing is imported or run.

Place in the flow: CIFAR's files and torch's are pickles. Whoever reads one says which stand-in is made where
the file names a class; what is made, and how much memory that takes, is then for the stand-in to decide.

Python's own unpickler in C is not for this: one opcode makes it reserve gigabytes for its memo, and a tuple
in tuples, a million deep, ends the process when it is hashed. The same in Python remembers by a dictionary,
and here keys are plain, opcodes that no data needs are refused, and attributes are never set.
"""

import pickle
from collections.abc import Callable
from typing import Any, ClassVar

_OPCODES = """
PROTO FRAME STOP MARK POP POP_MARK
NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT
GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
GLOBAL STACK_GLOBAL REDUCE NEWOBJ BINPERSID
"""
_CODES = [getattr(pickle, name)[0] for name in _OPCODES.split()]
_LONGEST_NUMBER_BITS = 64
_MOST_OPCODES = 2_000_000  # a state dict takes about 30 for a tensor; each may take 100 bytes of memory


class StandIn:
    """What is made in place of an object that a file names; of the object's own state it keeps nothing."""

    __slots__ = ()

    def __init__(self, *_: object) -> None:
        """Take whatever the object would be made of."""

    def __setstate__(self, state: object) -> None:
        """Ignore what the object would hold."""


class _Counted(dict[int, Callable[..., Any]]):
    """What each opcode does, looked up no more often than data of any use need."""

    def __init__(self, dispatch: dict[int, Callable[..., Any]]) -> None:
        super().__init__(dispatch)
        self._left = _MOST_OPCODES

    def __getitem__(self, code: int) -> Callable[..., Any]:
        self._left -= 1
        if self._left < 0:
            raise pickle.UnpicklingError(f"more than {_MOST_OPCODES:,} opcodes")
        return super().__getitem__(code)


class InertUnpickler(pickle._Unpickler):
    """Reads one pickle; a subclass's `find_class` gives a stand-in for each name it knows, or refuses it.

    Damaged bytes end in almost any exception, which is for the caller to put into words.
    """

    # What the unpickler in Python works with, which its types leave out.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., Any]]] = {
        code: pickle._Unpickler.dispatch[code] for code in _CODES
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.dispatch = _Counted(type(self).dispatch)  # type: ignore[misc]  # each reads a pickle of its own

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def _set_items(self) -> None:
        self._put(self.pop_mark())

    def _make_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        """Keys and values, in turn, into the dictionary on the stack."""
        filled = self.stack[-1]
        if not isinstance(filled, dict):
            raise pickle.UnpicklingError(f"expected a dictionary to fill, got a {type(filled).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            filled[plain_key(key)] = value

    def _build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, StandIn):
            raise pickle.UnpicklingError(f"expected no attributes for a {type(made).__name__}")
        made.__setstate__(state)

    dispatch.update(
        {
            pickle.SETITEM[0]: _set_item,
            pickle.SETITEMS[0]: _set_items,
            pickle.DICT[0]: _make_dict,
            pickle.BUILD[0]: _build,
        }
    )


def plain_key(key: Any) -> Any:
    """The key, which must be text or a number that can be hashed and shown at no cost."""
    is_number = isinstance(key, int) and key.bit_length() <= _LONGEST_NUMBER_BITS
    if not (is_number or key is None or isinstance(key, str | bytes | float)):
        raise pickle.UnpicklingError(f"expected a key of text or a number, got a {type(key).__name__}")
    return key
