"""The reference data set: which campaigns there are, and the tags of each.

`projector seed` writes it and the simulator draws from it, so both agree without asking each other.
"""

from uuid import UUID, uuid5

CAMPAIGNS = 100
TAGS = 1_000
"""Tags of each campaign: 100 campaigns x 1,000 tags."""

_NAMESPACE = UUID("6f1d2c0e-5b0a-4c57-9a36-0d8b6c1f7e21")


def campaign_name(campaign: int) -> str:
    """Name of a campaign; ids count from 1."""
    return f"Acme campaign {campaign}"


def tag_id(seed: int, campaign: int, number: int) -> str:
    """Id of tag `number` (from 1) of `campaign` (from 1): UUIDv5, so that creating it twice changes nothing."""
    return str(uuid5(_NAMESPACE, f"{seed}/{campaign}/{number}"))
