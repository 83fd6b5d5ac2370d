"""Columns: what reads as a map is that map, and so is its page; what is none is refused."""

import random
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from projector.columns import Columns
from projector.page import Page, parsed

EDGES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1]
SIZES = [0, 1, 2, 15, 16, 17, 300]


def drawn(size: int, seed: int = 1) -> dict[bytes | str, list[int]]:
    """Ids in order, each with four numbers of every length."""
    draw = random.Random(seed)
    ids = sorted(draw.randbytes(16) for _ in range(size))
    return {key: [draw.choice([*EDGES, draw.getrandbits(draw.randrange(1, 63))]) for _ in range(4)] for key in ids}


def columns(held: Mapping[Any, list[int]]) -> Columns:
    """The same as columns."""
    ids = np.frombuffer(b"".join(held), np.uint8).reshape(-1, 16)
    return Columns(ids, np.array(list(held.values()), np.int64).reshape(-1, 4))


@pytest.mark.parametrize("size", SIZES)
def test_columns_read_as_the_map(size: int) -> None:
    """Ids, sightings, order and size; types too."""
    held = drawn(size)
    found = columns(held)
    assert found == held
    assert list(found.items()) == list(held.items())
    assert len(found) == size
    assert all(type(number) is int for sighting in found.values() for number in sighting)
    assert bytes(16) not in found


@pytest.mark.parametrize("size", [*SIZES, 70_000])
def test_they_are_packed_as_the_map_is(size: int) -> None:
    """The very bytes that a page's digest is taken of."""
    held = drawn(size)
    assert columns(held).packed() == msgspec.msgpack.encode([[key, sighting] for key, sighting in held.items()])


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_page_of_columns_is_the_page_of_the_map(size: int) -> None:
    """Digest, prints, counts and all other bins."""
    held = drawn(size)
    page = Page(41, (1 << 63) + 5, held, [1 << 62, 7], b"\x01" * 32)
    other = page._replace(ids=columns(held))
    assert other.bins() == page.bins()
    assert parsed(41, page.seal, {**page.bins(), "ids": columns(held)}) == page


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [
        ([2, 1], [[0] * 4] * 2),
        ([1, 1], [[0] * 4] * 2),
        ([1], [[0, 0, -1, 0]]),
        ([1], [[0] * 3]),
        ([1, 2], [[0] * 4]),
    ],
)
def test_what_is_no_such_map_is_refused(ids: list[int], numbers: Any) -> None:
    """Ids that do not ascend or come twice, negative numbers, three of them, too few."""
    with pytest.raises(ValueError, match=r"four numbers|ascend"):
        Columns(np.frombuffer(b"".join(each.to_bytes(16) for each in ids), np.uint8).reshape(-1, 16), np.array(numbers))
