"""The programs that are compared."""

from typing import NamedTuple


class Contender(NamedTuple):
    """One program in one form. `log` and `store` name the projector's backends, and the loop's store."""

    name: str
    title: str
    kind: str
    deduplicates: bool
    log: str = "kafka"
    store: str = ""
    workers: int = 1

    @property
    def in_kafka(self) -> bool:
        """Whether it reads the broker's topic, not its own file."""
        return self.log == "kafka"


CONTENDERS = (
    Contender("projector-aerospike", "projector, Aerospike", "projector", True, store="aerospike"),
    Contender(
        "projector-aerospike-2", "projector, Aerospike, 2 workers", "projector", True, store="aerospike", workers=2
    ),
    Contender("projector-embedded", "projector, embedded store", "projector", True, store="embedded"),
    Contender(
        "projector-embedded-2", "projector, embedded store, 2 workers", "projector", True, "kafka", "embedded", 2
    ),
    Contender("projector-file", "projector, all embedded", "projector", True, "embedded", "embedded"),
    Contender("kafka-streams", "Kafka Streams, plain", "kafka-streams", False),
    Contender("kafka-streams-dedup", "Kafka Streams, ids in RocksDB", "kafka-streams", True),
    Contender("kafka-streams-dedup-2", "Kafka Streams, ids in RocksDB, 2 threads", "kafka-streams", True, workers=2),
    Contender("quix", "Quix Streams, plain", "quix", False),
    Contender("quix-dedup", "Quix Streams, ids in its state", "quix", True),
    Contender("loop", "hand-written loop, plain", "loop", False, store="aerospike"),
    Contender("loop-dedup", "hand-written loop, ids in the row", "loop", True, store="aerospike"),
)
BASES = ("projector-aerospike", "projector-embedded")
"""What the others are held against."""


def chosen(words: list[str]) -> list[Contender]:
    """The contenders that are named, by name or by kind; all of them for no words."""
    return [each for each in CONTENDERS if not words or each.name in words or each.kind in words]
