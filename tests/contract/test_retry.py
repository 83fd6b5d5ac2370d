"""Retry on each log: what the input topic does not take is left, and holds nothing up."""

from projector.config import Config
from projector.log import Log, Record
from projector.quarantine import message
from projector.quarantined import Wanted
from projector.retry import parked, retry
from projector.topics import ENVELOPE_BYTES, MESSAGE_BYTES_DEFAULT, retried_topic

PARTITIONS = 3
TOO_LARGE, JUST_FITS = MESSAGE_BYTES_DEFAULT - 60, MESSAGE_BYTES_DEFAULT - 250
"""Bytes of a value that was in the topic; with the headers that are added it is over the limit, or is not."""


def test_records_over_the_limit_are_left(log: Log, name: str) -> None:
    """They stay parked and unmarked; the others go once each, one that just fits among them."""
    config = Config(input_topic=name, quarantine_topic=f"{name}-aside", group=name)
    log.create_topic(name, PARTITIONS, {"max.message.bytes": str(MESSAGE_BYTES_DEFAULT)})
    limit = {"max.message.bytes": str(MESSAGE_BYTES_DEFAULT + ENVELOPE_BYTES)}
    log.create_topic(config.quarantine_topic, PARTITIONS, limit)
    sizes = dict.fromkeys(range(40), 1000) | {7: TOO_LARGE, 11: JUST_FITS, 12: TOO_LARGE, 31: TOO_LARGE}
    for n, size in sizes.items():
        record = Record(n % PARTITIONS, n, 1_000 + n, b"%03d" % n + b"x" * (size - 3))
        log.append([message(config.quarantine_topic, name, record, "parked", "unknown-tag", "", 1)])
    stay = {f"{name}/{n % PARTITIONS}/{n}" for n, size in sizes.items() if size == TOO_LARGE}
    go = {f"{name}/{n % PARTITIONS}/{n}" for n in sizes} - stay
    for sent in (len(go), 0):
        left: dict[str, str] = {}
        assert retry(log, config, Wanted(), left=lambda record, why: left.update({record.key: why})) == sent  # noqa: B023  # called now
        assert left.keys() == stay == parked(log, config, Wanted()).keys()
        assert all("max.message.bytes" in why and str(name) in why for why in left.values())
        came = [each for page in log.read(name) for each in page]
        assert sorted(int((each.value or b"")[:3]) for each in came) == [n for n in sizes if sizes[n] != TOO_LARGE]
        marked = [(each.key or b"").decode() for page in log.read(retried_topic(config)) for each in page]
        assert sorted(marked) == sorted(go)
