"""The wire format of protocol buffers, read as strictly as it is written, so that two readers cannot differ.

A message is a list of fields: a tag (field number and wire type), then a value. Google's reader is lenient:
it keeps 32 bits of a tag of any value, takes numbers that are longer than need be, and reads a field of
another wire type as one that it does not know. A check that takes such a field for another than it does
checks nothing. No writer makes them, so they are refused here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from s2dnas_deploy.errors import BundleError

Value = memoryview | int

NUMBER, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # the wire types that are in use
_LARGEST_TAG = 2**32 - 1  # so field numbers end at 2²⁹ - 1
_LONGEST_NUMBER = 10  # bytes, of seven bits each: 64 bits


@dataclass(kw_only=True)
class Allowance:
    """How many fields a file may have, all messages together: what bounds the time that reading it takes."""

    fields: int

    def take(self) -> None:
        """One field more."""
        self.fields -= 1
        if self.fields < 0:
            raise BundleError("the ONNX file has more fields than any network: it was made to be slow")


def fields_of(message: memoryview, allowance: Allowance) -> Iterator[tuple[int, int, Value]]:
    """Every field of a message, in order: its number, its wire type, and its bytes or its whole number."""
    at, end = 0, len(message)
    while at < end:
        allowance.take()
        tag, at = _number(message, at)
        number, wire = tag >> 3, tag & 7
        if tag > _LARGEST_TAG or not number:
            raise BundleError("not an ONNX file, or a damaged one: it has a field of an impossible number")
        if wire == NUMBER:
            value, at = _number(message, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _number(message, at)
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if wire == EIGHT_BYTES else 4
        else:  # groups, which nobody writes any more, and two types that do not exist
            raise BundleError(f"not an ONNX file, or a damaged one: it has a field of wire type {wire}")
        if size > end - at:
            raise BundleError("the ONNX file ends in the middle: it is truncated or damaged")
        yield number, wire, message[at : at + size]
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, in as few as it takes; and where it ends."""
    value = 0
    for count, byte in enumerate(message[at : at + _LONGEST_NUMBER]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if (count and not byte) or value >= 2**64:
                raise BundleError("not an ONNX file, or a damaged one: a number is longer than it need be")
            return value, at + count + 1
    if len(message) - at < _LONGEST_NUMBER:
        raise BundleError("the ONNX file ends in the middle: it is truncated or damaged")
    raise BundleError("not an ONNX file, or a damaged one: a number is longer than it need be")
