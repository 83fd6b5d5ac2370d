"""Carry commits where the heads are, as a member of the group, on each log."""

from projector.balance import Totals, parse_totals
from projector.carry import SLOT, Gone, carry, gone
from projector.config import Config
from projector.generation import Generation
from projector.log import Log, Message
from tests.contract.conftest import LogPlace
from tests.fault.memory_store import MemoryStore
from tests.generations import Counting, create_campaigns, ids_of


def test_the_checkpoint_is_at_the_heads_and_the_group_is_left(log: Log, log_place: LogPlace, name: str) -> None:
    """Also where a carry was killed as a member, and when the heads have moved again."""
    config = Config(input_topic=name, group=name)
    live, rebuilt = Generation(1, name), Generation(2, name)
    store = MemoryStore(lambda: 0.0)
    create_campaigns(store, (1,))
    log.create_topic(name, 3, {})
    log.append([Message(name, None, b"x", partition=n % 3) for n in range(30)])
    Counting(store, live).count(1, {f"id-{n}": [n % 4, 100, n % 3, n // 3] for n in range(30)})
    log_place.delete_before(name, {0: 4, 2: 7})
    assert gone(log, config, rebuilt) == [Gone(0, 0, 4), Gone(2, 0, 7)]
    log.join(rebuilt.group, name, SLOT, Nothing()).close()  # type: ignore[arg-type]  # is never assigned anything
    assert carry(log, store, config, live, rebuilt) == {0: 4, 2: 7}
    assert log.members(rebuilt.group) == []
    log_place.delete_before(name, {0: 6})
    assert carry(log, store, config, live, rebuilt) == {0: 6, 2: 7}
    checkpoint = log.checkpoint(rebuilt.group, name)
    assert {p: (each.offset, parse_totals(each.metadata)) for p, each in checkpoint.items()} == {
        0: (6, Totals(carried=6)),
        2: (7, Totals(carried=7)),
    }
    held = {f"id-{n}" for n in range(30) if n // 3 < {0: 6, 2: 7}.get(n % 3, 0)}
    assert ids_of(store, rebuilt, 1).keys() == held
    assert log.members(rebuilt.group) == []


class Nothing:
    """A listener of a member that does not poll."""
