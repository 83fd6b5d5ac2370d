"""Rewind: everything is read again, nothing is counted again, what the store lost is counted, readers converge."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.balance import Totals, read_balance
from projector.checkpoint import Copies
from projector.config import Config
from projector.errors import Refused, Retryable
from projector.generation import Generation
from projector.log import Offset
from projector.patience import Patience, patiently
from projector.pointer import OPEN, PointerRow, create_pointer
from projector.projector import Projector
from projector.rewind import Rewound, rewind
from projector.store import Clear, Put, RowKey, Write
from tests.fault.oracle import INPUT, KPI
from tests.fault.script import prepare, recount

FIRST = Generation(1, "projector")


class Place:
    """One file with the records of the script; `count` runs one worker to the end."""

    def __init__(self, path: Path) -> None:
        self.log, self.store = EmbeddedLog(path), EmbeddedStore(path)
        self.config = Config()
        prepare(self.log, self.store)
        create_pointer(self.store, "id")
        self.row = PointerRow(self.store, 0)

    def count(self) -> None:
        worker = Projector(self.log, self.store, self.config, FIRST, self.row.settled().epoch, "a", 0)
        worker.run(True, lambda: False)

    def rewind(self) -> Rewound:
        return rewind(self.row, self.log, self.store, self.config, who="me", why="to see")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "projector.db")


def test_nothing_is_counted_again(place: Place) -> None:
    """Offsets and totals begin at 0; read again, rows and totals are what they were; it is told in the history."""
    place.count()
    recount(place.log, place.store)
    rewound = place.rewind()
    assert rewound.before == place.log.ends(INPUT)
    assert place.log.checkpoint("projector", INPUT) == {p: Offset(0, Totals().metadata()) for p in (0, 1)}
    assert Copies(place.store, FIRST, patiently).read([0])[0].offset == 0
    assert (rewound.pointer.live, rewound.pointer.state, rewound.pointer.epoch) == (1, OPEN, 2)
    (entry,) = rewound.pointer.entries
    assert (entry.what, entry.who, entry.before, entry.after, entry.checkpoint) == (
        "rewind",
        "me",
        1,
        1,
        rewound.before,
    )
    place.count()
    recount(place.log, place.store)
    assert read_balance(place.log, place.store, place.config, FIRST).holds


def test_a_row_that_the_store_lost_is_healed(place: Place) -> None:
    """Its ids are counted again; readers that keep the highest (epoch, rev) see the row, though its rev is lower."""
    place.count()
    lost = [Put("stats", dict.fromkeys(("visits", "impressions", "clicks", "conversions"), 0)), Put("rev", 0)]
    place.store.write([Write(RowKey("campaigns", 1), [*lost, Clear("seen"), Clear("sealed")])])
    assert not read_balance(place.log, place.store, place.config, FIRST).holds
    place.rewind()
    place.count()
    recount(place.log, place.store)
    told = [json.loads(record.value or b"") for page in place.log.read(KPI) for record in page]
    assert {each["epoch"] for each in told} == {1, 2}
    best = max((each for each in told if each["campaignId"] == 1), key=lambda each: (each["epoch"], each["rev"]))
    assert (best["epoch"], best["value"]) == (2, 1)


def test_refused_while_there_are_workers(place: Place) -> None:
    """Named, and nothing has happened."""
    place.count()
    before = place.log.checkpoint("projector", INPUT), place.row.settled()
    worker = Projector(place.log, place.store, place.config, FIRST, 1, "b", 0)
    worker.join()
    with pytest.raises(Refused, match="stop projector-b first"):
        place.rewind()
    assert (place.log.checkpoint("projector", INPUT), place.row.settled()) == before


def test_refused_where_retention_was(place: Place) -> None:
    """The partitions and their first offsets are named."""
    place.count()
    place.log.delete_before(INPUT, {1: 3})
    with pytest.raises(Refused, match=r"first offsets \{1: 3\}"):
        place.rewind()
    assert place.row.settled().epoch == 1


def test_interrupted_it_is_done_by_doing_it_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation is open again at once, in a higher epoch, and the second attempt completes."""
    place.count()

    def fail(group: str, topic: str, offsets: Mapping[int, Offset]) -> None:  # noqa: ARG001  # the port's
        raise Retryable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(place.log, "set_checkpoint", fail)
        with pytest.raises(Retryable):
            rewind(place.row, place.log, place.store, place.config, who="me", patience=Patience(0))
    assert (place.row.settled().state, place.row.settled().epoch) == (OPEN, 2)
    assert place.rewind().pointer.epoch == 3
    place.count()
    recount(place.log, place.store)
