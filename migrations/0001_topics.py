"""Three topics: input (kept for ever), KPI totals (compacted), quarantine (kept for ever)."""

from projector.config import Config
from projector.log import Log
from projector.store import Store
from projector.topics import Weight, check_topics, create_topics


def apply(log: Log, store: Store, config: Config) -> None:  # noqa: ARG001  # every migration is given both
    """Create those that are missing."""
    create_topics(log, config)


def holds(log: Log, store: Store, config: Config) -> bool:  # noqa: ARG001  # every migration is given both
    """Whether all three are there."""
    return not any(difference.weight is Weight.MISSING for difference in check_topics(log, config))
