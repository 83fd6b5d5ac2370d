"""The plan of a rebuild: what there is to read, before anything is done."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from projector.carry import Gone, gone
from projector.config import Config
from projector.generation import Generation
from projector.generations import Build, bounded
from projector.log import Log
from projector.patience import checkpoint_patiently, patiently

SAMPLE_RECORDS = 1_000
RATE = 30_000
"""Records a second that one worker counts, roughly (docs/performance.md)."""


class Plan(NamedTuple):
    """What a rebuild will do. Offsets stand for records: markers of transactions are counted with them."""

    topic: str
    live: int
    number: int | None
    """The generation that is half built and gone on with; None: a new one."""
    heads: Mapping[int, int]
    """Per partition the first offset that is there."""
    starts: Mapping[int, int]
    """Per partition the first offset to be read: where the half-built generation stands, else the head."""
    goals: Mapping[int, int]
    """Per partition the offset to reach: the committed one of the live generation, or the limit below it."""
    gone: Sequence[Gone]
    record_bytes: int
    """Of a value, on the average of the first ones."""
    workers: int

    @property
    def records(self) -> int:
        """Records to read."""
        return sum(max(0, goal - self.starts.get(partition, 0)) for partition, goal in self.goals.items())

    @property
    def bytes(self) -> int:
        """Bytes of their values, roughly."""
        return self.records * self.record_bytes

    @property
    def seconds(self) -> float:
        """How long it takes, roughly."""
        return self.records / (RATE * self.workers)


def nothing_read(heads: Mapping[int, int]) -> list[Gone]:
    """What a generation cannot read that has not begun."""
    return [Gone(partition, 0, head) for partition, head in sorted(heads.items()) if head]


def plan(
    log: Log,
    config: Config,
    live: Generation,
    build: Build | None,
    workers: int,
    until: Mapping[int, int] | None = None,
) -> Plan:
    """The plan now; `until`: per partition the offset to stop before. Raises `Retryable`."""
    topic = config.input_topic
    heads = patiently(lambda: log.heads(topic))
    goals = _offsets(log, config, live)
    done = _offsets(log, config, build.generation(config)) if build else {}
    sizes: list[int] = []
    for records in log.read(topic):
        sizes += [len(record.value or b"") for record in records]
        if len(sizes) >= SAMPLE_RECORDS:
            break
    return Plan(
        topic,
        live.number,
        build.number if build else None,
        heads,
        {partition: max(head, done.get(partition, 0)) for partition, head in heads.items()},
        goals if until is None else bounded(goals, until),
        gone(log, config, build.generation(config)) if build else nothing_read(heads),
        sum(sizes) // len(sizes) if sizes else 0,
        workers,
    )


def _offsets(log: Log, config: Config, generation: Generation) -> dict[int, int]:
    committed = checkpoint_patiently(lambda: log.checkpoint(generation.group, config.input_topic))
    return {partition: each.offset for partition, each in sorted(committed.items())}
