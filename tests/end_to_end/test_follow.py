"""Workers follow a cutover and a rollback under traffic, in the same processes, and nothing is lost or doubled."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

from projector.backends import open_log, open_store
from projector.cutover import Cutover, Ending
from projector.following import Watch, build
from projector.generation import Generation
from projector.muted import MutedProjector
from projector.pointer import PointerRow
from projector.settling import settle_seconds
from projector.store import Presence, Put, Read, RowKey, Store, Write
from tests.end_to_end import oracle
from tests.end_to_end.harness import Pipeline, wait_until


def _make_rows(store: Store, generation: Generation) -> None:
    """The campaigns of the first generation, with nothing counted."""
    for page in store.scan("campaigns", ["c-id", "c-date", "c-name"]):
        for row in page:
            operations = [Put(name, value) for name, value in row.bins.items()]
            store.write([Write(RowKey(generation.campaigns, row.bins["c-id"]), operations, Presence.EITHER)])


def _ids(store: Store, generation: Generation) -> dict[tuple[int, bytes | str], Sequence[int]]:
    """Each id that a generation counted, with where and as what."""
    found: dict[tuple[int, bytes | str], Sequence[int]] = {}
    for page in store.scan(generation.campaigns, ["c-id", "seen", "sealed", "seal", "prev"]):
        for row in page:
            campaign, bins = row.bins["c-id"], row.bins
            seal = bins.get("prev", 0) if bins.get("sealed") else bins.get("seal", 0)
            held = [bins.get("seen", {}), bins.get("sealed", {})]
            while seal:
                (archived,) = store.read([Read(RowKey(generation.pages, f"{campaign}/{seal:016x}"), ("ids", "before"))])
                assert archived is not None
                held.append(archived.bins["ids"])
                seal = next(iter(archived.bins["before"]), 0)
            found |= {(campaign, event_id): sighting for ids in held for event_id, sighting in ids.items()}
    return found


@contextmanager
def _built(pipeline: Pipeline, number: int) -> Iterator[None]:
    """A muted worker of that generation, in a thread with connections of its own."""
    stopped = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with closing(open_log(pipeline.config)) as log, closing(open_store(pipeline.config)) as store:
                settle_s = settle_seconds(store, pipeline.config.settle_ms, pipeline.config.allow_volatile_store)

                def make(
                    generation: Generation, bound: Callable[[], Mapping[int, int]], admitted: Callable[[], bool]
                ) -> MutedProjector:
                    return MutedProjector(
                        log, store, pipeline.config, generation, "muted", settle_s, bound=bound, admitted=admitted
                    )

                build(Watch(PointerRow(store, settle_s)), log, pipeline.config, number, make, stopped.is_set)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    stopped.set()
    thread.join(60)
    assert not thread.is_alive()
    assert not failed, failed[0]


def _switch(pipeline: Pipeline, number: int) -> None:
    """Make that generation live, with a muted worker beside."""
    told = oracle.publications(pipeline.bootstrap, pipeline.kpi_topic)
    with (
        _built(pipeline, number),
        closing(open_log(pipeline.config)) as log,
        closing(open_store(pipeline.config)) as store,
    ):
        settle_s = settle_seconds(store, pipeline.config.settle_ms, pipeline.config.allow_volatile_store)
        group = Generation(number, pipeline.group).group

        def near() -> bool:
            there = log.checkpoint(group, pipeline.input_topic)
            return sum(each.offset for each in there.values()) > pipeline.committed() * 0.9

        wait_until(near, "the muted generation is near")
        begun = time.monotonic()

        def compare(old: Generation, new: Generation, final: Mapping[int, int]) -> Sequence[object]:
            first, second = _ids(store, old), _ids(store, new)
            where = {**first, **second}
            # A commit that a rebalance fenced leaves ids behind that were applied past the checkpoint.
            return [each for each in first.keys() ^ second.keys() if where[each][3] < final.get(where[each][2], 0)]

        done = Cutover(
            PointerRow(store, settle_s), log, pipeline.config, number, lambda _: None, compare, who="test"
        ).run()
        assert done.ending is Ending.SWITCHED, done.differences
        print(f"from closing to settled: {time.monotonic() - begun:.2f} s")

        def published() -> bool:
            now = oracle.publications(pipeline.bootstrap, pipeline.kpi_topic)
            return all(now[cell][-1].epoch == done.pointer.epoch for cell in told)

        wait_until(published, "every total is published under the new epoch")
        print(f"from closing to published: {time.monotonic() - begun:.2f} s")


def test_there_and_back(either: Pipeline) -> None:
    """Two workers, a cutover and a rollback at 1,000 events/s: the same processes, and every number is exact."""
    with closing(open_store(either.config)) as store:
        _make_rows(store, Generation(2, either.group))
    either.produce(either.traffic.take(5_000))
    workers = [either.start("--slot", slot) for slot in "ab"]
    either.wait_committed(5_000, *workers)
    feed = either.feed(1_000, either.traffic.take(8_000))
    _switch(either, 2)
    _switch(either, 1)
    feed.join()
    either.wait_caught_up(*workers)
    for worker in workers:
        for said in ("generation 2, epoch 2", "generation 1, epoch 3"):
            assert said in worker.said
        worker.stop()
    either.exact()
