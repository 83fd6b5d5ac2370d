"""The clock: seconds that only go forward. Tests bring their own."""

from typing import Protocol


class Clock(Protocol):
    """Seconds that only go forward, and waiting for some of them."""

    def monotonic(self) -> float:
        """Now."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
