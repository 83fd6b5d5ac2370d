"""Health: whether a worker is stuck, and whether it is ready, from what is known of it. Pure."""

from typing import NamedTuple

STUCK_S = 120.0
"""Longer than a worker waits for anything before it begins anew from the checkpoint. Settling comes on top."""


class Signs(NamedTuple):
    """What one worker shows. Durations in seconds."""

    unturned_s: float | None
    """Since its loop turned last; None: it has not begun, and waits for log, store or its supervisor's word."""
    lag: int
    """Records to go, as far as known."""
    standstill_s: float
    """Since there is a lag, or since the last commit that made it smaller, whichever is later."""
    partitions: int
    """Whose checkpoint it has read."""


def stuck(signs: Signs, bound_s: float) -> str | None:
    """Why it is stuck; None if it is not, as where there is nothing to do."""
    if signs.unturned_s is not None and signs.unturned_s > bound_s:
        return f"the loop has not turned for {signs.unturned_s:.0f} s"
    if signs.lag > 0 and signs.standstill_s > bound_s:
        return f"{signs.lag} records to go, and none committed for {signs.standstill_s:.0f} s"
    return None


def unready(signs: Signs) -> str | None:
    """Why it is not ready; None if it is: it has partitions and knows where each of them begins."""
    return None if signs.partitions else "no partitions are assigned"
