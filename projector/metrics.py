"""What one worker has seen and done since it started."""

from dataclasses import dataclass

from projector.balance import Totals


@dataclass(slots=True)
class Metrics:
    """Counters of one process; verdicts are those of the batches that it committed."""

    consumed: int = 0
    counted: int = 0
    duplicate: int = 0
    parked: int = 0
    rejected: int = 0
    transactions: int = 0
    retries: int = 0
    in_doubt: int = 0
    fenced: int = 0
    incarnation_changes: int = 0
    queues_dropped: int = 0
    assignments: int = 0
    last_error: str = ""

    def add(self, verdicts: Totals) -> None:
        """A batch was committed."""
        self.consumed += verdicts.consumed
        self.counted += verdicts.counted
        self.duplicate += verdicts.duplicate
        self.parked += verdicts.parked
        self.rejected += verdicts.rejected
