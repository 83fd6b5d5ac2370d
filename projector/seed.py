"""Seed: the reference data set, campaigns and their tags; create-only, so that doing it twice changes nothing."""

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from projector.errors import Refused
from projector.event import KPIS
from projector.patience import patiently, write_patiently
from projector.reference import campaign_name, tag_id
from projector.store import Outcome, Presence, Put, Read, RowKey, Store, Write

WRITE_ROWS = 1_000
_TAG_COUNT = RowKey("tags", "tag-count")
_FIRST_DATE_MS = 1_672_531_200_000  # 2023-01-01
_DATES_MS = 365 * 86_400_000


class Seeded(NamedTuple):
    """How many rows were created, and how many were there already."""

    created: int
    present: int


def rows_total(campaigns: int, tags: int) -> int:
    """How many rows `seed` creates."""
    return campaigns + 2 * campaigns * tags + 1


def seed(store: Store, campaigns: int, tags: int, seed_number: int, advance: Callable[[int], None]) -> Seeded:
    """Create `campaigns` campaigns with `tags` tags each, or what is missing of them; `tag-count` comes last.

    `advance` hears how many more rows are done. Raises `Refused` if another data set is there, and `Retryable`.
    """
    count = campaigns * tags
    (row,) = patiently(lambda: store.read([Read(_TAG_COUNT, ("tag-count",))]))
    if row is not None and row.bins.get("tag-count") != count:
        raise Refused(
            f"the store holds a data set of {row.bins.get('tag-count')} tags, not {count}: "
            "give the --campaigns, --tags and --seed that it was made with, or use another namespace or file"
        )
    created = 0
    for rows in (_campaign_rows(campaigns, seed_number), _tag_rows(campaigns, tags, seed_number)):
        while batch := dict(islice(rows, WRITE_ROWS)):
            created += _create(store, batch)
            advance(len(batch))
    created += _create(store, {_TAG_COUNT: {"tag-count": count}})
    advance(1)
    return Seeded(created, rows_total(campaigns, tags) - created)


def _campaign_rows(campaigns: int, seed_number: int) -> Iterator[tuple[RowKey, Mapping[str, Any]]]:
    for campaign in range(1, campaigns + 1):
        date_ms = _FIRST_DATE_MS + random.Random(f"{seed_number}/{campaign}").randrange(_DATES_MS)
        stats = dict.fromkeys(sorted(KPIS), 0)
        bins = {"c-id": campaign, "c-date": date_ms, "c-name": campaign_name(campaign), "stats": stats}
        yield RowKey("campaigns", campaign), bins


def _tag_rows(campaigns: int, tags: int, seed_number: int) -> Iterator[tuple[RowKey, Mapping[str, Any]]]:
    """Each tag twice: by its id, and by its number in the list that random tags are drawn from."""
    for campaign in range(1, campaigns + 1):
        for number in range(1, tags + 1):
            tag = tag_id(seed_number, campaign, number)
            yield RowKey("tags", tag), {"t-id": tag, "c-id": campaign}
            yield RowKey("tags", (campaign - 1) * tags + number), {"t-id": tag}


def _create(store: Store, rows: Mapping[RowKey, Mapping[str, Any]]) -> int:
    """Create those that are missing; how many. Tags that are there must be the same ones."""
    writes = [
        Write(row, [Put(name, value) for name, value in bins.items()], Presence.ABSENT) for row, bins in rows.items()
    ]
    answers = write_patiently(store, writes)
    present = [row for row, answer in zip(rows, answers, strict=True) if answer.outcome is Outcome.PRESENT]
    compared = [row for row in present if row.set == "tags"]
    reads = [Read(row, tuple(rows[row])) for row in compared]
    for row, found in zip(compared, patiently(lambda: store.read(reads)) if reads else [], strict=True):
        if found is not None and found.bins != rows[row]:
            raise Refused(
                f"row {row.key!r} of set tags belongs to another data set: "
                "give the --campaigns, --tags and --seed that it was made with, or use another namespace or file"
            )
    return len(rows) - len(present)
