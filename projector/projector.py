"""The loop: read it first.

    poll -> decode -> resolve -> fold -> apply -> settle -> publish -> commit

One worker is one consumer, one transactional producer and this loop. The campaign rows alone decide what counts, so a
crash anywhere means: read again from the checkpoint, and what is in the rows already adds nothing. Applied batches
wait in a queue until the store cannot forget them; one transaction publishes and commits the settled front of it, and
none is open across a poll. Whatever goes wrong has one remedy: drop the queue, go back to the checkpoint.
The argument, fault by fault, stands in docs/exactly-once.md.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter

from projector import kpi
from projector.balance import Totals, total
from projector.batch import Batch, Queue
from projector.checkpoint import Copies, Start, Starts
from projector.clock import Clock
from projector.config import Config
from projector.errors import Fatal, Fenced, InDoubt, Retryable
from projector.generation import Generation
from projector.judge import Judge
from projector.last_word import LastWord
from projector.log import Listener, Log, Member, Message, Offset, Record
from projector.metrics import Metrics
from projector.patience import Patience
from projector.settling import Settling
from projector.store import Store

logger = logging.getLogger(__name__)

COPY_S = 1.0
REPORT_S = 10.0
DRAIN_S = 20.0
PROBE_S = 0.2
SHARED_S = 1.0
SPEAK_S = 0.2
LAST_WORDS_MAX = 3  # on leaving; where others go on publishing, they sweep when they get these partitions


class Projector(Listener):
    """One worker of one generation.

    `slot` names its transactions and its place in the group. `accept_head` and `restore_checkpoint` answer for an
    operator what to do where offsets are gone. `campaigns`: count these alone (None: all). `admitted` is asked after
    every assignment, before anything is applied or committed: whether this generation, role and epoch are what the
    pointer row says; if not, the worker leaves. `beat` is called at least once per call to log or store.
    """

    def __init__(
        self,
        log: Log,
        store: Store,
        config: Config,
        generation: Generation,
        epoch: int,
        slot: str,
        settle_s: float,
        *,
        accept_head: bool = False,
        restore_checkpoint: bool = False,
        campaigns: Collection[int] | None = None,
        admitted: Callable[[], bool] = lambda: True,
        beat: Callable[[], None] = lambda: None,
        clock: Clock = time,
        patience_s: float = 20.0,
        metrics: Metrics | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self._log = log
        self._config = config
        self._generation = generation
        self._epoch = epoch
        self._slot = slot
        self._admitted = admitted
        self._beat = beat
        self._clock = clock
        self._patience = Patience(patience_s, self._note, clock.sleep)
        self._settling = Settling(store, settle_s, self._patience, clock.monotonic)
        self._judge = Judge(store, config, generation, self._patience, self._settling, clock, campaigns)
        self._last_word = LastWord(
            store, generation.campaigns, self._patience, config.republish_ms / 1000, clock.monotonic
        )
        self._copies = Copies(store, generation, self._patience)
        self._start = Starts(
            log,
            config.input_topic,
            self._copies,
            self._patience,
            accept_head=accept_head,
            restore=restore_checkpoint,
        )
        self._copied_at = float("-inf")
        self._to_copy: dict[int, Offset] = {}
        self._queue = Queue(config.batch_records)
        self.metrics.attach(self._queue, self._judge.held)
        self._positions: dict[int, tuple[int, Totals | None]] = {}
        """Per owned partition the next offset and the totals, as after the last batch of the queue."""
        self._taken: dict[int, int] = {}
        """How far each partition was ever read: the rows may hold that much, committed or not."""
        self._stale = False
        """The positions must be taken from the checkpoint before anything else."""
        self._paused = False
        self._behind = False
        """The last poll filled its batch: then several of them share a transaction."""
        self._producer_dead = False
        self._assignment_failed = False
        self._newly_assigned = False
        self._was_assigned = False
        self.dismissed = False
        """The pointer row says something else by now: it commits what is in hand, and leaves."""
        self._reported_at = float("-inf")
        self._probed_at = float("-inf")
        self._ends: Mapping[int, int] = {}
        """Where `until_end` stops, and who leaves."""
        self._member: Member | None = None

    # --- the life of a worker

    def run(self, until_end: bool, stopping: Callable[[], bool], progress: Callable[[], None] = lambda: None) -> None:
        """Work until `stopping()`; with `until_end` also until the topic is counted as far as it goes now.

        Then commits what is in hand and leaves the group. Raises `Fatal`; the place in the group is then kept as
        after a crash, so that the same slot goes on at once.
        """
        if until_end:
            self._ends = self._patience(lambda: self._log.ends(self._config.input_topic))
        while not self._member and not stopping():
            try:
                self.join()
            except Retryable as error:
                self._report(error)
                progress()
        if not self._member:
            return
        try:
            while not (self.dismissed or stopping() or (until_end and self.finished(self._ends))):
                self.turn()
                progress()
            self.leave()
        finally:
            self.member.close()

    def join(self) -> None:
        """Become a member of the generation's group. Raises `Retryable`, `Fatal`."""
        self._member = self._patience(
            lambda: self._log.join(self._generation.group, self._config.input_topic, self._slot, self)
        )

    @property
    def member(self) -> Member:
        """The worker's place in the group."""
        if self._member is None:
            raise RuntimeError("join first")
        return self._member

    def turn(self) -> None:
        """One turn of the loop. Errors that a restart from the checkpoint mends are mended here; raises `Fatal`."""
        self._beat()
        try:
            if self._stale:
                self._return_to_checkpoint()
            if self._newly_assigned and not self._stays():
                return
            if not self._spares_a_transaction():
                self._commit_settled()
            records = self._poll()
            self._behind = len(records) >= self._config.batch_records
            if self._stale or (self._newly_assigned and not self._stays()):
                return
            if records:
                if self._last_word and not self._judge:
                    self._speak()
                self._queue.append(self._project(records))
            if not self._queue.full:
                self._follow_up(idle=not records and not self._queue)
        except (Fenced, Retryable) as error:
            self._go_back(error)

    def _spares_a_transaction(self) -> bool:
        """Whether what has settled waits for more; never for long, or a worker that often fails would not get on."""
        oldest_at = self._queue.oldest_at
        settled_at = self._clock.monotonic() - self._settling.settle_ms / 1000
        young = oldest_at is None or settled_at - oldest_at < SHARED_S
        return self._behind and young and self._queue.below_half

    def _stays(self) -> bool:
        """Whether it is admitted after an assignment; if not, nothing of the queue is committed. Raises `Retryable`."""
        self._newly_assigned = not self._admitted()
        if self._newly_assigned:
            self.dismissed = self._stale = True
            self._queue.clear()
        return not self.dismissed

    def finished(self, ends: Mapping[int, int]) -> bool:
        """Whether the group's checkpoint has reached `ends`, whoever committed it, and this worker owes nothing."""
        if self._queue or self._stale or self._last_word or not self._member:
            return False
        if any(position < ends.get(partition, 0) for partition, (position, _) in self._positions.items()):
            return False
        if self._clock.monotonic() - self._probed_at < PROBE_S:
            return False
        self._probed_at = self._clock.monotonic()
        try:
            checkpoint = self._log.checkpoint(self._generation.group, self._config.input_topic)
            if not self._was_assigned and len(self._log.members(self._generation.group)) <= len(ends):
                return False  # a partition is to come, and with it the last word: a cutover may have left it to us
        except Retryable as error:
            self._note(error)
            return False
        return all(
            end == 0 or (partition in checkpoint and checkpoint[partition].offset >= end)
            for partition, end in ends.items()
        )

    def lag(self) -> int | None:
        """Records, or offsets without one, between the owned positions and the end; None if that is not known now."""
        try:
            ends = self._log.ends(self._config.input_topic)
        except Retryable:
            return None
        return sum(max(0, ends.get(p, 0) - position) for p, (position, _) in self._positions.items())

    def leave(self) -> None:
        """Commit what is in the rows, as far as a bounded time allows, and leave the group in order."""
        self._beat()
        began = self._clock.monotonic()
        self._ends = self._taken  # as far as it reads until then: no further
        while True:
            while self._misses_some() and not self.dismissed and self._clock.monotonic() < began + DRAIN_S / 2:
                # What a dropped queue held is in the rows without a verdict in the checkpoint.
                self.turn()
                self._clock.sleep(0.001)
            late = self._clock.monotonic() > began + DRAIN_S / 2
            if self._gave_all(began + DRAIN_S) or self.dismissed or late:
                break
        self.member.leave()

    def _misses_some(self) -> bool:
        """Whether records that were read before are to be read again."""
        if not self._taken or self._assignment_failed:
            return False
        return self._stale or any(
            position < self._taken.get(partition, 0) for partition, (position, _) in self._positions.items()
        )

    def _gave_all(self, deadline: float) -> bool:
        """Commit the queue and say the last words; False where the queue had to be dropped."""
        try:
            self._drain(deadline)
            for _ in range(LAST_WORDS_MAX):
                # Stale: records of a dropped queue were polled, so positions are past what has a verdict.
                # Dismissed: whoever is live next has a sweep before it.
                if self._last_word.published and not (self._stale or self.dismissed):
                    self._follow_up(idle=True)
                    self._drain(deadline)
            self._copied_at = float("-inf")
            self._copy_checkpoint()
        except (Fenced, Retryable) as error:
            self._go_back(error)
            return False
        return True

    # --- one batch

    def _poll(self) -> list[Record]:
        """The next records; none while the queue is full."""
        wait_s = min(self._config.batch_ms / 1000, self._settling.next_look_in(self._queue))
        pause = self._queue.full or self._at_end()
        self.member.pause(pause)
        if self._paused and not pause:
            # After a pause the client takes up to a second to go on by itself, and some 20 ms if it is told where.
            self.member.seek({partition: position for partition, (position, _) in self._positions.items()})
        self._paused = pause
        return self.member.poll(self._config.batch_records, max(1, int(wait_s * 1000)))

    def _at_end(self) -> bool:
        """Nothing more is to be polled: it leaves, or `until_end` would owe new last words while others send."""
        return bool(self._ends) and all(
            position >= self._ends.get(partition, 0) for partition, (position, _) in self._positions.items()
        )

    def _project(self, records: Sequence[Record]) -> Batch:
        """Decode, resolve, fold and apply; positions and totals as they stand after it."""
        consumed = Counter(map(itemgetter(0), records))
        last = dict(zip(map(itemgetter(0), records), records, strict=True))
        for partition, record in last.items():
            self._taken[partition] = max(self._taken.get(partition, 0), record.offset + 1)
        self._take_incarnation()
        began = self._clock.monotonic()
        verdicts = self._judge.judge(records)
        answered_at = self._clock.monotonic()
        self.metrics.batch_seconds.observe(answered_at - began)
        positions: dict[int, tuple[int, Totals | None]] = {}
        for partition, count in consumed.items():
            added = verdicts.totals[partition]
            if not count == added.consumed == added.judged:
                raise Fatal(f"partition {partition}: {count} records, {added.judged} verdicts: nothing committed")
            totals = self._positions[partition][1]
            positions[partition] = (last[partition].offset + 1, totals.plus(added) if totals else None)
        self._positions.update(positions)
        return Batch(
            positions,
            answered_at,
            verdicts.values,
            verdicts.quarantined,
            total(verdicts.totals.values()),
            verdicts.reasons,
            {partition: record.timestamp_ms for partition, record in last.items()},
        )

    def _commit_settled(self) -> None:
        """One transaction for the settled front of the queue: totals as read back, quarantine, offsets, balance."""
        settled = self._settling.settled(self._queue)
        if settled is None:
            self.metrics.incarnation_changes += 1
            self._judge.forget()
            raise Retryable("the store was restarted and may have forgotten: back to the checkpoint")
        if settled:
            self._commit([batch for batch, _ in zip(self._queue, range(settled), strict=False)])

    def _commit(self, batches: Sequence[Batch]) -> None:
        values = kpi.latest(batch.values for batch in batches)
        messages = self._messages(values, batches)
        positions: dict[int, tuple[int, Totals | None]] = {}
        for batch in batches:
            positions.update(batch.positions)
        offsets = {
            partition: Offset(offset, totals.metadata() if totals else "")
            for partition, (offset, totals) in positions.items()
        }
        self._beat()
        began = self._clock.monotonic()
        self.member.commit(messages, offsets)
        self._queue.remove(len(batches))
        self._last_word.owe(values, published=True)
        self.metrics.committed(batches, offsets, self._clock.monotonic() - began)
        self._to_copy.update(offsets)
        self._copy_checkpoint()

    def _messages(self, values: Mapping[int, kpi.Value], batches: Sequence[Batch]) -> list[Message]:
        """What the transaction of these batches tells others."""
        messages = kpi.messages(self._config.kpi_topic, values, self._epoch)
        for batch in batches:
            messages += batch.quarantined
        return messages

    def _copy_checkpoint(self) -> None:
        if not self._to_copy or self._clock.monotonic() - self._copied_at < COPY_S:
            return
        self._copied_at = self._clock.monotonic()
        try:
            self._copies.write(self._to_copy)
            self._to_copy = {}
        except Retryable as error:
            # A copy for the day on which Kafka has lost the checkpoint: it is written again with the next commit.
            self._note(error)

    def _follow_up(self, idle: bool) -> None:
        """What is to be committed although no record asks for it: the last word, and a position past markers."""
        if not self._positions:
            return
        self._take_incarnation()
        values = self._last_word.due(idle)
        if idle:
            for partition, position in self._reached().items():
                if partition in self._positions and position > self._positions[partition][0]:
                    self._positions[partition] = (position, self._positions[partition][1])
                    self._queue.append(Batch({partition: self._positions[partition]}, self._clock.monotonic()))
        if values:
            self._queue.append(Batch(dict(self._positions), self._clock.monotonic(), values))

    def _speak(self) -> None:
        """Publish what is owed first of all: with many ids the caches take seconds to load, and readers wait."""
        self._follow_up(idle=False)
        self._committed_by(self._clock.monotonic() + self._settling.settle_ms / 1000 + SPEAK_S)

    def _reached(self) -> Mapping[int, int]:
        """How far each partition was read, past markers."""
        return self.member.positions()

    # --- partitions come and go; called from inside `poll` and `leave`

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Start new partitions at the checkpoint; every row is owed its last word."""
        self.metrics.assignments += 1
        self._newly_assigned = True
        try:
            starts = self._starts(partitions)
        except (Fenced, Retryable):
            self._assignment_failed = True
            raise
        self._last_word.assigned()
        self._was_assigned = True
        logger.info("assigned partitions %s", sorted(partitions))
        return {partition: begin.offset for partition, begin in starts.items()}

    def revoked(self, partitions: Sequence[int]) -> None:
        """Commit every batch, then give the partitions up."""
        try:
            self._drain(self._clock.monotonic() + DRAIN_S)
        except (Fenced, Retryable) as error:
            self._go_back(error)
        self._give_up(partitions)
        logger.info("revoked partitions %s", sorted(partitions))

    def lost(self, partitions: Sequence[int]) -> None:
        """Another worker has these: nothing of the queue may be committed."""
        self._drop_queue(Fenced(f"partitions {sorted(partitions)} were lost to another worker"))
        self._give_up(partitions)

    def _give_up(self, partitions: Sequence[int]) -> None:
        self.metrics.given_up(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)
        if not self._positions:
            self._last_word.clear()

    def _drain(self, deadline: float) -> None:
        """Commit the whole queue, waiting until it has settled. Raises `Retryable` if it has not at the deadline."""
        if not self._committed_by(deadline):
            raise Retryable("the store does not settle: its device does not keep up with the writes")

    def _committed_by(self, deadline: float) -> bool:
        """Commit what settles until the deadline; whether that was the whole queue."""
        while self._queue:
            self._beat()
            self._commit_settled()
            if self._queue:
                if self._clock.monotonic() > deadline:
                    return False
                self._clock.sleep(max(0.005, min(0.1, self._settling.next_look_in(self._queue))))
        return True

    # --- back to the checkpoint

    def _go_back(self, error: Fenced | Retryable) -> None:
        if isinstance(error, Fenced):
            self.metrics.fenced += 1
            self._producer_dead = True
        self._drop_queue(error)

    def _drop_queue(self, error: Exception) -> None:
        """Nothing that waits will be committed; what was to be published is owed."""
        for batch in self._queue:
            self._last_word.owe(batch.values, published=False)
        self._queue.clear()
        self._stale = True
        self.metrics.queues_dropped += 1
        self._note(error)
        self._report(error)

    def _report(self, error: Exception) -> None:
        if self._clock.monotonic() - self._reported_at >= REPORT_S:
            self._reported_at = self._clock.monotonic()
            logger.warning("back to the checkpoint: %s", error)

    def _take_incarnation(self) -> None:
        """Queue and caches rest on one incarnation: the one read before the first of them."""
        if not (self._queue or self._judge):
            self._settling.renew()

    def _return_to_checkpoint(self) -> None:
        """A live producer, then positions and totals of every owned partition as they are committed."""
        if self._assignment_failed:
            # The client was never told where to start: join anew, the slot keeps its partitions.
            self.member.close()
            self.metrics.given_up(list(self._positions))
            self._positions.clear()
            self.join()
            self._assignment_failed = self._producer_dead = self._stale = False
            return
        if self._producer_dead:
            self._patience(self.member.renew)
            self._producer_dead = False
        self.member.pause(True)
        self._paused = True
        self.member.poll(1, 1)
        owned = list(self._positions)
        self.member.seek({partition: begin.offset for partition, begin in self._starts(owned).items()})
        self._stale = False

    def _starts(self, partitions: Sequence[int]) -> dict[int, Start]:
        """Where these partitions start; one that never had a checkpoint gets its first with the next transaction."""
        starts = self._start(self.member, partitions)
        self._positions.update({partition: (begin.offset, begin.totals) for partition, begin in starts.items()})
        self.metrics.assigned({partition: begin.offset for partition, begin in starts.items()})
        first = {partition: self._positions[partition] for partition, begin in starts.items() if not begin.recorded}
        if first:
            self._take_incarnation()
            self._queue.append(Batch(first, self._clock.monotonic()))
        return starts

    def _note(self, error: BaseException) -> None:
        """An error that is being dealt with: the worker is alive, and its metrics tell."""
        self._beat()
        self.metrics.retries += 1
        self.metrics.in_doubt += isinstance(error, InDoubt)
        self.metrics.last_error = str(error)
