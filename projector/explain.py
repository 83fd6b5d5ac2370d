"""Explain: what became of given event ids: where the ledger has them, what quarantine and the topic hold of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from projector.adoption import UNKNOWN
from projector.campaign import Tags
from projector.config import Config
from projector.errors import Refused
from projector.event import KINDS, Decoder, Event, Unfit, named
from projector.fold import EventId
from projector.generation import Generation
from projector.generations import Build
from projector.log import Log, Record
from projector.patience import checkpoint_patiently, patiently
from projector.quarantined import Quarantined, quarantine_messages
from projector.store import Store
from projector.whereabouts import Counted, Whereabouts, pages_sealed

Progress: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""What is being read, and how much of it there is; yields what hears how much was read."""


NAMELESS = frozenset({"tombstone", "not-json", "not-an-event"})
"""Reasons of records in which no id can be found."""


class Position(NamedTuple):
    """A record with the id, and what became of it in the generation.

    `verdict`: those of the design, or unread (at or past the checkpoint), missing (read, and neither counted nor set
    aside: `projector audit`), unknown (the same, where the ledger is damaged), gone (counted, and before the topic's
    head), foreign (counted, but not what the topic holds there).
    """

    partition: int
    offset: int
    timestamp_ms: int
    verdict: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Explanation:
    """What is known of one id. `quarantined`: the last message of each position, values left out."""

    id: EventId
    counted: list[Counted]
    quarantined: list[Quarantined]
    positions: list[Position] | None
    """In the topic, by partition and offset; None: the topic was not read."""


class Explanations(NamedTuple):
    """All of one generation; `damage`: what of its ledger could not be searched, one line each."""

    generation: int
    of: list[Explanation]
    damage: list[str]


class _Hit(NamedTuple):
    """A record of the topic that names an id asked for; the value is left out."""

    id: EventId
    record: Record
    event: Event | Unfit


@contextmanager
def silently(_: str, __: int | None) -> Iterator[Callable[[int], None]]:
    """A `Progress` that tells nobody."""
    yield lambda _: None


def explain(
    log: Log,
    store: Store,
    config: Config,
    build: Build,
    ids: Collection[EventId],
    campaign: int | None = None,
    scan: bool = False,
    progress: Progress = silently,
) -> Explanations:
    """What became of these ids, at least one, in a generation; answers in their order. Beside live workers, too.

    `campaign`: look for them in its ledger alone. `scan`: read the topic, too, for every position of them.
    Raises `Refused` where the campaign has no row, `Misconfigured`, `Retryable`.
    """
    generation = build.generation(config)
    # Read first: what lies before it had its verdict before ledger and quarantine are read.
    checkpoint = checkpoint_patiently(lambda: log.checkpoint(generation.group, config.input_topic))
    whereabouts = Whereabouts(store, generation, ids)
    _search(store, generation, whereabouts, campaign, progress)
    decode = Decoder(config.source_set).decode
    quarantined = _quarantined(log, config, decode, whereabouts, progress)
    positions: dict[EventId, list[Position]] | None = None
    if scan:
        hits = _hits(log, config, decode, whereabouts, progress)
        heads = patiently(lambda: log.heads(config.input_topic))
        named = list({hit.event.tag for hit in hits if isinstance(hit.event, Event)})
        campaigns = Tags(store, patiently).resolve(named)
        tags = {tag: each for tag, each in zip(named, campaigns, strict=True) if each is not None}
        whereabouts.search(sorted(set(tags.values())))
        committed = {partition: each.offset for partition, each in checkpoint.items()}
        judge = _Judge(config, build, whereabouts, tags, quarantined, committed)
        positions = {event_id: [] for event_id in ids}
        for hit in hits:
            positions[hit.id].append(judge.position(hit))
        for event_id, counted in whereabouts.counted.items():
            positions[event_id] += _lost(counted, positions[event_id], heads)
    found = [
        Explanation(
            event_id,
            whereabouts.counted[event_id],
            sorted(quarantined[event_id].values(), key=lambda each: (each.topic, each.partition, each.offset)),
            None if positions is None else sorted(positions[event_id]),
        )
        for event_id in whereabouts.counted
    ]
    return Explanations(build.number, found, whereabouts.damage)


def _search(
    store: Store, generation: Generation, whereabouts: Whereabouts, campaign: int | None, progress: Progress
) -> None:
    pages = pages_sealed(store, generation) if campaign is None else {}
    with progress("pages", None if campaign is not None else sum(pages.values())) as advance:
        whereabouts.search(sorted(pages) if campaign is None else [campaign], advance)
    if campaign is not None and whereabouts.searched[campaign] == UNKNOWN:
        raise Refused(f"campaign {campaign} has no row in set {generation.campaigns}: projector campaigns lists all")


