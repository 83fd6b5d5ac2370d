"""Manifest: what a statement says of itself, and what is signed."""

import json
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from projector.errors import Misconfigured
from projector.statement.period import Period

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
COUNTS_CSV, COUNTS_PARQUET, IDS_PARQUET = "counts.csv", "counts.parquet", "ids.parquet"
FILES = (COUNTS_CSV, COUNTS_PARQUET, IDS_PARQUET)
"""What the manifest vouches for."""

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class File(BaseModel):
    """Size and SHA-256 of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bytes: Count
    sha256: Hex32

    @classmethod
    def of(cls, path: Path) -> "File":
        """As the file is now. Raises `OSError`."""
        with path.open("rb") as file:
            return cls(sha256=file_digest(file, "sha256").hexdigest(), bytes=file.tell())


class Manifest(BaseModel):
    """A statement's manifest; `encoded` is its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["projector-statement"] = "projector-statement"
    version: Literal[1] = 1
    period_from: str
    period_to: str
    topic: str
    topic_id: str
    generation: int
    epoch: int
    checkpoint: dict[int, Count]
    """Per partition the next offset: only ids at positions before it are in."""
    campaigns: Count
    totals: dict[str, Count]
    leaves: Count
    root: Hex32
    """Of the Merkle tree over the leaves (`merkle`, `leaf`)."""
    files: dict[str, File]
    program: str
    created: str
    public_key: Hex32
    """Of the key that it is signed with."""

    @property
    def period(self) -> Period:
        """Its period. Raises `Misconfigured` if it is none."""
        return Period.parsed(self.period_from, self.period_to)

    def encoded(self) -> bytes:
        """The bytes that are signed."""
        return (json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n").encode()


def parsed(content: bytes) -> Manifest | None:
    """The manifest in these bytes; None if they are not exactly what one is written as."""
    try:
        manifest = Manifest.model_validate_json(content)
        written = (*manifest.period.texts(), manifest.encoded())
    except (ValidationError, Misconfigured):
        return None
    return manifest if written == (manifest.period_from, manifest.period_to, content) else None
