"""Numeric index on `c-date` of the campaigns."""

from projector.config import Config
from projector.generation import Generation
from projector.log import Log
from projector.store import Store


def apply(log: Log, store: Store, config: Config) -> None:  # noqa: ARG001  # every migration is given both
    """Create it if it is missing."""
    store.create_index(Generation(1, config.group).campaigns, "c-date")


def holds(log: Log, store: Store, config: Config) -> bool:  # noqa: ARG001  # every migration is given both
    """Whether it is there."""
    return store.has_index(Generation(1, config.group).campaigns, "c-date")
