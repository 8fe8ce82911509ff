"""Protocol buffers byte by byte, as no library writes them: what tests of the strict reader are made of."""


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
