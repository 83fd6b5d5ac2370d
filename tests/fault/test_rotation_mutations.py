"""Each rule of rotation, broken on purpose, must turn the model test red; one that survives guards nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from projector import chain as chain_module
from projector.chain import Chain, Chains, Stage
from projector.fold import EventId, Sighting
from projector.ledger import Ledger, _judge, _Work
from projector.page import page_key
from projector.store import Answer, BinEqual, Outcome, Read, Write
from tests.fault.stepped import SteppedStore
from tests.fault.test_rotation import run_random

SEEDS = 1_500


def no_filter_on_seal(patch: pytest.MonkeyPatch) -> None:
    """Writes apply whatever the row's seal is."""
    send = SteppedStore.write

    def write(self: SteppedStore, writes: Sequence[Write]) -> list[Answer]:
        kept = [
            each._replace(conditions=[c for c in each.conditions if not (isinstance(c, BinEqual) and c.bin == "seal")])
            for each in writes
        ]
        return send(self, kept)

    patch.setattr(SteppedStore, "write", write)


def pages_keyed_by_number(patch: pytest.MonkeyPatch) -> None:
    """A page is named by its number in the chain, so that one key may get two contents."""
    patch.setattr(Chains, "new_seal", lambda self: len(self._chains[7].pages) + 1)


def cleared_before_settled(patch: pytest.MonkeyPatch) -> None:
    """`sealed` may go as soon as its page was acknowledged."""

    def settle(self: Chains, campaigns: Iterable[int]) -> None:
        for campaign in campaigns:
            chain = self._chains.get(campaign)
            if chain and chain.stage is Stage.WRITTEN:
                chain.stage = Stage.SETTLED

    patch.setattr(Chains, "settle", settle)


def settled_by_the_workers_timer(patch: pytest.MonkeyPatch) -> None:
    """`sealed` may go when the worker has waited long enough since it wrote the page."""

    def settle(self: Chains, campaigns: Iterable[int]) -> None:
        for campaign in campaigns:
            chain = self._chains.get(campaign)
            wait_s = self._settling.settle_ms / 1000
            if chain and chain.stage is Stage.WRITTEN and self._clock() >= chain.written_at + wait_s:
                chain.stage = Stage.SETTLED

    patch.setattr(Chains, "settle", settle)


def retried_with_the_same_seal(patch: pytest.MonkeyPatch) -> None:
    """A rotation that got no answer is tried again under the seal that it had."""
    new = Chains.new_seal

    def keep(self: Chains) -> int:
        kept: dict[int, int] = self.__dict__.setdefault("kept", {})
        return kept.setdefault(self._chains[7].seal, new(self))

    patch.setattr(Chains, "new_seal", keep)


def sealed_not_indexed(patch: pytest.MonkeyPatch) -> None:
    """The prints of the page in `sealed` are left out of the index."""
    patch.setattr(chain_module, "packed", lambda _prints: b"")


def memory_trusted(patch: pytest.MonkeyPatch) -> None:
    """What the worker remembers to have put is a duplicate without an exact read."""
    take, look_up = Ledger._take, Ledger._look_up

    def remember(self: Ledger, campaign: int, item: _Work, ids: dict[EventId, Sighting], answer: Answer) -> None:
        if answer.outcome is Outcome.APPLIED:
            memory: dict[EventId, Sighting] = self.__dict__.setdefault("memory", {})
            memory.update(ids)
            self.__dict__["stats"] = answer.bins["stats"]
        take(self, campaign, item, ids, answer)

    def trust(self: Ledger, work: dict[int, _Work]) -> None:
        memory = self.__dict__.get("memory", {})
        for item in work.values():
            for event_id in [each for each in item.left if each in memory]:
                item.held[event_id] = memory[event_id]
                _judge(item.judgement, item.left.pop(event_id), memory[event_id])
                item.judgement.stats = self.__dict__["stats"]
        look_up(self, work)

    patch.setattr(Ledger, "_take", remember)
    patch.setattr(Ledger, "_look_up", trust)
    # The store's crash is noticed late: what was remembered is not dropped with the caches.


def no_reload(patch: pytest.MonkeyPatch) -> None:
    """A worker whose seal is not the row's takes over the new one without loading what is behind it."""
    load = Chains.load

    def adopt_seal(self: Chains, campaigns: Iterable[int]) -> dict[int, str]:
        asked = list(campaigns)
        for campaign in asked:
            chain = self._chains.get(campaign)
            if chain and chain.stale:
                (row,) = self._store.read([Read(self.row(campaign), ("seal",))])
                if row is not None:
                    chain.seal, chain.stale, chain.stage = row.bins["seal"], False, Stage.WRITTEN
        return load(self, asked)

    patch.setattr(Chains, "load", adopt_seal)


def seconds_exclude_a_page(patch: pytest.MonkeyPatch) -> None:
    """A page is not looked into for an event of a second outside of its range."""
    asked = Ledger._asked

    def within(self: Ledger, work: dict[int, _Work]) -> Any:
        narrowed = {}
        for campaign, (seen, by_page) in asked(self, work).items():
            kept: dict[int, list[EventId]] = {}
            for seal, ids in by_page.items():
                (page,) = self._store.read([Read(page_key(self._pages, campaign, seal), ("first", "last"))])
                for event_id in ids:
                    second = work[campaign].left[event_id][1]
                    if page is None or page.bins["first"] <= second <= page.bins["last"]:
                        kept.setdefault(seal, []).append(event_id)
            if seen or kept:
                narrowed[campaign] = (seen, kept)
        return narrowed

    patch.setattr(Ledger, "_asked", within)


MUTATIONS: Mapping[Callable[[pytest.MonkeyPatch], None], bool] = {
    no_filter_on_seal: False,
    pages_keyed_by_number: True,
    cleared_before_settled: True,
    settled_by_the_workers_timer: True,
    retried_with_the_same_seal: True,
    sealed_not_indexed: False,
    memory_trusted: True,
    no_reload: False,
    seconds_exclude_a_page: False,
}
"""With the kind of world in which it shows: whether the store forgets."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_rule_is_caught(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model test fails within some seeds."""
    assert Chain.__slots__  # the mutations below reach into these classes
    mutation(monkeypatch)
    for seed in range(SEEDS):
        try:
            run_random(seed, MUTATIONS[mutation])
        except Exception as error:
            print(f"{mutation.__name__}: caught at seed {seed}: {type(error).__name__}: {str(error)[:100]}")
            return
        except pytest.fail.Exception:
            print(f"{mutation.__name__}: caught at seed {seed}: stuck")
            return
    pytest.fail(f"{mutation.__name__} survives {SEEDS} seeds")
