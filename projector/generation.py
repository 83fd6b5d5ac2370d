"""Generations: the physical builds of the projection."""

from typing import NamedTuple


class Generation(NamedTuple):
    """One build of the projection and the names it owns; a number is never used again."""

    number: int
    base_group: str

    @property
    def campaigns(self) -> str:
        """Set of the campaign rows."""
        return f"campaigns{self._suffix}"

    @property
    def pages(self) -> str:
        """Set of the archived pages of the ledger."""
        return f"campaigns{self._suffix}-seen"

    @property
    def group(self) -> str:
        """Consumer group whose checkpoint belongs to these rows."""
        return f"{self.base_group}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "" if self.number == 1 else f"-g{self.number}"
