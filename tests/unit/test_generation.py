"""Generations, their pointer row, and the three topics."""

from pathlib import Path

import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.config import Config
from projector.errors import Misconfigured, Refused, Retryable
from projector.generation import Generation
from projector.pointer import POINTER, PointerRow, create_pointer, read_pointer
from projector.store import Put, Write
from projector.topics import Weight, check_topics, create_topics


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "projector.db")


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    return EmbeddedLog(tmp_path / "projector.db")


def test_names_of_generations() -> None:
    """Generation 1 has the plain names, every later one names of its own."""
    first, second = Generation(1, "projector"), Generation(2, "projector")
    assert (first.campaigns, first.pages, first.group) == ("campaigns", "campaigns-seen", "projector")
    assert (second.campaigns, second.pages, second.group) == ("campaigns-g2", "campaigns-g2-seen", "projector-g2")


def test_pointer_is_created_once(store: EmbeddedStore) -> None:
    """The second creation changes nothing, also not the nonce or the topic id."""
    assert read_pointer(store, 0) is None
    assert create_pointer(store, "topic-a")
    first = read_pointer(store, 0)
    assert not create_pointer(store, "topic-b")
    assert read_pointer(store, 0) == first
    assert first is not None
    assert (first.live, first.state, first.epoch, first.topic_id, first.history) == (1, "open", 1, "topic-a", [])
    assert 0 < first.nonce < 2**63


def test_pointer_is_acted_on_only_settled(store: EmbeddedStore) -> None:
    """A pointer that was just written is read unsettled; who acts on it waits until it has settled, or gives up."""
    create_pointer(store, "topic-a")
    young = read_pointer(store, 60_000)
    assert young is not None
    assert not young.settled
    assert PointerRow(store, 0.1).settled().settled
    with pytest.raises(Retryable, match="does not settle"):
        PointerRow(store, 60).settled(wait_s=-59.9)


def test_pointer_that_is_missing_or_damaged_is_named(store: EmbeddedStore) -> None:
    """No pointer row says `projector migrate`; one with a wrong bin says which."""
    with pytest.raises(Misconfigured, match="projector migrate"):
        PointerRow(store, 0).settled()
    create_pointer(store, "topic-a")
    store.write([Write(POINTER, [Put("epoch", "one")])])
    with pytest.raises(Refused, match="epoch is 'one'"):
        read_pointer(store, 0)


def test_created_topics_are_as_they_must_be(log: EmbeddedLog) -> None:
    """What is missing is said to be missing; what `create_topics` makes differs in nothing."""
    config = Config()
    assert [difference.weight for difference in check_topics(log, config)] == [Weight.MISSING] * 3
    create_topics(log, config)
    assert check_topics(log, config) == []
    quarantine = log.topic(config.quarantine_topic)
    assert quarantine is not None
    assert quarantine.settings["max.message.bytes"] == str(1_048_588 + 65_536)


def test_quarantine_takes_what_a_larger_input_takes(log: EmbeddedLog) -> None:
    """The quarantine is created 64 KiB larger than the input topic that is there."""
    config = Config()
    log.create_topic(config.input_topic, 3, {"max.message.bytes": "5000000"})
    create_topics(log, config)
    quarantine = log.topic(config.quarantine_topic)
    assert quarantine is not None
    assert quarantine.settings["max.message.bytes"] == "5065536"


@pytest.mark.parametrize(
    ("topic", "settings", "weight", "named"),
    [
        ("edge-to-core", {"cleanup.policy": "compact"}, Weight.WRONG, "cleanup.policy is compact, not delete"),
        ("edge-to-core", {"retention.ms": "604800000"}, Weight.RISKY, "retention.ms is 604800000"),
        ("edge-to-core", {"offsets.retention.minutes": "10080"}, Weight.RISKY, "down for 7.0 days"),
        ("subscription-events", {"cleanup.policy": "delete"}, Weight.WRONG, "cleanup.policy is delete, not compact"),
        ("subscription-events", {"cleanup.policy": "compact,delete"}, Weight.WRONG, "not compact:"),
        ("projector-quarantine", {"max.message.bytes": "1048588"}, Weight.WRONG, "not at least 1114124"),
        ("projector-quarantine", {}, Weight.WRONG, "max.message.bytes is 1048588"),
        (
            "projector-quarantine",
            {"max.message.bytes": "1114123"},
            Weight.WRONG,
            "add-config max.message.bytes=1114124",
        ),
    ],
)
def test_a_topic_that_differs_is_named(
    log: EmbeddedLog, topic: str, settings: dict[str, str], weight: Weight, named: str
) -> None:
    """Each setting that matters is found, weighed, and said in one line with topic, value and way out."""
    config = Config()
    log.create_topic(topic, 12, settings)
    create_topics(log, config)
    (difference,) = check_topics(log, config)
    assert difference.weight is weight
    assert f"topic {topic}: " in str(difference)
    assert named in str(difference)
    assert "\n" not in str(difference)
