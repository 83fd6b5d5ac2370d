"""The rules, broken one at a time: the simulation must see each.

python -m tests.fault.mutations            # all; or names
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from projector import judge, kpi, ledger
from projector.batch import Batch
from projector.errors import Fenced
from projector.judge import Judge
from projector.last_word import LastWord
from projector.ledger import Ledger
from projector.log import Member, Message, Offset
from projector.projector import Projector
from projector.settling import Settling
from projector.store import Answer, Outcome, Write
from tests.fault.faults import FaultyMember, FaultyStore
from tests.fault.memory_log import MemoryLog, MemoryMember
from tests.fault.memory_store import MemoryStore
from tests.fault.simulation import run
from tests.fault.test_two_workers import ORDERS

SEEDS_MAX = 600
LONG_AGO = -1e9
Patch = pytest.MonkeyPatch


def no_fail(patch: Patch) -> None:
    """PutNew skips ids that are there, and the increments beside it are applied."""

    def put_new(_: MemoryStore, held: dict[Any, Any], entries: Mapping[Any, Any]) -> None:
        held.update({key: value for key, value in entries.items() if key not in held})

    patch.setattr(MemoryStore, "_put_new", put_new)


def replays_are_not_published(patch: Patch) -> None:
    """Only campaigns to which the batch added something are published."""
    added: set[int] = set()
    take, values = Ledger._take, judge._values

    def marking(self: Ledger, campaign: int, item: Any, ids: Any, answer: Answer) -> None:
        take(self, campaign, item, ids, answer)
        if answer.outcome is Outcome.APPLIED:
            added.add(campaign)

    def only_added(judgements: Any) -> Any:
        found = {campaign: value for campaign, value in values(judgements).items() if campaign in added}
        added.clear()
        return found

    patch.setattr(Ledger, "_take", marking)
    patch.setattr(judge, "_values", only_added)


def _shifted(patch: Patch, by: int) -> None:
    project = Projector._project

    def shifted(self: Projector, records: Any) -> Batch:
        batch = project(self, records)
        batch.positions = {
            partition: (max(0, end + by), totals) for partition, (end, totals) in batch.positions.items()
        }
        return batch

    patch.setattr(Projector, "_project", shifted)


def one_too_far(patch: Patch) -> None:
    """The committed offset is one too high."""
    _shifted(patch, 1)


def one_too_few(patch: Patch) -> None:
    """The committed offset is one too low."""
    _shifted(patch, -1)


def false_acknowledgements(patch: Patch) -> None:
    """A write that never took effect is answered like one that did, now and then."""
    write = FaultyStore.write
    calls = [0]

    def lying(self: FaultyStore, writes: Sequence[Write]) -> list[Answer]:
        calls[0] += 1
        if calls[0] % 7 or any(each.row.set != "campaigns" for each in writes):
            return write(self, writes)
        assert isinstance(self._store, MemoryStore)
        before = {each.row: list(self._store._rows.get(each.row, [])) for each in writes}
        answers = self._store.write(writes)
        self._store._rows.update(before)
        return answers

    patch.setattr(FaultyStore, "write", lying)


def duplicates_count_where_a_batch_is_split(patch: Patch) -> None:
    """Further positions of an id are called counted if the change took several writes."""
    again = ledger._judge_again

    def counting(item: Any) -> None:
        if len(item.change.ids) > 2:
            item.judgement.counted += [sighting for _, sighting in item.change.again]
        else:
            again(item)

    patch.setattr(ledger, "_judge_again", counting)


def committed_before_it_settled(patch: Patch) -> None:
    """No batch waits."""
    patch.setattr(Settling, "ripens_in", lambda _self, _batch: 0.0)
    patch.setattr(Settling, "next_look_in", lambda _self, _batch: 0.0)

    def ask(self: Settling) -> str:
        self._drained_at = -LONG_AGO
        return self._store.state().incarnation

    patch.setattr(Settling, "_ask", ask)


def drained_during_the_wait(patch: Patch) -> None:
    """A device's queue that was empty at some moment since the answer is enough."""
    settled = Settling.settled

    def early(self: Settling, batches: Any) -> int | None:
        held = list(batches)
        found = settled(self, held)
        if found is None or self._settle_s == 0:
            return found
        return sum(1 for each in held if self.ripens_in(each) <= 0 and each.answered_at <= self._drained_at)

    patch.setattr(Settling, "settled", early)


def an_empty_queue_counts_at_once(patch: Patch) -> None:
    """What has just left a device's queue is taken to be on the device."""
    begin = Settling.__init__

    def hasty(self: Settling, *arguments: Any) -> None:
        begin(self, *arguments)
        self._writing_s = 0.0

    patch.setattr(Settling, "__init__", hasty)


def queue_kept_over_a_change_of_incarnation(patch: Patch) -> None:
    """The store has forgotten, and the queue is committed under the new incarnation."""
    settled = Settling.settled

    def kept(self: Settling, batches: Any) -> int | None:
        held = list(batches)
        found = settled(self, held)
        if found is None:
            self.renew()
            found = settled(self, held)
        return found

    patch.setattr(Settling, "settled", kept)


def caches_kept_over_a_change_of_incarnation(patch: Patch) -> None:
    """The queue is dropped, the chains and tags stay."""
    patch.setattr(Judge, "forget", lambda _: None)


def incarnation_renewed_on_a_fence(patch: Patch) -> None:
    """A dropped queue renews the incarnation although caches are kept."""

    def renewing(self: Projector) -> None:
        if not self._queue:
            self._settling.renew()

    patch.setattr(Projector, "_take_incarnation", renewing)