def _quarantined(
    log: Log,
    config: Config,
    decode: Callable[[bytes | None], Event | Unfit],
    whereabouts: Whereabouts,
    progress: Progress,
) -> dict[EventId, dict[str, Quarantined]]:
    """By id and key: messages whose record names the id, and those of the positions where it was counted."""
    counted_at = {
        f"{config.input_topic}/{each.partition}/{each.offset}": event_id
        for event_id, found in whereabouts.counted.items()
        for each in found
    }
    quarantined: dict[EventId, dict[str, Quarantined]] = {event_id: {} for event_id in whereabouts.counted}
    with progress("quarantined records", _records(log, config.quarantine_topic)) as advance:
        for _, found in quarantine_messages(log, config.quarantine_topic):
            for event_id in (_id(decode(found.value), found.value), counted_at.get(found.key)):
                if event_id is not None and event_id in quarantined:
                    quarantined[event_id][found.key] = found._replace(value=None)
            advance(1)
    return quarantined


def _hits(
    log: Log,
    config: Config,
    decode: Callable[[bytes | None], Event | Unfit],
    whereabouts: Whereabouts,
    progress: Progress,
) -> list[_Hit]:
    asked = whereabouts.counted
    hits: list[_Hit] = []
    with progress("records of the topic", _records(log, config.input_topic)) as advance:
        for records in log.read(config.input_topic):
            for record in records:
                event = decode(record.value)
                event_id = _id(event, record.value)
                if event_id is not None and event_id in asked:
                    hits.append(_Hit(event_id, record._replace(value=None), event))
            advance(len(records))
    return hits


def _id(event: Event | Unfit, value: bytes | None) -> EventId | None:
    """The id that a record names, whatever its verdict."""
    if isinstance(event, Event):
        return event.id
    return None if event.reason in NAMELESS else named(value).id


def _records(log: Log, topic: str) -> int:
    heads, ends = patiently(partial(log.heads, topic)), patiently(partial(log.ends, topic))
    return sum(ends.values()) - sum(heads.values())


def _lost(counted: Iterable[Counted], there: Iterable[Position], heads: Mapping[int, int]) -> list[Position]:
    """Positions at which an id was counted and at which the topic does not hold it."""
    held = {(each.partition, each.offset) for each in there}
    return [
        Position(
            each.partition,
            each.offset,
            each.second * 1000,
            "gone" if each.offset < heads.get(each.partition, 0) else "foreign",
            detail=f"campaign {each.campaign}",
        )
        for each in counted
        if (each.partition, each.offset) not in held
    ]


@dataclass(frozen=True)
class _Judge:
    """Says what became of a record, from what ledger, quarantine and checkpoint hold."""

    config: Config
    build: Build
    whereabouts: Whereabouts
    tags: Mapping[str, int]
    quarantined: Mapping[EventId, Mapping[str, Quarantined]]
    checkpoint: Mapping[int, int]

    def position(self, hit: _Hit) -> Position:
        record = hit.record
        return Position(record.partition, record.offset, record.timestamp_ms, *self._verdict(hit))

    def _verdict(self, hit: _Hit) -> tuple[str, str, str]:
        """Verdict, reason and detail. What the ledger holds at the position goes before what quarantine said of it."""
        partition, offset = hit.record.partition, hit.record.offset
        told = self.quarantined[hit.id].get(f"{self.config.input_topic}/{partition}/{offset}")
        campaign = self.tags.get(hit.event.tag) if isinstance(hit.event, Event) else None
        held = [each for each in self.whereabouts.counted[hit.id] if each.campaign == campaign]
        if any((each.partition, each.offset) == (partition, offset) for each in held):
            return "counted", "", f"campaign {campaign}"
        elsewhere = f"counted as a {KINDS[held[0].code]} at {held[0].partition}/{held[0].offset}" if held else ""
        if offset >= self.checkpoint.get(partition, 0):
            before = f"before a rewind or by another generation: {told.verdict} {told.reason}" if told else ""
            return "unread", "", "; ".join(filter(None, [elsewhere, before]))
        if isinstance(hit.event, Unfit):
            return hit.event
        if told is not None and (told.generation == self.build.number or not held):
            return told.verdict, told.reason, "; ".join(filter(None, [told.detail, elsewhere]))
        if held:
            return "duplicate", "" if held[0].code == hit.event.code else "conflict", elsewhere
        return self._uncounted(hit.event, campaign)

    def _uncounted(self, event: Event, campaign: int | None) -> tuple[str, str, str]:
        """A proper event that was read, and of which nothing is told: a muted build tells nobody what it parks."""
        if campaign is None:
            return "parked", "unknown-tag", f"tag {event.tag}"
        if self.build.campaigns is not None and campaign not in self.build.campaigns:
            return "rejected", "other-campaign", f"campaign {campaign}"
        if campaign in self.whereabouts.damaged:
            return "unknown", "", f"campaign {campaign}: its ledger could not be searched whole"
        if reason := self.whereabouts.searched[campaign]:
            return "parked", reason, f"campaign {campaign}"
        return "missing", "", f"campaign {campaign}: projector audit names the remedy"
