"""The balance: totals per partition, committed with the offsets, that must agree with the rows (design section 6)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from projector.config import Config
from projector.event import KPIS
from projector.generation import Generation
from projector.log import Log
from projector.patience import checkpoint_patiently, patiently, scan_patiently
from projector.store import Store


class Totals(NamedTuple):
    """What became of the records of one partition before its checkpoint."""

    consumed: int = 0
    counted: int = 0
    duplicate: int = 0
    parked: int = 0
    rejected: int = 0
    carried: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """The sum, field by field."""
        return Totals(*map(int.__add__, self, other))

    @property
    def judged(self) -> int:
        """Records with a verdict; equals `consumed`, or a record has vanished."""
        return self.counted + self.duplicate + self.parked + self.rejected

    def metadata(self) -> str:
        """As the text that is committed with an offset."""
        return msgspec.json.encode({"v": 1, **self._asdict()}).decode()


def total(parts: Iterable[Totals]) -> Totals:
    """The sum of all."""
    added = Totals()
    for part in parts:
        added = added.plus(part)
    return added


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    consumed: int
    counted: int
    duplicate: int
    parked: int
    rejected: int
    carried: int


def parse_totals(metadata: str) -> Totals | None:
    """The totals in a committed offset's metadata; None if it holds none that we wrote."""
    try:
        found = msgspec.json.decode(metadata.encode(), type=_Metadata)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    if found.v != 1:
        return None
    return Totals(found.consumed, found.counted, found.duplicate, found.parked, found.rejected, found.carried)


@dataclass(frozen=True)
class Balance:
    """Both sides of the equation. `totals` None: unknown for that partition, someone else's tool moved its offset."""

    totals: Mapping[int, Totals | None]
    offsets: Mapping[int, int]
    ends: Mapping[int, int]
    rows: int
    """Sum over campaigns and KPIs of stats - opening."""
    workers: int

    @property
    def sum(self) -> Totals:
        """Over the partitions whose totals are known."""
        return total(totals for totals in self.totals.values() if totals)

    @property
    def unknown(self) -> list[int]:
        """Partitions whose totals are unknown."""
        return sorted(partition for partition, totals in self.totals.items() if totals is None)

    @property
    def lag(self) -> int:
        """Offsets between the checkpoint and the end."""
        return sum(max(0, end - self.offsets.get(partition, 0)) for partition, end in self.ends.items())

    @property
    def in_motion(self) -> bool:
        """Workers are applying: the rows may be ahead of the checkpoint."""
        return self.workers > 0 and self.lag > 0

    @property
    def difference(self) -> int:
        """Rows minus committed: above 0 applied and not yet committed, below 0 the store has forgotten."""
        return self.rows - self.sum.counted - self.sum.carried

    @property
    def holds(self) -> bool:
        """Whether the numbers agree as far as they must now."""
        agree = self.difference >= 0 if self.in_motion else self.difference == 0
        return not self.unknown and agree and all(t is None or t.consumed == t.judged for t in self.totals.values())


def read_balance(log: Log, store: Store, config: Config, generation: Generation) -> Balance:
    """Read both sides, the totals first. Raises `Retryable` if log or store does not answer."""
    checkpoint = checkpoint_patiently(lambda: log.checkpoint(generation.group, config.input_topic))
    totals = {partition: parse_totals(committed.metadata) for partition, committed in checkpoint.items()}
    heads = patiently(lambda: log.heads(config.input_topic))
    for partition, committed in checkpoint.items():
        if totals[partition] is None and committed == (0, "") and heads.get(partition) == 0:
            totals[partition] = Totals()
    rows = 0
    for row in scan_patiently(store, generation.campaigns, ("seal", "stats", "opening")):
        if "seal" in row.bins:
            stats, opening = row.bins.get("stats", {}), row.bins.get("opening", {})
            rows += sum(stats.get(kpi, 0) - opening.get(kpi, 0) for kpi in KPIS)
    return Balance(
        totals=totals,
        offsets={partition: committed.offset for partition, committed in checkpoint.items()},
        ends=patiently(lambda: log.ends(config.input_topic)),
        rows=rows,
        workers=len(patiently(lambda: log.members(generation.group))),
    )
