"""Resolve: the campaign that a tag belongs to."""

from collections.abc import Sequence

from projector.patience import Patience
from projector.store import Read, RowKey, Store

TAGS_MAX = 1_000_000
READ_MAX = 5_000


class Tags:
    """Tag -> campaign, cached. A tag's campaign is written once and never changes; unknown tags are never cached."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self._known: dict[str | None, int] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def forget(self) -> None:
        """Drop the cache: the store may have forgotten what it said."""
        self._known.clear()

    def resolve(self, tags: Sequence[str | None]) -> list[int | None]:
        """The campaign of each tag, in order; None where it is not known, or there is no tag. Raises `Retryable`."""
        found = [*map(self._known.get, tags)]
        if None not in found:
            return found
        missing = list({tag for tag, campaign in zip(tags, found, strict=True) if campaign is None and tag is not None})
        if not missing:
            return found
        if len(self._known) + len(missing) > TAGS_MAX:
            missing = list({tag for tag in tags if tag is not None})
            self._known.clear()
        for begin in range(0, len(missing), READ_MAX):
            self._load(missing[begin : begin + READ_MAX])
        return [*map(self._known.get, tags)]

    def _load(self, tags: list[str]) -> None:
        rows = self._patience(lambda: self._store.read([Read(RowKey("tags", tag), ("c-id",)) for tag in tags]))
        for tag, row in zip(tags, rows, strict=True):
            if row is not None and type(row.bins.get("c-id")) is int:
                self._known[tag] = row.bins["c-id"]
