"""Prints and their index: small, fast, and never missing an id that is there."""

import random
import uuid

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from projector.prints import RUN_MAX, Index, packed, prints

IDS = st.one_of(st.binary(min_size=16, max_size=16), st.text(min_size=1, max_size=128))


def uuid7(number: int) -> bytes:
    """Ids of one millisecond, one after the other, as UUIDv7 are made in a hurry."""
    return (0x018F_0000_0000 + number // 1000).to_bytes(6) + b"\x70\x00\x80\x00" + number.to_bytes(6)


@given(st.lists(st.lists(IDS, min_size=1, max_size=20, unique=True), min_size=1, max_size=30))
def test_every_indexed_id_has_its_page_among_the_candidates(pages: list[list[bytes | str]]) -> None:
    """A candidate may be wrong, a page may never be missing."""
    index = Index()
    for number, ids in enumerate(pages):
        index.add([(number, packed(prints(ids)))])
    for number, ids in enumerate(pages):
        assert {(position, number) for position in range(len(ids))} <= set(index.candidates(prints(ids)))


def test_prints_of_uuid7_do_not_collapse() -> None:
    """All bytes of an id take part, so ids that share their beginning have different prints."""
    ids = [uuid7(number) for number in range(100_000)]
    assert len(np.unique(prints(ids))) > 99_990


def test_prints_are_the_same_for_ever() -> None:
    """They stand in pages on disk: another version of this program must make the same ones."""
    assert prints([uuid.UUID(int=1).bytes, "order-4711", "\u00e9"]).tolist() == [1992487659, 2642033233, 1457332392]


def test_unknown_ids_are_rarely_candidates() -> None:
    """Of 10,000 foreign ids against 100,000 indexed ones, a handful at most."""
    rng = random.Random(5)
    index = Index()
    for number in range(100):
        index.add([(number, packed(prints([rng.randbytes(16) for _ in range(1_000)])))])
    assert len(index.candidates(prints([rng.randbytes(16) for _ in range(10_000)]))) < 10


def test_the_index_takes_8_bytes_an_id_and_no_run_grows_beyond_its_bound() -> None:
    """Merging stays short however many ids a campaign has."""
    rng = random.Random(6)
    index = Index()
    blob = np.sort(np.frombuffer(rng.randbytes(4 * 100_000), "<u4")).tobytes()
    index.add([(number, blob) for number in range(50)])
    for number in range(50, 60):
        index.add([(number, blob)])
    assert len(index) == 6_000_000
    assert index.memory_bytes == 8 * 6_000_000
    assert max(len(run) for run in index._runs) <= RUN_MAX
