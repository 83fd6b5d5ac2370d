"""Rewind: the live generation reads its topic again from the beginning; the ledger holds back what it has counted."""

from collections.abc import Mapping
from typing import NamedTuple

from projector.balance import Totals
from projector.checkpoint import Copies
from projector.config import Config
from projector.errors import Refused
from projector.log import Log, Offset
from projector.patience import Patience, checkpoint_patiently, patiently
from projector.pointer import Entry, Pointer, PointerRow
from projector.store import Store

LEASE_S = 60.0


class Rewound(NamedTuple):
    """The pointer after it, and the next offsets at which the generation stood before."""

    pointer: Pointer
    before: Mapping[int, int]


def rewind(
    row: PointerRow,
    log: Log,
    store: Store,
    config: Config,
    *,
    who: str,
    why: str = "",
    patience: Patience = patiently,
) -> Rewound:
    """Offset 0 and totals of zero for every partition of the live generation, under the epoch + 1.

    The epoch is raised, and the generation closed, before any offset is moved, so that no worker starts meanwhile;
    after a crash in between the same command does all of it again. Raises `Refused` while there are workers, or where
    retention has deleted records; `Superseded`, `Retryable`.
    """
    pointer = row.settled()
    generation = pointer.generation(config)
    heads = patience(lambda: log.heads(config.input_topic))
    if gone := {partition: head for partition, head in heads.items() if head}:
        raise Refused(
            f"topic {config.input_topic} does not begin at 0 any more: first offsets {gone}; what is gone would be "
            "missing in the totals: run: projector rebuild --carry"
        )
    _refuse_members(patience(lambda: log.members(generation.group)), generation.number)
    with row.closed(pointer, LEASE_S, epoch=pointer.epoch + 1) as own:
        _refuse_members(patience(lambda: log.members(generation.group)), generation.number)
        found = checkpoint_patiently(lambda: log.checkpoint(generation.group, config.input_topic))
        before = {partition: each.offset for partition, each in found.items()}
        start = {partition: Offset(0, Totals().metadata()) for partition in heads}
        patience(lambda: log.set_checkpoint(generation.group, config.input_topic, start))
        patience(lambda: Copies(store, generation, patience).write(start))
        number, epoch = generation.number, own.pointer.epoch
        opened = row.reopen(own, Entry("rewind", who, row.now_ms(), number, number, epoch, why, before))
    return Rewound(opened, before)


def _refuse_members(members: list[str], number: int) -> None:
    if members:
        raise Refused(f"generation {number} has workers: stop {', '.join(members)} first")
