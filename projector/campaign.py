"""Resolve: the campaign that a tag belongs to."""

from collections.abc import Set

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

    def resolve(self, tags: Set[str]) -> dict[str, int]:
        """The campaigns of those tags that are known (perhaps with others). Raises `Retryable`."""
        missing = [tag for tag in tags if tag not in self._known]
        if len(self._known) + len(missing) > TAGS_MAX:
            missing = list(tags)
            self._known.clear()
        for begin in range(0, len(missing), READ_MAX):
            self._load(missing[begin : begin + READ_MAX])
        return self._known

    def _load(self, tags: list[str]) -> None:
        rows = self._patience(lambda: self._store.read([Read(RowKey("tags", tag), ("c-id",)) for tag in tags]))
        for tag, row in zip(tags, rows, strict=True):
            if row is not None and type(row.bins.get("c-id")) is int:
                self._known[tag] = row.bins["c-id"]
