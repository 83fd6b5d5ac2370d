"""A page: some sealed ids of one campaign, archived for ever under a key that no other content ever has.

Bins (contracts.md): `ids`, `prints`, `counts`, `first`, `last`, `seal`, `before`, `head`, `digest`. The digest covers
all others, and `head` is the digest of the page before: so the archive is tamper-evident as a chain.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
import numpy as np

from projector.columns import Columns
from projector.errors import LedgerDamaged
from projector.fold import EventId, Sighting
from projector.prints import packed, prints
from projector.store import Operation, Put, PutNew, RowKey

BEFORE_MAX = 256
NO_PAGE = 0
ROOT = b""
"""Digest of no page: what the first page of a chain names as its head."""
BINS = ("ids", "prints", "counts", "first", "last", "seal", "before", "head", "digest")
AS_COLUMNS: Mapping[str, type] = {"ids": Columns, "counts": dict, "before": list}
"""What a read of `BINS` expects that may have the ids as `Columns`."""


def page_key(pages: str, campaign: int, seal: int) -> RowKey:
    """Where the page named `seal` stands."""
    return RowKey(pages, f"{campaign}/{seal:016x}")


class Page(NamedTuple):
    """The content of a page. `before`: seals of the pages before it, newest first, at most `BEFORE_MAX`."""

    campaign: int
    seal: int
    ids: Mapping[EventId, Sighting]
    before: Sequence[int]
    head: bytes

    @property
    def prints(self) -> bytes:
        """Packed prints of the ids."""
        return packed(prints(self.ids))

    @property
    def counts(self) -> dict[int, int]:
        """Ids per KPI code."""
        if isinstance(self.ids, Columns):
            codes, counts = np.unique(self.ids.numbers[:, 0], return_counts=True)
            return dict(zip(codes.tolist(), counts.tolist(), strict=True))
        return dict(sorted(Counter([sighting[0] for sighting in self.ids.values()]).items()))

    @property
    def digest(self) -> bytes:
        """SHA-256 over the MessagePack of [campaign, seal, before, head, [[id, sighting], ...]], ids in key order."""
        held = self.ids
        if isinstance(held, Columns):
            parts = [msgspec.msgpack.encode(each) for each in (self.campaign, self.seal, self.before, self.head)]
            return sha256(b"".join([b"\x95", *parts, held.packed()])).digest()
        content = [self.campaign, self.seal, self.before, self.head, [(key, held[key]) for key in _ordered(held)]]
        return sha256(msgspec.msgpack.encode(content)).digest()

    def bins(self) -> dict[str, Any]:
        """As the store holds it."""
        seconds = [sighting[1] for sighting in self.ids.values()]
        return {
            "ids": self.ids,
            "prints": self.prints,
            "counts": self.counts,
            "first": min(seconds),
            "last": max(seconds),
            "seal": self.seal,
            "before": list(self.before),
            "head": self.head,
            "digest": self.digest,
        }


def operations(bins: Mapping[str, Any]) -> list[Operation]:
    """What writes a page's bins, on a row that must be absent."""
    return [PutNew(name, held) if name == "ids" else Put(name, held) for name, held in bins.items()]


def parsed(campaign: int, seal: int, bins: Mapping[str, Any]) -> Page:
    """A page read whole, held against its digest and its name. Raises `LedgerDamaged`."""
    try:
        page = Page(campaign, seal, bins["ids"], bins["before"], bins["head"])
        intact = (
            bins["seal"] == seal
            and bins["digest"] == page.digest
            and bins["prints"] == page.prints
            and bins["counts"] == page.counts
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        intact = False
    if not intact:
        raise damaged(campaign, seal, "is not what was archived (its digest differs)")
    return page


def damaged(campaign: int, seal: int, what: str) -> LedgerDamaged:
    """The error for a page that is missing, altered or foreign, with the way out."""
    return LedgerDamaged(
        f"campaign {campaign}: page {seal:016x} {what}: stop the workers, then: projector repair, "
        "which restores it from the topic; nothing was committed"
    )


def _ordered(ids: Mapping[EventId, Sighting]) -> list[EventId]:
    """In the order of map keys: str before bytes, each by its bytes."""
    texts = sorted([key for key in ids if isinstance(key, str)], key=str.encode)
    if not texts:
        return sorted(ids)
    return [*texts, *sorted(key for key in ids if isinstance(key, bytes))]
