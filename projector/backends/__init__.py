"""Which log and which store: one `match` each. A client is imported only where it is used."""

from functools import partial
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from collections.abc import Callable

    from projector.config import Config
    from projector.log import Log
    from projector.store import Store


def log_opener(config: "Config") -> "Callable[[], Log]":
    """What opens the log that the settings name, in another process too, which then reads no settings."""
    match config.log:
        case "embedded":
            from projector.backends.embedded_log import EmbeddedLog

            return partial(EmbeddedLog, config.file)
        case "kafka":
            from projector.backends.kafka import KafkaLog

            return partial(KafkaLog, config.kafka)
        case other:
            assert_never(other)


def open_log(config: "Config") -> "Log":
    """The log that the settings name. Raises `Misconfigured`, `Retryable`."""
    return log_opener(config)()


def open_store(config: "Config") -> "Store":
    """The store that the settings name. Raises `Misconfigured`, `Retryable`."""
    match config.store:
        case "embedded":
            from projector.backends.embedded_store import EmbeddedStore

            return EmbeddedStore(config.file)
        case "aerospike":
            from projector.backends.aerospike import AerospikeStore

            return AerospikeStore(config.aerospike)
        case other:
            assert_never(other)
