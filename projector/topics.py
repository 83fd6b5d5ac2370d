"""The three topics: the settings that each must have, and how one that is there differs."""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from projector.config import Config
from projector.errors import Misconfigured
from projector.log import Log, TopicInfo

PARTITIONS = 12
OUTPUT_PARTITIONS = 3
"""Each one that a transaction writes to makes it longer: with 12, one takes twice as long."""
MESSAGE_BYTES_DEFAULT = 1_048_588
ENVELOPE_BYTES = 65_536
"""How much larger a quarantined record may be than the record: its key, its headers, the batch around it."""
OFFSETS_RETENTION_DAYS = 30
_KEPT_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


class Weight(Enum):
    """What a difference means."""

    MISSING = "missing"  # nothing can run; `projector migrate` creates the topic
    WRONG = "wrong"  # records or totals would be lost: nothing may run
    RISKY = "risky"  # a warning


class Difference(NamedTuple):
    """One way in which a topic is not what it must be, with the way out."""

    topic: str
    weight: Weight
    setting: str
    found: str
    wanted: str
    remedy: str

    def __str__(self) -> str:
        """One line for an operator."""
        if self.weight is Weight.MISSING:
            return f"topic {self.topic} is not there: {self.remedy}"
        return f"topic {self.topic}: {self.setting} is {self.found}, not {self.wanted}: {self.remedy}"


def create_topics(log: Log, config: Config) -> None:
    """Create those of the three topics that are missing; one that is there is left as it is. Raises `Retryable`."""
    log.create_topic(config.input_topic, PARTITIONS, _KEPT_FOR_EVER)
    log.create_topic(config.kpi_topic, OUTPUT_PARTITIONS, {"cleanup.policy": "compact"})
    message_bytes = str(_message_bytes(log.topic(config.input_topic)) + ENVELOPE_BYTES)
    log.create_topic(config.quarantine_topic, OUTPUT_PARTITIONS, {**_KEPT_FOR_EVER, "max.message.bytes": message_bytes})


def retried_topic(config: Config) -> str:
    """The topic of markers: the keys of the quarantined records that went back to the input topic."""
    return f"{config.quarantine_topic}-retried"


def create_retried_topic(log: Log, config: Config) -> None:
    """Create the topic of markers, if it is not there. Raises `Misconfigured` if it would lose any, `Retryable`."""
    name = retried_topic(config)
    log.create_topic(name, OUTPUT_PARTITIONS, {"cleanup.policy": "compact"})
    info = log.topic(name)
    differences = [] if info is None else list(_policy(name, info, "compact", "old markers would be lost"))
    if differences:
        raise Misconfigured(str(differences[0]))


def check_topics(log: Log, config: Config) -> list[Difference]:
    """How the three topics differ from what they must be; [] if all is well. Raises `Retryable`.

    A setting that the log does not report has no effect there; but for `max.message.bytes`, whose default it then has.
    """
    found = {name: log.topic(name) for name in (config.input_topic, config.kpi_topic, config.quarantine_topic)}
    needed_bytes = _message_bytes(found[config.input_topic]) + ENVELOPE_BYTES
    differences: list[Difference] = []
    for name, info in found.items():
        if info is None:
            differences.append(Difference(name, Weight.MISSING, "", "", "", "run: projector migrate"))
        elif name == config.kpi_topic:
            differences += _policy(name, info, "compact", "the last total of a quiet campaign would be lost")
        else:
            differences += _policy(name, info, "delete", "compaction would remove records")
            differences += _retention(name, info)
            if name == config.input_topic:
                differences += _offsets(name, info)
            elif _message_bytes(info) < needed_bytes:
                size, wanted = str(_message_bytes(info)), f"at least {needed_bytes}"
                reason = "a large record would not fit"
                differences.append(_wrong(name, "max.message.bytes", size, wanted, reason, str(needed_bytes)))
    return differences


def _policy(name: str, info: TopicInfo, wanted: str, reason: str) -> Iterator[Difference]:
    policy = info.settings.get("cleanup.policy", wanted)
    if policy != wanted:
        yield _wrong(name, "cleanup.policy", policy, wanted, reason, wanted)


def _retention(name: str, info: TopicInfo) -> Iterator[Difference]:
    for setting in ("retention.ms", "retention.bytes"):
        kept = info.settings.get(setting, "-1")
        if kept != "-1":
            remedy = f"deleted records cannot be rebuilt or audited; change it: {_altered(name, setting, '-1')}"
            yield Difference(name, Weight.RISKY, setting, kept, "-1 (for ever)", remedy)


def _offsets(name: str, info: TopicInfo) -> Iterator[Difference]:
    wanted_minutes = OFFSETS_RETENTION_DAYS * 24 * 60
    minutes = int(info.settings.get("offsets.retention.minutes", wanted_minutes))
    if minutes < wanted_minutes:
        remedy = (
            f"the broker forgets the checkpoint of a projector that is down for {minutes / 1440:.1f} days; "
            "raise offsets.retention.minutes in the broker's configuration"
        )
        wanted = f"at least {wanted_minutes}"
        yield Difference(name, Weight.RISKY, "offsets.retention.minutes", str(minutes), wanted, remedy)


def _wrong(name: str, setting: str, found: str, wanted: str, reason: str, value: str) -> Difference:
    return Difference(
        name, Weight.WRONG, setting, found, wanted, f"{reason}; change it: {_altered(name, setting, value)}"
    )


def _altered(name: str, setting: str, value: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {setting}={value}"


def _message_bytes(info: TopicInfo | None) -> int:
    return int(info.settings.get("max.message.bytes", MESSAGE_BYTES_DEFAULT)) if info else MESSAGE_BYTES_DEFAULT
