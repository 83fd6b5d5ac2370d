"""Amendment: ids that a command counts beside the loop, through the same ledger as everything else."""

from collections.abc import Mapping

from projector.batch import Batch
from projector.chain import Chains
from projector.clock import Clock
from projector.config import Config
from projector.errors import Refused, Retryable
from projector.fold import Change
from projector.generation import Generation
from projector.ledger import Judgement, Ledger, row_bound
from projector.patience import Patience
from projector.settling import Settling, settle_seconds
from projector.store import Store

SETTLE_S = 20.0
PAUSE_S = 0.02


class Forgotten(Retryable):
    """The store may have forgotten what was amended: amend it again from the beginning."""


class Amendment:
    """A generation's ledger in the hands of a command. `renew` first; nothing rests on the rest before `settle`."""

    def __init__(self, store: Store, config: Config, generation: Generation, patience: Patience, clock: Clock) -> None:
        """Raises `Misconfigured` for a store that cannot keep a write, and `Retryable`."""
        self._clock = clock
        settle_s = patience(lambda: settle_seconds(store, config.settle_ms, config.allow_volatile_store))
        self._settling = Settling(store, settle_s, patience, clock.monotonic)
        chains = Chains(
            store, generation, patience, self._settling, clock.monotonic, config.page_ids, config.index_mib_max << 20
        )
        row_bytes_max = row_bound(store, config.row_bytes_max)
        self._ledger = Ledger(store, chains, generation.pages, patience, row_bytes_max, clock.sleep)

    def renew(self) -> None:
        """Begin anew: rest on what the store says from now on. Raises `Retryable`."""
        self._settling.renew()
        self._ledger.forget()

    def apply(self, changes: Mapping[int, Change]) -> dict[int, Judgement]:
        """Count what is new; ids that are there add nothing. Raises `Refused` where a campaign may not count, and as
        the ledger does.
        """
        judgements = self._ledger.apply(changes)
        for campaign, judgement in judgements.items():
            if judgement.reason:
                self.settle()
                raise Refused(f"campaign {campaign}: {judgement.reason}: create or adopt it first")
        return judgements

    def settle(self) -> None:
        """Wait until the store can no longer forget what was written and read. Raises `Forgotten` if it may have."""
        batch = Batch({}, self._clock.monotonic())
        deadline = self._clock.monotonic() + self._settling.settle_ms / 1000 + SETTLE_S
        while (settled := self._settling.settled([batch])) == 0:
            if self._clock.monotonic() > deadline:
                raise Retryable("the store does not settle: its device does not keep up with the writes")
            self._clock.sleep(PAUSE_S)
        if settled is None:
            raise Forgotten("the store was restarted and may have forgotten")
