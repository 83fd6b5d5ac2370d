"""What must hold, computed from the raw topic by a plain loop; shares no code with decode, fold, ledger or balance."""

import json
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from projector.store import Read, RowKey
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore

KINDS = ["visit", "impression", "click", "conversion"]
INPUT, KPI, QUARANTINE = "edge-to-core", "subscription-events", "projector-quarantine"
BINS = ("stats", "seen", "sealed", "seal", "prev", "ids", "before")
COUNTS = ("consumed", "counted", "duplicate", "parked", "rejected")


class Meaning(NamedTuple):
    """What a record asks for: an event, or a `verdict` with its reason."""

    verdict: str
    reason: str = ""
    id: bytes | str = ""
    code: int = -1
    campaign: int = -1


class Oracle:
    """Judges log and store as they stand. `campaigns`: tag -> campaign; `countable`: campaigns that may count."""

    def __init__(
        self, log: MemoryLog, store: MemoryStore, campaigns: Mapping[str, int], parked: Mapping[int, str]
    ) -> None:
        self._log = log
        self._store = store
        self._campaigns = campaigns
        self._parked = parked
        self._countable = sorted(set(campaigns.values()) - parked.keys())
        self._meanings: dict[tuple[int, int], Meaning] = {}
        self._read: Counter[int] = Counter()
        self._kpi_read: Counter[int] = Counter()
        self._published: dict[tuple[int, str, int, int], int] = {}
        self._last: dict[tuple[int, str], int] = {}
        self.unknown: set[int] = set()
        """Partitions whose totals an outside tool made unknown."""

    # --- the topic

    def _meaning(self, value: bytes | None) -> Meaning:
        if value is None:
            return Meaning("rejected", "tombstone")
        try:
            row = json.loads(value)
        except ValueError:
            return Meaning("rejected", "not-json")
        if row["msg"] == "delete":
            return Meaning("rejected", "delete")
        bins = {each["name"]: each["value"] for each in row["bins"]}
        kind, tag, name = bins["event-data"]["event"], bins["event-data"]["tag"], bins["event-id"]
        if kind not in KINDS:
            return Meaning("parked", "unknown-kind")
        if tag not in self._campaigns:
            return Meaning("parked", "unknown-tag")
        campaign = self._campaigns[tag]
        if campaign in self._parked:
            return Meaning("parked", self._parked[campaign])
        event_id = uuid.UUID(name).bytes if len(name) in (32, 36) else name
        return Meaning("event", "", event_id, KINDS.index(kind), campaign)

    def _meet(self) -> dict[tuple[int, int], Meaning]:
        """The meaning of every record that was ever in the topic."""
        for number, partition in enumerate(self._log.topics[INPUT]):
            for offset in range(self._read[number], partition.end):
                record = partition.entries[offset].record
                if record is not None:
                    self._meanings[number, offset] = self._meaning(record.value)
            self._read[number] = partition.end
        return self._meanings

    def _sightings(self) -> dict[int, dict[bytes | str, dict[tuple[int, int], int]]]:
        """Per campaign and id: position -> code."""
        found: dict[int, dict[bytes | str, dict[tuple[int, int], int]]] = {each: {} for each in self._countable}
        for position, meaning in self._meet().items():
            if meaning.verdict == "event":
                found[meaning.campaign].setdefault(meaning.id, {})[position] = meaning.code
        return found

    # --- the rows and the messages

    def _row(self, campaign: int, durable: bool = False) -> dict[str, Any]:
        """The row, as it is or as no crash can take it back, with `ids`: all that its ledger holds, each once."""
        row = self._held(RowKey("campaigns", campaign), durable)
        assert durable or row is not None, f"campaign {campaign} is gone"
        row = dict(row or {})
        ids = dict(row.get("seen", {}))
        pages = [row["sealed"]] if row.get("sealed") else []
        seal = row.get("prev", 0) if row.get("sealed") else row.get("seal", 0)
        while seal:
            page = self._held(RowKey("campaigns-seen", f"{campaign}/{seal:016x}"), durable)
            assert page is not None, f"campaign {campaign} lost page {seal:016x}"
            pages.append(page["ids"])
            seal = page["before"][0] if page["before"] else 0
        for page in pages:
            assert not ids.keys() & page.keys(), f"campaign {campaign} holds ids twice: {ids.keys() & page.keys()}"
            ids.update(page)
        return row | {"ids": ids}

    def _held(self, key: RowKey, durable: bool) -> Mapping[str, Any] | None:
        if durable:
            return self._store.durable(key)
        (row,) = self._store.read([Read(key, BINS)])
        return row.bins if row else None

    def _messages(self) -> list[tuple[int, str, int, int, int]]:
        """Those that became visible since the last call."""
        new = []
        for number, partition in enumerate(self._log.topics[KPI]):
            end = partition.end
            for entry in partition.entries[self._kpi_read[number] : end]:
                if entry.visible and entry.record and entry.record.value:
                    found = json.loads(entry.record.value)
                    assert entry.record.key == f"{found['campaignId']}:{found['kpi']}".encode()
                    new.append((found["campaignId"], found["kpi"], found["epoch"], found["rev"], found["value"]))
            self._kpi_read[number] = end
        return new

    def _quarantine(self) -> dict[tuple[int, int], tuple[str, str, bytes | None]]:
        """The last of each key: verdict, reason and bytes."""
        found: dict[tuple[int, int], tuple[str, str, bytes | None]] = {}
        for partition in self._log.topics[QUARANTINE]:
            for entry in partition.entries:
                if entry.visible and entry.record and entry.record.key:
                    topic, number, offset = entry.record.key.decode().split("/")
                    assert topic == INPUT
                    headers = {name: value.decode() for name, value in entry.record.headers}
                    position = int(number), int(offset)
                    assert position not in found or found[position][0] == headers["verdict"]
                    found[position] = headers["verdict"], headers["reason"], entry.record.value
        return found

    # --- always

    def always(self) -> None:
        """What must hold at every moment."""
        sightings = self._sightings()
        for campaign, ids in sightings.items():
            row = self._row(campaign)
            seen = row["ids"]
            held = Counter(sighting[0] for sighting in seen.values())
            for code, kind in enumerate(KINDS):
                stats = row["stats"].get(kind + "s", 0)
                assert stats == held[code], f"the ledger of {campaign} does not foot: {stats} {kind}s, {held[code]} ids"
                could = sum(code in positions.values() for positions in ids.values())
                assert stats <= could, f"over-count: campaign {campaign} has {stats} {kind}s of {could}"
            for event_id, (code, _, partition, offset) in seen.items():
                assert ids[event_id][partition, offset] == code, f"{event_id!r} is not at {partition}/{offset}"
        self._check_messages()
        self._check_checkpoint()

    def _check_messages(self) -> None:
        for campaign, kpi, epoch, rev, value in self._messages():
            durable = (self._store.durable(RowKey("campaigns", campaign)) or {}).get("stats", {}).get(kpi, 0)
            assert value <= durable, f"published {campaign}:{kpi} = {value}, only {durable} cannot be forgotten"
            before = self._published.setdefault((campaign, kpi, epoch, rev), value)
            assert before == value, f"rev {rev} of {campaign}:{kpi} carries {before} and {value}"
            self._last[campaign, kpi] = value

    def _totals(self) -> dict[int, dict[str, int]]:
        """Of those partitions where they are known."""
        found = {number: json.loads(offset.metadata) for number, offset in self._log.offsets.items() if offset.metadata}
        for number, offset in self._log.offsets.items():
            if offset == (0, "") and self._log.topics[INPUT][number].head == 0:
                found[number] = dict.fromkeys(COUNTS, 0)
        return found

    def _check_checkpoint(self) -> None:
        held = {
            (sighting[2], sighting[3])
            for campaign in self._countable
            for sighting in self._row(campaign, durable=True)["ids"].values()
        }
        quarantined = self._quarantine()
        totals = self._totals()
        for number, (end, _) in self._log.offsets.items():
            before = {p: meaning for p, meaning in self._meanings.items() if p[0] == number and p[1] < end}
            for position, meaning in before.items():
                if meaning.verdict != "event":
                    assert quarantined.get(position, "")[:2] == meaning[:2], f"{position} has gone without a word"
            if number not in totals:
                assert number in self.unknown, f"the totals of {number} are lost"
                continue
            assert number not in self.unknown, f"the totals of {number} are made up"
            true = Counter(meaning.verdict for meaning in before.values())
            true["consumed"] = len(before)
            true["counted"] = len(held & before.keys())
            true["duplicate"] = true.pop("event", 0) - true["counted"]
            told = {name: totals[number][name] for name in COUNTS}
            assert told == {name: true[name] for name in COUNTS}, (
                f"{number} below {end}: told {told}, true {dict(true)}"
            )

    # --- at rest

    def at_rest(self) -> None:
        """What must hold when everything is consumed and committed and nothing is owed."""
        self.always()
        for number, partition in enumerate(self._log.topics[INPUT]):
            committed = self._log.offsets.get(number)
            assert committed or not partition.end, f"partition {number} was never committed"
            assert not committed or committed.offset == partition.end, f"{number}: {committed}, end {partition.end}"
        conflicts = {}
        named = set()
        for campaign, ids in self._sightings().items():
            seen = self._row(campaign)["ids"]
            lost = ids.keys() - seen.keys()
            assert not lost, f"campaign {campaign} lost {lost}"
            for event_id, positions in ids.items():
                code, _, partition, offset = seen[event_id]
                named |= {(campaign, KINDS[each] + "s") for each in positions.values()}
                conflicts.update(
                    {
                        position: ("duplicate", "conflict")
                        for position, other in positions.items()
                        if position != (partition, offset) and other != code
                    }
                )
        self._check_last(named)
        set_aside = {p: meaning[:2] for p, meaning in self._meanings.items() if meaning.verdict != "event"} | conflicts
        quarantined = self._quarantine()
        assert {position: found[:2] for position, found in quarantined.items()} == set_aside
        for (number, offset), (_, _, value) in quarantined.items():
            record = self._log.topics[INPUT][number].entries[offset].record
            assert record is not None
            assert value == record.value

    def _check_last(self, named: set[tuple[int, str]]) -> None:
        assert named <= self._last.keys(), f"never published: {named - self._last.keys()}"
        highest: dict[tuple[int, str], tuple[int, int, int]] = {}
        for (campaign, kpi, epoch, rev), value in self._published.items():
            highest[campaign, kpi] = max(highest.get((campaign, kpi), (0, 0, 0)), (epoch, rev, value))
        for (campaign, kpi), last in self._last.items():
            stats = self._row(campaign)["stats"].get(kpi, 0)
            assert last == stats, f"the last message of {campaign}:{kpi} says {last}, the row {stats}"
            assert highest[campaign, kpi][2] == stats, f"the highest rev of {campaign}:{kpi}: {highest[campaign, kpi]}"
