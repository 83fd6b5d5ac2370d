"""The rules of the pointer row and the cutover, broken one at a time: the world of generations must see each.

python -m tests.fault.cutover_mutations            # all; or names
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from projector import pointer
from projector.cutover import Cutover
from projector.errors import Superseded
from projector.following import Watch
from projector.last_word import LastWord
from projector.muted import MutedProjector
from projector.pointer import Closing, Entry, Pointer, PointerRow
from projector.projector import Projector
from tests.fault.generations import run

SEEDS_MAX = 400
Patch = pytest.MonkeyPatch


def flip_on_a_nonce_read_again(patch: Patch) -> None:
    """The flip compares with whatever nonce it reads now, as long as the old generation is live."""
    flip = PointerRow.flip

    def again(self: PointerRow, own: Closing, entry: Entry) -> Pointer:
        now = self._read()
        return flip(self, Closing(now) if now.live == own.pointer.live else own, entry)

    patch.setattr(PointerRow, "flip", again)


def worker_acts_on_an_unsettled_pointer(patch: Patch) -> None:
    """Whatever a worker reads is good enough."""
    read = Watch._read

    def hasty(self: Watch) -> Pointer:
        self.pointer = replace(read(self), settled=True)
        return self.pointer

    patch.setattr(Watch, "_read", hasty)


def operator_believes_an_acknowledgement(patch: Patch) -> None:
    """A change counts as soon as it is read back, settled or not."""

    def hasty(self: PointerRow, seen: Pointer, changed: Pointer) -> Pointer:
        changed = replace(changed, nonce=pointer._new_nonce())
        self._store.write([pointer._write(seen, changed)])
        if self._read().nonce != changed.nonce:
            raise Superseded
        return changed

    patch.setattr(PointerRow, "_changed", hasty)


def pointer_that_waits_for_a_device_is_settled(patch: Patch) -> None:
    """Old enough is enough, although the device has not taken it."""
    patch.setattr(PointerRow, "read", PointerRow._read)


def nonces_that_come_back(patch: Patch) -> None:
    """As a row version does after a crash of the store."""
    patch.setattr(pointer, "_new_nonce", lambda: random.SystemRandom().randrange(1, 4))


def no_second_look_after_joining(patch: Patch) -> None:
    """What the pointer said before the worker joined is taken for what it says after."""
    patch.setattr(Watch, "admits", lambda *_: True)


def muted_without_a_bound(patch: Patch) -> None:
    """A muted worker reads to the end."""
    patch.setattr(MutedProjector, "_poll", Projector._poll)
    patch.setattr(MutedProjector, "_at_end", lambda _: False)
    patch.setattr(MutedProjector, "_reached", Projector._reached)


def muted_with_a_voice(patch: Patch) -> None:
    """A muted worker sends its messages."""
    patch.setattr(MutedProjector, "_messages", Projector._messages)


def flip_before_the_group_is_empty(patch: Patch) -> None:
    """The operator does not wait for the workers of the old generation."""
    wait = Cutover._wait

    def impatient(self: Cutover, own: Closing, done: Callable[[], bool], trouble: str) -> None:
        if not trouble.endswith("stay"):
            wait(self, own, done, trouble)

    patch.setattr(Cutover, "_wait", impatient)


def flip_before_the_muted_caught_up(patch: Patch) -> None:
    """The operator does not wait for the final checkpoint, and does not look."""
    patch.setattr(Cutover, "_caught_up", lambda *_: True)
    init = Cutover.__init__

    def blind(self: Cutover, *arguments: object, **options: object) -> None:
        init(self, *arguments, **options)  # type: ignore[arg-type]  # as given
        self._compare = lambda *_: []

    patch.setattr(Cutover, "__init__", blind)


def epoch_not_raised_at_rollback(patch: Patch) -> None:
    """A flip back to generation 1 keeps the epoch."""
    flip = PointerRow.flip

    def flat(self: PointerRow, own: Closing, entry: Entry) -> Pointer:
        if entry.after != 1:
            return flip(self, own, entry)
        lower = Closing(replace(own.pointer, epoch=own.pointer.epoch - 1))
        return flip(self, lower, entry._replace(epoch=own.pointer.epoch))

    patch.setattr(PointerRow, "flip", flat)


def nothing_published_after_a_flip(patch: Patch) -> None:
    """No sweep on an assignment."""
    patch.setattr(LastWord, "assigned", lambda _: None)


MUTATIONS: Sequence[Callable[[Patch], None]] = (
    flip_on_a_nonce_read_again,
    worker_acts_on_an_unsettled_pointer,
    operator_believes_an_acknowledgement,
    pointer_that_waits_for_a_device_is_settled,
    nonces_that_come_back,
    no_second_look_after_joining,
    muted_without_a_bound,
    muted_with_a_voice,
    flip_before_the_group_is_empty,
    flip_before_the_muted_caught_up,
    epoch_not_raised_at_rollback,
    nothing_published_after_a_flip,
)


def caught(mutation: Callable[[Patch], None], seeds_max: int = SEEDS_MAX) -> str | None:
    """What the first seed that sees it says; None if it survives."""
    for seed in range(seeds_max):
        for jobs in (None, ((2, 1),)):
            with pytest.MonkeyPatch.context() as patch:
                mutation(patch)
                try:
                    run(seed, jobs=jobs)
                except AssertionError as error:
                    return str(error).splitlines()[0]
    return None


if __name__ == "__main__":
    names = sys.argv[1:]
    for each in MUTATIONS:
        if not names or each.__name__ in names:
            print(f"{each.__name__}: {(caught(each, 60) or 'SURVIVES')[:200]}", flush=True)
