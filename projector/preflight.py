"""What must be so before a worker starts: topics, store, index, pointer. Nothing is started where it is not."""

import logging
from typing import NamedTuple

from projector.config import Config
from projector.errors import Misconfigured, OffsetsGone
from projector.generation import Generation
from projector.log import Log
from projector.patience import patiently
from projector.pointer import Pointer, PointerRow
from projector.settling import settle_seconds
from projector.store import Store
from projector.topics import Weight, check_topics

logger = logging.getLogger(__name__)


class Cleared(NamedTuple):
    """What a worker starts with."""

    generation: Generation
    epoch: int
    settle_s: float


def preflight(log: Log, store: Store, config: Config) -> Cleared:
    """Check, and wait until the pointer row has settled.

    Raises `Misconfigured`, `Refused`, `OffsetsGone` (another topic than the one counted), each with the way out;
    `Retryable` if log or store does not answer, or the pointer row goes on changing.
    """
    for difference in check_topics(log, config):
        if difference.weight is not Weight.RISKY:
            raise Misconfigured(str(difference))
        logger.warning("%s", difference)
    settle_s = settle_seconds(store, config.settle_ms, config.allow_volatile_store)
    for name in store.expiring_sets():
        logger.warning("%s: rows written there by others expire; a campaign or tag that expires is gone", name)
    pointer = PointerRow(store, settle_s).settled()
    generation = pointer.generation(config)
    if not store.has_index(generation.campaigns, "c-date"):
        raise Misconfigured(f"set {generation.campaigns} has no index on c-date: run: projector migrate")
    check_topic_id(log, config, pointer)
    return Cleared(generation, pointer.epoch, settle_s)


def check_topic_id(log: Log, config: Config, pointer: Pointer) -> None:
    """Raises `OffsetsGone` if the input topic is another one than was counted, and `Retryable`."""
    topic = patiently(lambda: log.topic(config.input_topic))
    if topic is None or topic.id != pointer.topic_id:
        raise OffsetsGone(
            f"topic {config.input_topic} is not the one that was counted: its id is {topic.id if topic else 'none'}, "
            f"the pointer row names {pointer.topic_id}; a topic made anew needs a new store, or its old data back"
        )
