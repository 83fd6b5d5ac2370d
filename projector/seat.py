"""Seat: a command in a consumer group, to commit a checkpoint there as a worker would. It reads no record."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from projector.clock import Clock
from projector.errors import Refused
from projector.log import Listener, Log, Member
from projector.patience import Patience

JOIN_S = 90.0


class Seat(Listener):
    """A slot of its own in `group`; one that was killed in it finds it again."""

    def __init__(self, log: Log, group: str, topic: str, slot: str, patience: Patience, clock: Clock) -> None:
        self._log = log
        self._group = group
        self._topic = topic
        self._slot = slot
        self._patience = patience
        self._clock = clock
        self._starts: Mapping[int, int] = {}

    def others(self) -> list[str]:
        """The members of the group but for this one. Raises `Retryable`."""
        return sorted(set(self._members()) - {self._name})

    @contextmanager
    def held(self, partitions: Collection[int]) -> Iterator[Member]:
        """A member that has these partitions; closed after it, but for the place, which `leave` gives up.

        Raises `Refused` where other members have them, and as members do.
        """
        self._starts = self._patience(lambda: self._log.heads(self._topic))
        member = self._join()
        try:
            self._await(member, partitions)
            yield member
        finally:
            member.close()

    def leave(self) -> None:
        """Give up the place in the group, if it is there, from now or from a run that was killed."""
        if self._name not in self._members():
            return
        member = self._join()
        try:
            self._patience(member.leave)
        finally:
            member.close()

    @property
    def _name(self) -> str:
        return f"{self._group}-{self._slot}"

    def _members(self) -> list[str]:
        return self._patience(lambda: self._log.members(self._group))

    def _join(self) -> Member:
        return self._patience(lambda: self._log.join(self._group, self._topic, self._slot, self))

    def _await(self, member: Member, partitions: Collection[int]) -> None:
        member.pause(True)
        deadline = self._clock.monotonic() + JOIN_S
        while not set(partitions) <= member.positions().keys():
            if self._clock.monotonic() > deadline:
                raise Refused(f"group {self._group} has other members: stop its workers first")
            member.poll(1, 100)

    # --- the listener

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """At the heads; nothing is read."""
        return {partition: self._starts[partition] for partition in partitions}

    def revoked(self, partitions: Sequence[int]) -> None:
        """Nothing is in hand."""

    def lost(self, partitions: Sequence[int]) -> None:
        """Nothing is in hand."""
