"""The queue of applied batches."""

import pytest

from projector import batch
from projector.balance import Totals
from projector.batch import Batch, Queue
from projector.log import Message


def quarantined(size: int) -> Batch:
    """A batch with so many bytes to quarantine."""
    return Batch({}, 0.0, quarantined=[Message("q", None, b"x" * size)])


def test_oldest_first() -> None:
    """Batches leave in the order in which they came."""
    queue = Queue(100)
    batches = [Batch({0: (n, None)}, float(n)) for n in range(4)]
    for each in batches:
        queue.append(each)
    queue.remove(2)
    assert list(queue) == batches[2:]


def test_full_by_records() -> None:
    """As many records as 10 full batches have, in more batches if they are smaller; room again after a commit."""
    queue = Queue(100)
    for _ in range(20):
        assert not queue.full
        queue.append(Batch({}, 0.0, verdicts=Totals(consumed=50, counted=50)))
    assert queue.full
    queue.remove(1)
    assert not queue.full
    queue.clear()
    assert not queue.full


def test_full_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few large batches fill it as well, and empty it again."""
    monkeypatch.setattr(batch, "BYTES_MAX", 10_000)
    queue = Queue(100)
    queue.append(quarantined(6_000))
    assert not queue.full
    queue.append(quarantined(6_000))
    assert queue.full
    queue.clear()
    assert not queue.full
    assert len(queue) == 0
