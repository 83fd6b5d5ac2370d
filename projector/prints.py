"""Prints: which sealed page may hold an id, in 8 bytes an id.

A print is a 4-byte mixing hash of the whole id. An id whose print is not in the index is new to all pages; one whose
print is there must be looked up exactly. So a false positive costs a look-up and never decides anything.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from projector.columns import Columns

Words: TypeAlias = NDArray[np.uint64]
Array: TypeAlias = NDArray[np.uint32]

RUN_MAX = 1 << 21
"""Entries of the longest run; merging two into one takes some 20 ms, so no campaign stalls the loop as it grows."""
MERGE_RATIO = 4
_LOW = np.uint64(0xFFFF_FFFF)
_32 = np.uint64(32)


def prints(ids: Collection[bytes | str]) -> Array:
    """The print of each id, in order."""
    return (mixed(ids) >> _32).astype(np.uint32)


def mixed(ids: Collection[bytes | str]) -> Words:
    """An 8-byte hash of each id, in order. All bytes of an id take part: UUIDv7 share their first ones."""
    words = np.frombuffer(_joined(ids), dtype="<u8").reshape(-1, 2)
    first, second = words[:, 0], words[:, 1]
    # Two rounds of the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    hashed = first ^ (second * np.uint64(0x9E3779B97F4A7C15))
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed ^= second ^ (second >> np.uint64(31))
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashed ^ (hashed >> np.uint64(31))


def _joined(ids: Collection[bytes | str]) -> bytes:
    """16 bytes of each id."""
    if isinstance(ids, Columns):
        return ids.ids.tobytes()
    if set(map(type, ids)) == {bytes} and set(map(len, ids)) == {16}:
        return b"".join(ids)  # type: ignore[arg-type]  # all of them are bytes
    return b"".join([_16(each) for each in ids])


def _16(event_id: bytes | str) -> bytes:
    if isinstance(event_id, bytes) and len(event_id) == 16:
        return event_id
    return blake2b(event_id if isinstance(event_id, bytes) else event_id.encode(), digest_size=16).digest()


def packed(of: Array) -> bytes:
    """Prints as a page keeps them: sorted, 4 bytes each, little-endian."""
    return np.sort(of).astype("<u4").tobytes()


class Index:
    """Print -> pages of one campaign: sorted runs, merged as they grow, none longer than `RUN_MAX`."""

    def __init__(self) -> None:
        self._runs: list[Words] = []

    @property
    def memory_bytes(self) -> int:
        """Memory of the entries."""
        return sum(run.nbytes for run in self._runs)

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, pages: Sequence[tuple[int, bytes]]) -> None:
        """Index pages, each given by a number below 2^32 and its packed prints."""
        entries = [np.frombuffer(blob, "<u4").astype(np.uint64) << _32 | np.uint64(page) for page, blob in pages]
        if not entries:
            return
        added = np.concatenate(entries)
        added.sort()
        for start in range(0, len(added), RUN_MAX):
            self._append(added[start : start + RUN_MAX])

    def _append(self, run: Words) -> None:
        while self._runs and len(self._runs[-1]) <= MERGE_RATIO * len(run):
            if len(self._runs[-1]) + len(run) > RUN_MAX:
                break
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")
        self._runs.append(run)

    def candidates(self, asked: Array) -> list[tuple[int, int]]:
        """Pairs of (position in `asked`, page) of every entry with one of these prints."""
        low = asked.astype(np.uint64) << _32
        high = low | _LOW
        found: list[tuple[int, int]] = []
        for run in self._runs:
            first = np.searchsorted(run, low)
            hits = np.flatnonzero((first < len(run)) & (run[np.minimum(first, len(run) - 1)] <= high))
            if len(hits):
                last = np.searchsorted(run, high[hits], side="right")
                for position, start, stop in zip(hits.tolist(), first[hits].tolist(), last.tolist(), strict=True):
                    found += [(position, page) for page in (run[start:stop] & _LOW).tolist()]
        return found
