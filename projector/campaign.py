"""Resolve: the campaign that a tag belongs to."""

from collections.abc import Iterable

from projector.patience import Patience
from projector.store import Read, RowKey, Store

TAGS_MAX = 1_000_000
READ_MAX = 5_000


class Tags:
    """Tag -> campaign, cached. A tag's campaign is written once and never changes; unknown tags are never cached."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self._known: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def forget(self) -> None:
        """Drop the cache: the store may have forgotten what it said."""
        self._known.clear()

    def resolve(self, tags: Iterable[str]) -> dict[str, int]:
        """The campaigns of those tags that are known (perhaps with others). Raises `Retryable`."""
        missing = [tag for tag in set(tags) if tag not in self._known]
        if len(self._known) + len(missing) > TAGS_MAX:
            missing = list(set(tags))
            self._known.clear()
        for start in range(0, len(missing), READ_MAX):
            part = missing[start : start + READ_MAX]
            reads = [Read(RowKey("tags", tag), ("c-id",)) for tag in part]
            for tag, row in zip(part, self._patience(lambda reads=reads: self._store.read(reads)), strict=True):
                if row is not None and isinstance(row.bins.get("c-id"), int):
                    self._known[tag] = row.bins["c-id"]
        return self._known