def nothing_published_on_assignment(patch: Patch) -> None:
    """No sweep."""
    patch.setattr(LastWord, "assigned", lambda _: None)


def no_last_word(patch: Patch) -> None:
    """What was published is never looked at again; there are only the sweeps."""
    patch.setattr(LastWord, "owe", lambda *_args, **_named: None)


def totals_kept_over_a_fence(patch: Patch) -> None:
    """Positions come from the checkpoint, totals from memory."""
    starts = Projector._starts

    def keeping(self: Projector, partitions: Sequence[int]) -> Any:
        before = dict(self._positions)
        found = starts(self, partitions)
        for partition in set(partitions) & before.keys():
            self._positions[partition] = (self._positions[partition][0], before[partition][1])
        return found

    patch.setattr(Projector, "_starts", keeping)


def last_word_not_settled(patch: Patch) -> None:
    """A value that was read for the last word is published at once."""
    follow_up = Projector._follow_up

    def at_once(self: Projector, idle: bool) -> None:
        count = len(self._queue)
        follow_up(self, idle)
        for number, each in enumerate(self._queue):
            if number >= count:
                each.answered_at = LONG_AGO

    patch.setattr(Projector, "_follow_up", at_once)


def last_word_of_a_worker_that_owns_nothing(patch: Patch) -> None:
    """What it owes is published without offsets, and so without a fence."""
    follow_up = Projector._follow_up

    def published(self: Projector, idle: bool) -> None:
        if self._positions:
            follow_up(self, idle)
        elif values := self._last_word.due(idle):
            self._log.append(kpi.messages(self._config.kpi_topic, values, self._epoch))

    patch.setattr(LastWord, "clear", lambda _: None)
    patch.setattr(Projector, "_follow_up", published)


def last_word_not_fenced(patch: Patch) -> None:
    """Messages of a transaction that turns out to be fenced are visible all the same."""
    commit = FaultyMember.commit

    def leaking(self: FaultyMember, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        try:
            commit(self, messages, offsets)
        except Fenced:
            member: Member = self._member
            assert isinstance(member, MemoryMember)
            log: MemoryLog = member._log
            log.append(messages)
            raise

    patch.setattr(FaultyMember, "commit", leaking)


def newest_value_published(patch: Patch) -> None:
    """The value of the whole queue instead of the prefix that is committed."""
    commit = Projector._commit

    def newest(self: Projector, batches: Sequence[Batch]) -> None:
        values = kpi.latest(each.values for each in self._queue)
        for batch in batches:
            batch.values = {campaign: values[campaign] for campaign in batch.values}
        commit(self, batches)

    patch.setattr(Projector, "_commit", newest)


def counted_assumed(patch: Patch) -> None:
    """An id that is there already is called counted, wherever it was counted."""
    patch.setattr(ledger, "_judge", lambda judgement, sighting, _held: judgement.counted.append(sighting))


def queue_kept_over_a_lost_partition(patch: Patch) -> None:
    """What another worker may have done meanwhile is committed again."""

    def kept(self: Projector, partitions: Sequence[int]) -> None:
        self._give_up(partitions)

    patch.setattr(Projector, "lost", kept)


def page_replaced_before_it_settled(patch: Patch) -> None:
    """`sealed` is emptied as soon as its page was written."""
    patch.setattr(Settling, "arrived", lambda _self, written_at: [True] * len(written_at))
    patch.setattr(Settling, "settle_ms", 0)


def write_without_the_seal(patch: Patch) -> None:
    """The filter on the seal is left out."""
    write = FaultyStore.write

    def unguarded(self: FaultyStore, writes: Sequence[Write]) -> list[Answer]:
        return write(self, [each._replace(conditions=()) if each.row.set == "campaigns" else each for each in writes])

    patch.setattr(FaultyStore, "write", unguarded)


MUTATIONS: Sequence[Callable[[Patch], None]] = (
    no_fail,
    replays_are_not_published,
    one_too_far,
    one_too_few,
    false_acknowledgements,
    duplicates_count_where_a_batch_is_split,
    committed_before_it_settled,
    drained_during_the_wait,
    an_empty_queue_counts_at_once,
    queue_kept_over_a_change_of_incarnation,
    caches_kept_over_a_change_of_incarnation,
    nothing_published_on_assignment,
    no_last_word,
    totals_kept_over_a_fence,
    last_word_not_settled,
    last_word_of_a_worker_that_owns_nothing,
    last_word_not_fenced,
    newest_value_published,
    counted_assumed,
    queue_kept_over_a_lost_partition,
    page_replaced_before_it_settled,
    write_without_the_seal,
)


EQUIVALENT: Sequence[Callable[[Patch], None]] = (incarnation_renewed_on_a_fence,)
"""Seen by nothing here: a seal is never used twice, so a cache that outlived a crash of the store is refused by the
filter of every write and by the seal in every read. The rule stays: it does not rest on random numbers."""


def caught(mutation: Callable[[Patch], None], seeds_max: int = SEEDS_MAX) -> str | None:
    """What sees the mutation first, and what it says: an order of two workers, else a seed. None if it survives."""
    for order in ORDERS:
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            try:
                order()
            except AssertionError as error:
                return f"{order.__name__}: {error}"
    for seed in range(seeds_max):
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            try:
                run(seed)
            except AssertionError as error:
                return str(error).splitlines()[0]
    return None


if __name__ == "__main__":
    names = sys.argv[1:]
    for each in (*MUTATIONS, *EQUIVALENT):
        if not names or each.__name__ in names:
            print(f"{each.__name__}: {caught(each) or 'SURVIVES'}", flush=True)
