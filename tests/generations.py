"""Generations made through the ledger itself, with small pages, and a log that keeps a checkpoint for each group."""

import random
from collections.abc import Iterable, Mapping

from projector.archive import Walk, places, read_rows
from projector.chain import Chains
from projector.config import Config
from projector.event import KPIS
from projector.fold import Change, EventId, Sighting
from projector.generation import Generation
from projector.ledger import Ledger
from projector.log import Message, Offset
from projector.patience import Patience
from projector.settling import Settling
from projector.store import Presence, Put, RowKey, Store, Write
from tests.fault.memory_log import MemoryLog

CONFIG = Config(input_topic="in", quarantine_topic="set-aside")
LIVE, REBUILT = Generation(1, CONFIG.group), Generation(2, CONFIG.group)


class GroupsLog(MemoryLog):
    """A memory log with the topics of `CONFIG` and a checkpoint for each group: set by hand, or its members' own."""

    def __init__(self, partitions: int = 2) -> None:
        super().__init__(lambda: 0.0, random.Random(0))
        self.create_topic(CONFIG.input_topic, partitions, {})
        self.create_topic(CONFIG.quarantine_topic, 1, {})
        self.checkpoints: dict[str, dict[int, Offset]] = {}

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:  # noqa: ARG002  # the port's
        """What was set, else what members of the one group that has any have committed."""
        return dict(self.checkpoints.get(group, self.offsets))

    def commit(self, generation: Generation, offsets: Mapping[int, int]) -> None:
        """The generation has read so far."""
        self.checkpoints[generation.group] = {partition: Offset(offset, "") for partition, offset in offsets.items()}


class Oldest(random.Random):
    """For a crash in which every row falls back as far as it can."""

    def randrange(self, *_: object, **__: object) -> int:
        """The first version."""
        return 0


def set_aside(
    log: MemoryLog, partition: int, offset: int, verdict: str, reason: str, generation: Generation = LIVE
) -> None:
    """A message in the quarantine topic."""
    headers = {"verdict": verdict, "reason": reason, "topic": CONFIG.input_topic, "partition": str(partition)}
    headers |= {"offset": str(offset), "timestamp": "0", "generation": str(generation.number), "detail": ""}
    key = f"{CONFIG.input_topic}/{partition}/{offset}".encode()
    sent = tuple((name, text.encode()) for name, text in headers.items())
    log.append([Message(CONFIG.quarantine_topic, key, b"{}", sent)])


def create_campaigns(store: Store, campaigns: Iterable[int]) -> None:
    """As the platform does: in the set of generation 1."""
    stats = dict.fromkeys(sorted(KPIS), 0)
    rows = [
        Write(
            RowKey("campaigns", each),
            [Put("c-id", each), Put("c-date", 1_000 + each), Put("c-name", f"Campaign {each}"), Put("stats", stats)],
            Presence.ABSENT,
        )
        for each in campaigns
    ]
    store.write(rows)


class Counting:
    """One worker's ledger of a generation: what it is given is counted, in pages of `page_ids`."""

    def __init__(self, store: Store, generation: Generation, page_ids: int = 4) -> None:
        patience = Patience(0)
        settling = Settling(store, 0, patience, lambda: 0.0)
        chains = Chains(store, generation, patience, settling, lambda: 0.0, page_ids, 1 << 20)
        self.ledger = Ledger(store, chains, generation.pages, patience, 1 << 20, lambda _: None)

    def count(self, campaign: int, ids: Mapping[EventId, Sighting]) -> None:
        """One after the other, so that pages fill up."""
        for event_id, sighting in ids.items():
            self.ledger.apply({campaign: Change({event_id: list(sighting)})})

    def judge(self, campaign: int, event_id: EventId, sighting: Sighting) -> bool:
        """Whether it is counted at this position."""
        return bool(self.ledger.apply({campaign: Change({event_id: list(sighting)})})[campaign].counted)

    def add(self, campaign: int, ids: Mapping[EventId, Sighting]) -> None:
        """All in one change."""
        self.ledger.apply({campaign: Change({event_id: list(sighting) for event_id, sighting in ids.items()})})


def ids_of(store: Store, generation: Generation, campaign: int) -> dict[EventId, Sighting]:
    """All that a campaign's ledger holds, page by page from its row; an id in two places is an error."""
    held: dict[EventId, Sighting] = {}
    for _, row in read_rows(store, generation, [campaign]):
        if row is not None and "seal" in row.bins:
            for place in places(row.bins, Walk(store, generation, campaign, row.bins)):
                assert not place.keys() & held.keys()
                held.update(place)
    return held
