"""Every record of a batch gets its verdict: decode -> resolve -> fold -> apply, and what is set aside."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import NamedTuple

from projector import quarantine
from projector.balance import Totals
from projector.campaign import Tags
from projector.chain import Chains
from projector.clock import Clock
from projector.config import Config
from projector.event import KINDS, Decoder, Event, Unfit
from projector.fold import fold
from projector.generation import Generation
from projector.kpi import Value
from projector.ledger import Judgement, Ledger, row_bound
from projector.log import Message, Record
from projector.patience import Patience
from projector.settling import Settling
from projector.store import Store


class Verdicts(NamedTuple):
    """What became of a batch: totals per partition, what to publish per campaign, what goes to quarantine."""

    totals: dict[int, Totals]
    values: dict[int, Value]
    quarantined: list[Message]
    reasons: Counter[tuple[str, str]]
    """Of what goes to quarantine, by verdict and reason."""


class Judge:
    """The records of one generation before its rows: the store's rows decide, here is kept what they said."""

    def __init__(
        self,
        store: Store,
        config: Config,
        generation: Generation,
        patience: Patience,
        settling: Settling,
        clock: Clock,
        campaigns: Collection[int] | None = None,
    ) -> None:
        """`campaigns`: events of any others are rejected (None: there are no others)."""
        self._config = config
        self._generation = generation
        self._campaigns = campaigns
        self._decode = Decoder(config.source_set).decode
        self._tags = Tags(store, patience)
        chains = Chains(
            store,
            generation,
            patience,
            settling,
            clock.monotonic,
            config.page_ids,
            config.index_mib_max << 20,
        )
        self.held = chains.held
        """What the caches hold, kept up to date."""
        row_bytes_max = row_bound(store, config.row_bytes_max)
        self._ledger = Ledger(store, chains, generation.pages, patience, row_bytes_max, clock.sleep)

    def __bool__(self) -> bool:
        """Whether anything that the store said is cached."""
        return bool(self._tags or self._ledger)

    def forget(self) -> None:
        """Drop the caches: the store may have forgotten what it said."""
        self._tags.forget()
        self._ledger.forget()

    def judge(self, records: Sequence[Record]) -> Verdicts:
        """A verdict for every record, in the store when this returns; judging again adds nothing.

        Raises `Retryable` if the store does not answer (parts may be applied), `RowTooBig`, `Refused`.
        """
        consumed = Counter(map(attrgetter("partition"), records))
        counts: dict[str, Counter[int]] = {name: Counter() for name in ("counted", "duplicate", "parked", "rejected")}
        quarantined: list[Message] = []
        reasons: Counter[tuple[str, str]] = Counter()

        def set_aside(record: Record, verdict: str, reason: str, detail: str) -> None:
            reasons[verdict, reason] += 1
            quarantined.append(
                quarantine.message(
                    self._config.quarantine_topic,
                    self._config.input_topic,
                    record,
                    verdict,
                    reason,
                    detail,
                    self._generation.number,
                )
            )

        events = [self._decode(record.value) for record in records]
        campaigns = self._tags.resolve({event.tag for event in events if isinstance(event, Event)})
        known: list[tuple[Record, Event, int]] = []
        for record, event in zip(records, events, strict=True):
            if isinstance(event, Event):
                campaign = campaigns.get(event.tag)
                if campaign is None:
                    unfit = Unfit("parked", "unknown-tag", f"tag {event.tag}")
                elif self._campaigns is None or campaign in self._campaigns:
                    known.append((record, event, campaign))
                    continue
                else:
                    unfit = Unfit("rejected", "other-campaign", f"campaign {campaign}")
            else:
                unfit = event
            counts[unfit.verdict][record.partition] += 1
            set_aside(record, unfit.verdict, unfit.reason, unfit.detail)

        judgements = self._ledger.apply(fold(known))
        by_position: dict[tuple[int, int], Record] = {}
        if any(judgement.parked or judgement.duplicates for judgement in judgements.values()):
            by_position = {(record.partition, record.offset): record for record, _, _ in known}
        for campaign, judgement in judgements.items():
            counts["duplicate"].update([sighting[2] for sighting, _ in judgement.duplicates])
            counts["parked"].update([sighting[2] for sighting in judgement.parked])
            for code, _, partition, offset in judgement.parked:
                record = by_position[partition, offset]
                set_aside(record, "parked", judgement.reason, f"campaign {campaign}, {KINDS[code]}")
            for (code, _, partition, offset), held in judgement.duplicates:
                if code != held[0]:
                    detail = f"a {KINDS[code]}; counted as a {KINDS[held[0]]} at {held[2]}/{held[3]}"
                    set_aside(by_position[partition, offset], "duplicate", "conflict", detail)

        counted = chain.from_iterable(judgement.counted for judgement in judgements.values())
        counts["counted"].update(map(itemgetter(2), counted))
        totals = {
            partition: Totals(count, **{verdict: found[partition] for verdict, found in counts.items()})
            for partition, count in consumed.items()
        }
        return Verdicts(totals, _values(judgements), quarantined, reasons)


def _values(judgements: Mapping[int, Judgement]) -> dict[int, Value]:
    """What to publish: for every campaign whose row answered, the KPIs that the records named, replays included."""
    return {
        campaign: Value(
            judgement.stats,
            judgement.rev,
            {sighting[0] for sighting in judgement.counted} | {sighting[0] for sighting, _ in judgement.duplicates},
        )
        for campaign, judgement in judgements.items()
        if judgement.counted or judgement.duplicates
    }
