"""Carry and recount in any order, while retention deletes and recounts are killed, against the ids of the topic."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projector.balance import Totals, parse_totals, total
from projector.carry import carry, gone
from projector.fold import EventId
from projector.log import Offset
from tests.fault.memory_store import MemoryStore
from tests.generations import CONFIG, LIVE, REBUILT, Counting, GroupsLog, create_campaigns, ids_of

CAMPAIGNS = (1, 2)
RECORD = st.tuples(st.integers(0, 9), st.integers(0, 3))
"""Which id, of which kind: duplicates and conflicts in both partitions."""
STEP = st.tuples(
    st.sampled_from(["delete", "recount", "recount, killed", "carry"]), st.integers(0, 1), st.integers(1, 8)
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    topic=st.tuples(st.lists(RECORD, max_size=12), st.lists(RECORD, max_size=12)),
    order=st.randoms(use_true_random=False),
    steps=st.lists(STEP, max_size=10),
)
def test_every_id_of_the_topic_counts_once_and_the_balance_holds(
    topic: tuple[list[Any], list[Any]], order: Any, steps: list[Any]
) -> None:
    """Whatever is gone when: at the end both generations hold the same ids, and every one is counted or carried."""
    log, store = GroupsLog(), MemoryStore(lambda: 0.0)
    create_campaigns(store, CAMPAIGNS)
    for partition, records in enumerate(topic):
        for _ in records:
            log.append_marker(CONFIG.input_topic, partition)

    def judged(worker: Counting, partition: int, offset: int) -> Totals:
        number, code = topic[partition][offset]
        name: EventId = f"id-{number}"
        counted = worker.judge(1 + number % 2, name, [code, 0, partition, offset])
        return Totals(consumed=1, counted=1) if counted else Totals(consumed=1, duplicate=1)

    live = Counting(store, LIVE)
    turns = [partition for partition, records in enumerate(topic) for _ in records]
    order.shuffle(turns)
    reached = [0, 0]
    for partition in turns:
        judged(live, partition, reached[partition])
        reached[partition] += 1

    def recount(partition: int, records: int, killed: bool) -> None:
        committed = log.offsets.get(partition)
        first = committed.offset if committed else 0
        if any(part.partition == partition for part in gone(log, CONFIG, REBUILT)):
            return
        last = min(first + records, len(topic[partition]))
        worker = Counting(store, REBUILT)
        totals = (parse_totals(committed.metadata) if committed else None) or Totals()
        totals = total([totals, *(judged(worker, partition, offset) for offset in range(first, last))])
        if not killed:
            log.offsets[partition] = Offset(last, totals.metadata())

    for what, partition, amount in steps:
        if what == "delete":
            log.delete_before(CONFIG.input_topic, partition, min(amount, len(topic[partition])))
        elif what == "carry":
            carry(log, store, CONFIG, LIVE, REBUILT)
        else:
            recount(partition, amount, killed="killed" in what)
    carry(log, store, CONFIG, LIVE, REBUILT)
    for partition in (0, 1):
        recount(partition, len(topic[partition]), killed=False)

    held = [{c: ids_of(store, generation, c).keys() for c in CAMPAIGNS} for generation in (LIVE, REBUILT)]
    assert held[0] == held[1]
    totals = total(parse_totals(each.metadata) or Totals() for each in log.offsets.values())
    assert totals.counted + totals.carried == len({number for records in topic for number, _ in records})
    assert totals.consumed == totals.judged
