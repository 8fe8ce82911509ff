"""Protocol buffers byte by byte, as no library writes them: what tests of the strict reader are made of."""

from s2dnas_deploy.files.onnx_schema import MESSAGES
from s2dnas_deploy.files.protobuf import BYTES, Allowance, fields_of


def varint(value: int, length: int = 1) -> bytes:
    """A number in groups of seven bits; in more bytes than it takes, if a length is given."""
    groups = [value >> 7 * i & 0x7F for i in range(max(length, -(-value.bit_length() // 7), 1))]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def tag(number: int, wire: int = 2) -> bytes:
    return varint(number << 3 | wire)


def field(number: int, body: bytes | int, *, tagged: bytes | None = None) -> bytes:
    """A field: a whole number, or bytes (a text, a message); with another tag, if one is given."""
    if isinstance(body, int):
        return (tagged or tag(number, 0)) + varint(body)
    return (tagged or tag(number)) + varint(len(body)) + body


def disguised(number: int, body: bytes) -> bytes:
    """A field whose tag is five bytes long with bit 32 set: 32 bits of it are those of `number`."""
    return field(number, body, tagged=varint((number << 3 | 2) | 1 << 32, 5))


Tree = list[tuple[int, int, "int | bytes | Tree"]]
"""A message as its fields: number, wire type, and what is in it; messages within as trees."""


def decoded(content: bytes, kind: str = "model") -> Tree:
    """An ONNX file that is valid, as a tree to be changed."""
    fields = fields_of(memoryview(content), Allowance(fields=1_000_000))
    return [(number, wire, _within(value, MESSAGES[kind][number].message)) for number, wire, value in fields]


def _within(value: "memoryview | int", message: str | None) -> "int | bytes | Tree":
    if isinstance(value, int):
        return value
    return bytes(value) if message is None else decoded(bytes(value), message)


def encoded(tree: Tree) -> bytes:
    """The tree as a file again, with the lengths that it has now."""
    return b"".join(_encoded(*each) for each in tree)


def _encoded(number: int, wire: int, value: "int | bytes | Tree") -> bytes:
    if isinstance(value, int):
        return tag(number, wire) + varint(value)
    body = encoded(value) if isinstance(value, list) else value
    return tag(number, wire) + (varint(len(body)) if wire == BYTES else b"") + body


def messages_in(tree: Tree) -> list[Tree]:
    """The message and all that are in it, at any depth."""
    inner = [found for _, _, value in tree if isinstance(value, list) for found in messages_in(value)]
    return [tree, *inner]
