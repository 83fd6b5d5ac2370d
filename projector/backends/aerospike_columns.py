"""Maps and lists as the server sends them: the client's own objects of them cost most of what reading a page does."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import aerospike
import msgspec
import numpy as np
from aerospike_helpers import expressions as exp  # type: ignore[import-untyped]  # no stubs

from projector.columns import FIELDS, ID_BYTES, Columns, windows

FILTERED_OUT = 27
_KINDS: dict[type, int] = {Columns: aerospike.AS_BYTES_MAP, dict: aerospike.AS_BYTES_MAP, list: aerospike.AS_BYTES_LIST}
_ORDERED = b"\xc7\x00\x01\xc0"
"""What the first entry of a map that is ordered by its keys is: an extension without content, and nil."""
_ID = (0xA0 | ID_BYTES + 1, 4)
"""How the key of an entry begins: a text of 17 bytes, the first of which says that it is a blob."""
_UNFIT = 255
_WIDTH = np.full(256, _UNFIT, np.uint8)
_WIDTH[:0x80] = 0
_WIDTH[[0xCC, 0xCD, 0xCE, 0xCF]] = 1, 2, 4, 8
_SHIFT = np.array([64 - 8 * max(width, 1) for width in range(9)], np.uint64)
_SPARE = bytes(ID_BYTES + 8)


@lru_cache(maxsize=64)
def as_expected(bins: tuple[str, ...], expected: tuple[tuple[str, type], ...]) -> Any:
    """The filter that only rows pass whose bins are maps and lists where that is expected, and nowhere else."""
    kinds = dict(expected)
    fits = []
    for name in bins:
        kind = exp.BinType(name)
        if name in kinds:
            fits.append(exp.Eq(kind, _KINDS[kinds[name]]))
        else:
            fits += [exp.NE(kind, each) for each in (aerospike.AS_BYTES_MAP, aerospike.AS_BYTES_LIST)]
    return exp.And(*fits).compile()


def unpacked(names: Sequence[str], expected: Mapping[str, type], held: Mapping[str, Any]) -> dict[str, Any] | None:
    """The bins of a row that passed the filter; None for what only the client itself can read."""
    bins = {name: held[name] for name in names if held.get(name) is not None}
    try:
        for name, kind in expected.items():
            bins[name] = columns(bins[name]) if kind is Columns else _whole_numbers(bins[name], kind)
    except (ValueError, LookupError, msgspec.MsgspecError):
        return None
    return bins


def _whole_numbers(packed: bytes, kind: type) -> Any:
    if kind is list:
        return msgspec.msgpack.decode(packed, type=list[int])
    size = packed[0] & 0x0F
    if packed[0] & 0xF0 != 0x80 or not size or packed[1:5] != _ORDERED:
        raise ValueError("no small map that is ordered by its keys")
    return msgspec.msgpack.decode(bytes((0x80 | size - 1,)) + packed[5:], type=dict[int, int])


def columns(packed: bytes) -> Columns:
    """A map of 16-byte blobs to lists of four whole numbers.

    Where an entry begins is guessed from its first bytes, all at once, and then proved: each begins where the one
    before it ends, and there are as many as the map says. Raises `ValueError` where that is not so.
    """
    count, begin = _opened(packed)
    octets = np.frombuffer(packed + _SPARE, np.uint8)
    whole = octets[: len(packed)]
    after = 2 + ID_BYTES
    guessed = (whole[:-after] == _ID[0]) & (whole[1 : 1 - after] == _ID[1]) & (whole[after:] == 0x90 | FIELDS)
    begins = np.flatnonzero(guessed[begin:]) + begin
    if not count or len(begins) != count or begins[0] != begin:
        raise ValueError("not only 16-byte ids, or bytes in them that look like the beginning of one")
    at = begins + after + 1
    words = np.ndarray((len(octets) - 7,), ">u8", octets, strides=(1,))
    numbers = np.empty((count, FIELDS), np.int64)
    for field in range(FIELDS):
        at = np.minimum(at, len(packed))
        first = octets[at]
        width = _WIDTH[first]
        if (width == _UNFIT).any():
            raise ValueError("not four whole numbers")
        numbers[:, field] = np.where(width == 0, first, words[at + 1].astype(np.uint64) >> _SHIFT[width])
        at = at + 1 + width
    if not np.array_equal(at, np.append(begins[1:], len(packed))):
        raise ValueError("entries that do not follow upon each other")
    return Columns(windows(octets, ID_BYTES)[begins + 2], numbers)


def _opened(packed: bytes) -> tuple[int, int]:
    """How many entries a map that is ordered by its keys has, and where the first one begins."""
    first = packed[0]
    if first & 0xF0 == 0x80:
        count, begin = first & 0x0F, 1
    elif first in (0xDE, 0xDF):
        begin = 3 if first == 0xDE else 5
        count = int.from_bytes(packed[1:begin])
    else:
        raise ValueError("no map")
    if packed[begin : begin + len(_ORDERED)] != _ORDERED:
        raise ValueError("a map that is not ordered by its keys")
    return count - 1, begin + len(_ORDERED)
