"""Leaf: one counted id, what a statement is made of, and how `ids.parquet` holds them all."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet  # type: ignore[import-untyped]  # no hints

COLUMNS = ("campaign", "kpi", "id", "second", "partition", "offset")
_TYPES = ("int64", "string", "string", "int64", "int32", "int64")
ROWS_PER_BATCH = 20_000


class Leaf(NamedTuple):
    """An id that a campaign counted. `id` is canonical; `second` and position are those of the record that counted.

    A statement holds its leaves by campaign, then by the UTF-8 bytes of the id; no campaign counts an id twice.
    """

    campaign: int
    kpi: str
    id: str
    second: int
    partition: int
    offset: int

    @property
    def data(self) -> bytes:
        """What the tree hashes: campaign, KPI, second, partition and offset, then the id, with a blank between them.

        The id comes last and no other part holds a blank, so that no two leaves have the same.
        """
        return f"{self.campaign} {self.kpi} {self.second} {self.partition} {self.offset} {self.id}".encode()

    @property
    def place(self) -> tuple[int, bytes]:
        """What leaves are in order of."""
        return self.campaign, self.id.encode()


def leaves(path: Path) -> Iterator[Leaf]:
    """The leaves of an `ids.parquet`, in its order. Raises as `rows` does."""
    return map(Leaf._make, rows(path, COLUMNS, _TYPES))


def rows(path: Path, columns: Sequence[str], types: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a Parquet file that has exactly these columns and no nulls, a batch in memory at a time.

    Raises `ValueError` where it has others, `pyarrow.ArrowException` and `OSError` where it cannot be read.
    """
    with pyarrow.parquet.ParquetFile(path) as file:
        found = [(field.name, str(field.type)) for field in file.schema_arrow]
        if found != list(zip(columns, types, strict=True)):
            raise ValueError(f"{path.name} has the columns {found}")
        for batch in file.iter_batches(ROWS_PER_BATCH):
            if any(column.null_count for column in batch.columns):
                raise ValueError(f"{path.name} has a row with nothing in a column")
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
