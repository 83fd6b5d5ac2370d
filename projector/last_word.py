"""The last word: at rest, the last message of each campaign and KPI equals the row, whoever published last."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from projector.event import KPIS
from projector.kpi import ALL_CODES, Value
from projector.patience import Patience
from projector.store import Read, Row, RowKey, Store

PAGE_ROWS = 500
UNKNOWN = -1
BINS = ("c-id", "rev", "stats")


class LastWord:
    """The rows whose newest value may not have been published last. A value read here settles like any other."""

    def __init__(
        self, store: Store, campaigns: str, patience: Patience, republish_s: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._campaigns = campaigns
        self._patience = patience
        self._republish_s = republish_s
        self._clock = clock
        self._published: dict[int, tuple[dict[int, int], float]] = {}
        """Per campaign what this worker published last of each KPI, by code, and when it last published any: oldest
        publication first."""
        self._sweep: Iterator[list[Row]] | None = None

    def __bool__(self) -> bool:
        """Whether any is owed."""
        return bool(self._published) or self._sweep is not None

    @property
    def published(self) -> int:
        """Rows published and not yet seen unchanged."""
        return len(self._published)

    def assigned(self) -> None:
        """A partition came: every row is owed. Begins the sweep anew."""
        self._sweep = self._store.scan(self._campaigns, BINS, PAGE_ROWS)

    def clear(self) -> None:
        """The worker owns no partition: its successors owe what it owed."""
        self._published.clear()
        self._sweep = None

    def owe(self, values: Mapping[int, Value], published: bool) -> None:
        """These values were `published`, or were to be and their transaction is not known to be committed."""
        now = self._clock()
        for campaign, value in values.items():
            said, _ = self._published.pop(campaign, ({}, now))
            for code in value.codes:
                said[code] = value.stats.get(KPIS[code], 0) if published else UNKNOWN
            self._published[campaign] = (said, now)

    def due(self, idle: bool) -> dict[int, Value]:
        """Values to publish now: the next rows of the sweep, else rows that moved since they were published.

        `idle`: nothing else is to be done; else only rows whose publication is old are looked at. At most `PAGE_ROWS`.
        Raises `Retryable`; then nothing that was owed is forgotten.
        """
        if self._sweep is not None:
            return self._swept(self._sweep)
        before = self._clock() - (0 if idle else self._republish_s)
        asked: list[int] = []
        for campaign, (_, at) in self._published.items():
            if at > before or len(asked) == PAGE_ROWS:
                break
            asked.append(campaign)
        if not asked:
            return {}
        reads = [Read(RowKey(self._campaigns, campaign), BINS) for campaign in asked]
        return self._moved(asked, self._patience(lambda: self._store.read(reads)))

    def _swept(self, sweep: Iterator[list[Row]]) -> dict[int, Value]:
        self.assigned()  # anew, unless this page comes
        page = next(sweep, None)
        self._sweep = None if page is None else sweep
        return {row.bins["c-id"]: _value(row) for row in page or () if "rev" in row.bins and "c-id" in row.bins}

    def _moved(self, asked: Iterable[int], rows: Iterable[Row | None]) -> dict[int, Value]:
        moved: dict[int, Value] = {}
        for campaign, row in zip(asked, rows, strict=True):
            said, _ = self._published.pop(campaign)
            # A row without `rev` lost its adoption in a crash of the store: what it counted is counted again.
            if row is not None and "rev" in row.bins:
                stats = row.bins["stats"]
                if any(stats.get(KPIS[code], 0) != value for code, value in said.items()):
                    moved[campaign] = _value(row)
        return moved


def _value(row: Row) -> Value:
    return Value(row.bins["stats"], row.bins["rev"], set(ALL_CODES))
