"""What an audit finds, and what mends it."""

from enum import Enum
from typing import NamedTuple


class Remedy(Enum):
    """What mends a finding."""

    REPAIR = "projector repair"
    REBUILD = "projector rebuild"
    RETRY = "projector quarantine retry"
    NONE = ""


class Kind(Enum):
    """What is wrong. The value is the name in `--json`."""

    MISSING = "missing"  # in the topic, and not counted
    FOREIGN = "foreign"  # counted, and not in the topic at that position
    TWICE = "twice"  # in two places of one campaign's ledger
    TWO_CAMPAIGNS = "two-campaigns"  # counted for two campaigns
    OTHER_KIND = "other-kind"  # counted as another kind than the topic has at that position
    DAMAGED = "damaged"  # a page or the chain of pages
    TOTAL = "total"  # the row's `stats` do not follow from `opening` and the ids
    PUBLISHED = "published"  # the last published total is not the row's
    BALANCE = "balance"  # the committed totals do not add up


class Finding(NamedTuple):
    """One thing that is not what it must be; what does not apply is None.

    `id` is canonical: a UUID in lower case with dashes, else the text. `place` names where a ledger holds it ("seen",
    "sealed", or the page's seal in 16 hex digits). `verdict` and `reason` are what quarantine holds of the position.
    """

    kind: Kind
    remedy: Remedy
    detail: str
    campaign: int | None = None
    kpi: str | None = None
    id: str | None = None
    partition: int | None = None
    offset: int | None = None
    second: int | None = None
    place: str | None = None
    verdict: str | None = None
    reason: str | None = None
