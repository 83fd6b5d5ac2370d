"""Columns: a large map of 16-byte ids to sightings, as arrays; a store may answer a bin so where it is asked to."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Octets: TypeAlias = NDArray[np.uint8]
Numbers: TypeAlias = NDArray[np.int64]

ID_BYTES = 16
FIELDS = 4
_WIDTHS = np.array([0, 1, 2, 4, 8])
_SHIFTS = np.array([0, 56, 48, 32, 0], np.uint64)
_TOPS = np.array([0x7F, 0xFF, 0xFFFF, 0xFFFF_FFFF], np.uint64)
"""The largest number that MessagePack writes in so many bytes after the first one."""
_MARKS = np.array([0, 0xCC, 0xCD, 0xCE, 0xCF], np.uint8)
_ENTRY = np.frombuffer(bytes((0x92, 0xC4, ID_BYTES, *bytes(ID_BYTES), 0x90 | FIELDS)), np.uint8)
"""How an entry begins: a list of two, the bytes of the id, a list of four."""


def windows(octets: Octets, width: int) -> Octets:
    """At each place the bytes from there on, so many; a view. (numpy's own takes ten times as long to make.)"""
    return np.ndarray((len(octets) - width + 1, width), np.uint8, octets, strides=(1, 1))


class Columns(Mapping[bytes | str, list[int]]):
    """Reads as the map that it stands for. `ids`: n x 16 bytes, strictly ascending; `numbers`: n x 4, none negative."""

    def __init__(self, ids: Octets, numbers: Numbers) -> None:
        """Raises `ValueError` for what is no such map."""
        if ids.shape != (len(ids), ID_BYTES) or numbers.shape != (len(ids), FIELDS):
            raise ValueError("not 16 bytes and four numbers each")
        words = np.ascontiguousarray(ids).view(">u8")
        high, low = words[:, 0], words[:, 1]
        ascending = (high[:-1] < high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] < low[1:]))
        if not ascending.all() or (numbers < 0).any():
            raise ValueError("ids that do not ascend, or a negative number")
        self.ids = ids
        self.numbers = numbers

    def packed(self) -> bytes:
        """The MessagePack of [[id, sighting], ...], each number as short as it goes."""
        count = len(self.ids)
        if not count:
            return b"\x90"
        numbers = self.numbers.astype(np.uint64)
        sizes = sum((numbers > top).view(np.uint8) for top in _TOPS)
        widths = _WIDTHS[sizes]
        offsets = np.cumsum(widths + 1, axis=1)  # of what follows each number, from the first one on
        lengths = len(_ENTRY) + offsets[:, -1]
        ends = np.cumsum(lengths)
        begins = ends - lengths
        out = np.empty(int(ends[-1]) + 8, np.uint8)
        written = np.empty((count, 9), np.uint8)
        nine = windows(out, 9)
        at = begins + len(_ENTRY)
        # Each number is followed by bytes of no meaning, over which the next one is written; so entries begin last.
        for field in range(FIELDS):
            number, size = numbers[:, field], sizes[:, field]
            written[:, 0] = np.where(size == 0, number, _MARKS[size])
            written[:, 1:] = (number << _SHIFTS[size]).astype(">u8").view(np.uint8).reshape(-1, 8)
            nine[at + offsets[:, field - 1] if field else at] = written
        heads = np.empty((count, len(_ENTRY)), np.uint8)
        heads[:] = _ENTRY
        heads[:, 3 : 3 + ID_BYTES] = self.ids
        windows(out, len(_ENTRY))[begins] = heads
        if count < 1 << 4:
            head = bytes((0x90 | count,))
        else:
            head = b"\xdc" + count.to_bytes(2) if count < 1 << 16 else b"\xdd" + count.to_bytes(4)
        return head + out[:-8].tobytes()

    @cached_property
    def _held(self) -> dict[bytes | str, list[int]]:
        octets = self.ids.tobytes()
        ids = [octets[at : at + ID_BYTES] for at in range(0, len(octets), ID_BYTES)]
        return dict(zip(ids, self.numbers.tolist(), strict=True))

    def __getitem__(self, key: bytes | str) -> list[int]:
        return self._held[key]

    def __iter__(self) -> Iterator[bytes | str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self.ids)
