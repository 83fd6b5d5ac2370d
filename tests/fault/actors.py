"""Processes of a world of generations: each stops before every call to the log, and may be killed there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from projector.errors import Fenced, Retryable
from projector.log import Listener, Member, Message, Offset, Record
from projector.store import StoreState
from tests.fault.grouped_log import GroupedLog
from tests.fault.stepped import CrashError, Stepped, SteppedStore


class Surroundings(Protocol):
    """What an actor needs of its world."""

    now: float

    def dawdle(self, actor: "Actor") -> None:
        """Called before it joins a group."""
        ...

    def before_state(self) -> None:
        """Called before it asks for the store's incarnation."""
        ...

    def committing(self, actor: "Actor", group: str, offsets: Mapping[int, Offset]) -> None:
        """Called before it commits."""
        ...

    def committed(self, actor: "Actor", group: str) -> None:
        """Called once that is done."""
        ...


class Actor(Stepped):
    """A process: `role` is "live", "muted" or "operator"."""

    def __init__(self, world: Surroundings, name: str, role: str, body: Callable[["Actor"], None]) -> None:
        self.world = world
        self.role = role
        self.wake = world.now
        self.stopping = False
        self.seats: set[tuple[str, str]] = set()
        super().__init__(name, lambda _: body(self))

    def wait(self) -> None:
        """A dead process makes no call at all."""
        if self._crashed:
            raise CrashError
        super().wait()

    def monotonic(self) -> float:
        """The clock that all share."""
        return self.world.now

    def sleep(self, seconds: float) -> None:
        """Nothing until then."""
        self.wake = self.world.now + seconds
        self.wait()


class ActorStore(SteppedStore):
    """The store as one actor meets it; it may crash right before it is asked for its incarnation."""

    def state(self) -> StoreState:
        assert isinstance(self._worker, Actor)
        self._worker.world.before_state()
        return super().state()


class ActorLog:
    """The log as one actor meets it."""

    def __init__(self, log: GroupedLog, actor: Actor) -> None:
        self._log = log
        self._actor = actor

    def _stop(self) -> None:
        self._actor.wait()
        self._actor.calls += 1
        fault, self._actor.fault = self._actor.fault, None
        if fault:
            raise Retryable("no answer")

    def join(self, group: str, topic: str, slot: str, listener: Listener) -> "ActorMember":
        self._stop()
        self._actor.world.dawdle(self._actor)
        member = self._log.join(group, topic, slot, listener)
        self._actor.seats.add((group, slot))
        return ActorMember(member, self._actor, (group, slot))

    def heads(self, topic: str) -> dict[int, int]:
        return self._log.heads(topic)

    def ends(self, topic: str) -> dict[int, int]:
        return self._log.ends(topic)

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:
        self._stop()
        return self._log.checkpoint(group, topic)

    def members(self, group: str) -> list[str]:
        self._stop()
        return self._log.members(group)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class ActorMember:
    """A place in a group; a commit may succeed without its answer."""

    def __init__(self, member: Member, actor: Actor, seat: tuple[str, str]) -> None:
        self._member = member
        self._actor = actor
        self._seat = seat

    def _stop(self) -> bool:
        self._actor.wait()
        self._actor.calls += 1
        fault, self._actor.fault = self._actor.fault, None
        return fault is not None

    def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        if self._stop():
            return []
        return self._member.poll(records_max, timeout_ms)

    def positions(self) -> Mapping[int, int]:
        return self._member.positions()

    def committed(self, partitions: Sequence[int]) -> dict[int, Offset | None]:
        if self._stop():
            raise Retryable("no answer")
        return self._member.committed(partitions)

    def seek(self, offsets: Mapping[int, int]) -> None:
        self._member.seek(offsets)

    def pause(self, paused: bool) -> None:
        self._member.pause(paused)

    def commit(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        lost = self._stop()
        self._actor.world.committing(self._actor, self._seat[0], offsets)
        self._member.commit(messages, offsets)
        self._actor.world.committed(self._actor, self._seat[0])
        if lost:
            raise Fenced("outcome unknown")

    def renew(self) -> None:
        if self._stop():
            raise Retryable("no answer")
        self._member.renew()

    def leave(self) -> None:
        self._stop()
        self._member.leave()
        self._actor.seats.discard(self._seat)

    def close(self) -> None:
        self._member.close()
