"""The server's own form of a map: read at once, or refused; never read wrongly, whatever the bytes are."""

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from projector.backends.aerospike_columns import columns
from tests.unit.test_columns import drawn

ORDERED = b"\xc7\x00\x01\xc0"


def stored(held: dict[Any, Any], opening: bytes = ORDERED) -> bytes:
    """As the server keeps a map that is ordered by its keys."""
    count = len(held) + bool(opening)
    if count < 1 << 4:
        head = bytes((0x80 | count,))
    else:
        head = b"\xde" + count.to_bytes(2) if count < 1 << 16 else b"\xdf" + count.to_bytes(4)
    entries = [bytes((0xA0 | len(key) + 1, 4)) + key + msgspec.msgpack.encode(value) for key, value in held.items()]
    return head + opening + b"".join(entries)


def read_in_order(packed: bytes) -> dict[bytes, list[int]]:
    """The same, one entry after the other. Raises `ValueError` or `IndexError` for what is none."""
    begin = {0xDE: 3, 0xDF: 5}.get(packed[0], 1)
    count = int.from_bytes(packed[1:begin]) if begin > 1 else packed[0] - 0x80
    place = begin + 4
    held = {}

    def number() -> Iterator[int]:
        nonlocal place
        while True:
            first = packed[place]
            width = 0 if first < 0x80 else {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}[first]
            if place + 1 + width > len(packed):
                raise ValueError("ends too soon")
            value = int.from_bytes(packed[place + 1 : place + 1 + width]) if width else first
            place += 1 + width
            yield value

    for _ in range(count - 1):
        if packed[place : place + 2] != b"\xb1\x04" or packed[place + 18] != 0x94:
            raise ValueError("no entry")
        key = packed[place + 2 : place + 18]
        place += 19
        numbers = number()
        held[key] = [next(numbers) for _ in range(4)]
    if place != len(packed) or len(held) != count - 1 or packed[begin : begin + 4] != ORDERED:
        raise ValueError("more or less than the map says")
    return held


@pytest.mark.parametrize("size", [1, 2, 14, 15, 16, 300, 66_000])
def test_a_map_is_read(size: int) -> None:
    """Of any size, with numbers of every length."""
    held = drawn(size)
    assert columns(stored(held)) == held


GOOD = drawn(3)
KEY = bytes(16)


@pytest.mark.parametrize(
    "packed",
    [
        b"\x80",
        b"\x81" + ORDERED,
        stored(GOOD, b""),
        stored(GOOD, b"\xc7\x00\x03\xc0"),
        stored({**GOOD, b"\xff" * 15: [0, 1, 2, 3]}),
        stored({KEY: [0, 1, 2]}),
        stored({KEY: [0, 1, 2, 3, 4]}),
        stored({KEY: [0, 1, 2, -1]}),
        stored({KEY: [0, 1, 2, 3.5]}),
        stored({KEY: [0, 1, 2, None]}),
        stored({KEY: [0, 1, 2, True]}),
        stored({KEY: [0, 1, 2, 1 << 63]}),
        stored({KEY: [0, 1, 2, "3"]}),
        stored({KEY: {0: 1}}),
        stored(dict(reversed(GOOD.items()))),
        stored({b"\xb1\x04" + bytes(14): [0x94, 1, 2, 3]}),
        stored(GOOD)[:-1],
        stored(GOOD) + b"\x00",
        b"\x93\x01\x02\x03",
    ],
)
def test_anything_else_is_refused(packed: bytes) -> None:
    """Other keys, values, orders and sizes; ids in which an entry seems to begin: the client itself reads those."""
    with pytest.raises(ValueError, match=r"\w"):
        columns(packed)


def test_damaged_bytes_are_never_read_wrongly() -> None:
    """What is read is what reading entry by entry gives."""
    draw = random.Random(7)
    read = 0
    for round_ in range(20_000):
        packed = bytearray(stored(drawn(draw.choice((1, 2, 3, 20)), round_)))
        for _ in range(draw.randrange(3)):
            at = draw.randrange(len(packed))
            match draw.randrange(4):
                case 0:
                    packed[at] = draw.choice((0, 4, 0x7F, 0x80, 0x94, 0xB1, 0xCC, 0xCD, 0xCE, 0xCF, 0xFF))
                case 1:
                    packed[at] ^= 1 << draw.randrange(8)
                case 2:
                    del packed[at : at + draw.randrange(30)]
                case _:
                    packed[at:at] = packed[at : at + draw.randrange(30)]
        try:
            found = columns(bytes(packed))
        except ValueError:
            continue
        assert found == read_in_order(bytes(packed))
        read += 1
    assert read > 1_000
