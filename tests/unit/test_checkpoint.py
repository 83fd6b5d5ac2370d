"""Where a worker starts: never at the end, never over again, never past what is gone, unless somebody says so."""

import pytest

from projector.balance import Totals
from projector.checkpoint import Copies, Start, start
from projector.errors import OffsetsGone, Retryable
from projector.generation import Generation
from projector.log import Offset
from projector.patience import Patience
from projector.store import Answer, Outcome, Write
from tests.fault.memory_store import MemoryStore

TOTALS = Totals(consumed=5, counted=5)
AT_5 = Offset(5, TOTALS.metadata())


def begin(
    committed: Offset | None,
    copy: Offset | None = None,
    head: int = 0,
    end: int = 9,
    accept_head: bool = False,
    restore: bool = False,
) -> Start:
    """A partition with records 0 to 9."""
    return start(3, committed, copy, head, end, accept_head, restore)


def test_the_checkpoint_decides() -> None:
    """Its offset and its totals, whatever the copy says."""
    assert begin(AT_5, Offset(7, "")) == Start(5, TOTALS, recorded=True)
    assert begin(AT_5, head=5, end=5) == Start(5, TOTALS, recorded=True)


def test_a_new_group_starts_at_offset_0() -> None:
    """With totals of zero, and its first checkpoint to be made."""
    assert begin(None) == Start(0, Totals(), recorded=False)


def test_a_checkpoint_of_another_tool_has_no_totals() -> None:
    """Unknown; but for offset 0 of a whole topic, where they are zero."""
    assert begin(Offset(5, "")).totals is None
    assert begin(Offset(0, "")).totals == Totals()
    assert begin(Offset(0, "text")).totals is None


@pytest.mark.parametrize(
    ("committed", "copy", "head", "way_out"),
    [
        (None, None, 4, "--accept-head"),
        (None, AT_5, 0, "--restore-checkpoint"),
        (AT_5, None, 6, "offsets 5 to 5 are not counted"),
        (Offset(10, ""), None, 0, "not the topic that was counted"),
    ],
)
def test_what_is_gone_stops_it(committed: Offset | None, copy: Offset | None, head: int, way_out: str) -> None:
    """One line that names partition, offsets and the way out."""
    with pytest.raises(OffsetsGone, match=way_out) as raised:
        begin(committed, copy, head)
    assert raised.value.exit_code == 5
    assert "partition 3" in str(raised.value)


def test_an_operator_accepts_the_head() -> None:
    """What is gone is gone; the totals stay with what they counted."""
    assert begin(None, head=4, accept_head=True) == Start(4, Totals(), recorded=False)
    assert begin(AT_5, head=6, accept_head=True) == Start(6, TOTALS, recorded=False)


def test_no_flag_accepts_another_topic() -> None:
    """An offset beyond the end is no gap."""
    with pytest.raises(OffsetsGone):
        begin(Offset(10, ""), accept_head=True, restore=True)


def test_an_operator_restores_the_copy() -> None:
    """Only where Kafka has no checkpoint."""
    assert begin(None, AT_5, restore=True) == Start(5, TOTALS, recorded=False)
    assert begin(Offset(7, ""), AT_5, restore=True).offset == 7
    assert begin(None, None, restore=True) == Start(0, Totals(), recorded=False)


def test_copies_come_back_by_generation_and_partition() -> None:
    """A later copy replaces an earlier one; those that are not there are left out."""
    store = MemoryStore(lambda: 0.0)
    copies = Copies(store, Generation(1, "projector"), Patience(0.0))
    copies.write({0: Offset(1, ""), 3: AT_5})
    copies.write({0: Offset(2, "m")})
    assert copies.read([0, 1, 3]) == {0: Offset(2, "m"), 3: AT_5}
    assert Copies(store, Generation(2, "projector"), Patience(0.0)).read([0, 3]) == {}


def test_a_copy_that_fails_says_so() -> None:
    """At one attempt: the next commit writes it again."""

    class Away(MemoryStore):
        def _write(self, write: Write) -> Answer:
            return Answer(Outcome.FAILED, error=Retryable(f"{write.row}: away"))

    with pytest.raises(Retryable, match="away"):
        Copies(Away(lambda: 0.0), Generation(1, "projector"), Patience(0.0)).write({0: AT_5})
