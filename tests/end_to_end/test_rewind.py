"""The group is set back on a finished topic by someone else's tool: replays change nothing and are published again."""

from tests.end_to_end import oracle
from tests.end_to_end.harness import Pipeline


def test_reset_to_earliest(either: Pipeline) -> None:
    """Rows unchanged to the unit, every total published again, and the balance holds from zero."""
    either.produce(either.traffic.take(20_000))
    either.run_to_end("--slot", "a")
    either.exact()
    rows = either.rows()
    published = oracle.publications(either.bootstrap, either.kpi_topic)
    either.move_checkpoint(dict.fromkeys(range(either.partitions), 0))
    either.run_to_end("--slot", "a")
    either.exact()
    assert either.rows() == rows
    again = oracle.publications(either.bootstrap, either.kpi_topic)
    for cell in +either.traffic.truth:
        assert len(again[cell]) > len(published[cell]), f"{cell} was not published again"


def test_reset_by_some(pipeline: Pipeline) -> None:
    """Set back to the middle: rows unchanged, the totals of that partition are said to be unknown."""
    pipeline.produce(pipeline.traffic.take(10_000))
    pipeline.run_to_end("--slot", "a")
    rows = pipeline.rows()
    pipeline.move_checkpoint({0: 100})
    pipeline.run_to_end("--slot", "a")
    assert pipeline.rows() == rows
    pipeline.published(rows)
    balance = pipeline.read_balance()
    assert balance.unknown == [0]
    assert not balance.holds
