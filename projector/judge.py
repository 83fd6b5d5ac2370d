"""Every record of a batch gets its verdict: decode -> resolve -> fold -> apply, and what is set aside."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import itemgetter
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
        consumed = Counter(map(itemgetter(0), records))
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

        events = [self._decode(record[3]) for record in records]
        named = self._tags.resolve([event.tag if type(event) is Event else None for event in events])
        campaigns = named
        if self._campaigns is not None:
            campaigns = [campaign if campaign in self._campaigns else None for campaign in named]
        if None in campaigns:
            for record, event, campaign, other in zip(records, events, campaigns, named, strict=True):
                if campaign is None:
                    unfit = _unfit(event, other)
                    counts[unfit.verdict][record.partition] += 1
                    set_aside(record, unfit.verdict, unfit.reason, unfit.detail)

        changes = fold(zip(records, events, campaigns, strict=True))  # type: ignore[arg-type]  # an Unfit has no campaign
        judgements = self._ledger.apply(changes)
        by_position: dict[tuple[int, int], Record] = {}
        if any(judgement.parked or judgement.duplicates for judgement in judgements.values()):
            by_position = {(record.partition, record.offset): record for record in records}
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


def _unfit(event: Event | Unfit, campaign: int | None) -> Unfit:
    """Why a record does not count; `campaign`: that of its tag."""
    if isinstance(event, Unfit):
        return event
    if campaign is None:
        return Unfit("parked", "unknown-tag", f"tag {event.tag}")
    return Unfit("rejected", "other-campaign", f"campaign {campaign}")


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
