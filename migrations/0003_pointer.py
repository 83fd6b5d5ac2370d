"""Pointer row: generation 1, epoch 1, the id of the input topic."""

from projector.config import Config
from projector.errors import Misconfigured
from projector.log import Log
from projector.pointer import create_pointer
from projector.store import Store


def apply(log: Log, store: Store, config: Config) -> None:
    """Create it if it is missing."""
    topic = log.topic(config.input_topic)
    if topic is None:
        raise Misconfigured(f"topic {config.input_topic} is not there: run: projector migrate")
    create_pointer(store, topic.id)
