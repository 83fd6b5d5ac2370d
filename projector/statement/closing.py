"""Closing: the checkpoint that a statement ends at, and whether the period is over there."""

from collections.abc import Mapping
from dataclasses import dataclass

from projector.balance import Totals, parse_totals, total
from projector.config import Config
from projector.errors import Misconfigured, OffsetsGone, Refused
from projector.generation import Generation
from projector.log import Log
from projector.patience import checkpoint_patiently, patiently
from projector.pointer import Pointer, PointerRow
from projector.settling import settle_seconds
from projector.statement.period import Period, iso
from projector.store import Store


@dataclass(frozen=True)
class Closed:
    """The live generation as a statement finds it."""

    generation: Generation
    epoch: int
    topic_id: str
    checkpoint: Mapping[int, int]
    """Per partition the next offset: what was counted before it is in the ledger for ever."""
    counted: int
    """How many ids the ledger must hold before the checkpoint: counted and carried, as committed with it."""
    settle_s: float

    def confirm(self, store: Store) -> None:
        """Raises `Refused` if another generation has gone live since, or this one was rewound; `Retryable`."""
        pointer = PointerRow(store, self.settle_s).settled()
        if (pointer.live, pointer.epoch) != (self.generation.number, self.epoch):
            raise Refused("another generation went live meanwhile, or this one was rewound: make the statement again")


def close(log: Log, store: Store, config: Config, period: Period, now_ms: int) -> Closed:
    """The live generation's checkpoint now; it must have passed the period.

    A record that comes later with a timestamp in the period is counted, and in a later statement of it. Raises
    `Refused` where the period is not over, not read to its end, or the committed totals are unknown;
    `OffsetsGone` where the topic is not the one that was counted; `Misconfigured`, `Retryable`.
    """
    if period.end * 1000 > now_ms:
        raise Refused(f"the period is not over: it ends at {iso(period.end)}, now it is {iso(now_ms // 1000)}")
    settle_s = patiently(lambda: settle_seconds(store, config.settle_ms, allow_volatile_store=True))
    pointer = PointerRow(store, settle_s).settled()
    generation = pointer.generation(config)
    _check_topic(log, config, pointer)
    committed = checkpoint_patiently(lambda: log.checkpoint(generation.group, config.input_topic))
    checkpoint = {partition: offset.offset for partition, offset in committed.items()}
    _check_read(log, config, period, checkpoint)
    heads = patiently(lambda: log.heads(config.input_topic))
    parts: list[Totals] = []
    for partition, offset in committed.items():
        totals = parse_totals(offset.metadata)
        if totals is None and offset == (0, "") and heads.get(partition) == 0:
            totals = Totals()
        if totals is None:
            raise Refused(
                f"partition {partition}: how many were counted before offset {offset.offset} is unknown, another tool "
                "moved the offset; so nothing shows that none is missing: projector rewind, then projector run"
            )
        parts.append(totals)
    added = total(parts)
    return Closed(generation, pointer.epoch, pointer.topic_id, checkpoint, added.counted + added.carried, settle_s)


def _check_topic(log: Log, config: Config, pointer: Pointer) -> None:
    topic = patiently(lambda: log.topic(config.input_topic))
    if topic is None:
        raise Misconfigured(f"topic {config.input_topic} is not there")
    if topic.id != pointer.topic_id:
        raise OffsetsGone(
            f"topic {config.input_topic} is not the one that was counted: its id is {topic.id}, the pointer row names "
            f"{pointer.topic_id}"
        )


def _check_read(log: Log, config: Config, period: Period, checkpoint: Mapping[int, int]) -> None:
    """All records of the period that are in the topic must have been read, wherever they stand."""
    span = range(period.begin * 1000, period.end * 1000)
    ends = patiently(lambda: log.ends(config.input_topic))
    behind = {p: checkpoint.get(p, 0) for p, end in ends.items() if checkpoint.get(p, 0) < end}
    for records in log.read(config.input_topic, {**ends, **behind}) if behind else ():
        for record in records:
            if record.partition in behind and record.timestamp_ms in span:
                raise Refused(
                    f"partition {record.partition}: records of the period are not counted yet, one at offset "
                    f"{record.offset}, the checkpoint is {behind[record.partition]}: let projector run catch up, or "
                    "end the period sooner"
                )
