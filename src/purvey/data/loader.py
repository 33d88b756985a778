"""Splits of a prepared dataset, back in memory as plain columns."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq

from purvey.contracts.data import DatasetManifest
from purvey.data.folder import verify_folder


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one split, column by column.

    Invariant: every column holds `num_rows` values.
    """

    columns: dict[str, list[str] | list[float] | list[bytes]]
    num_rows: int

    def texts(self, name: str) -> list[str]:
        """Return a column of strings: text, label, category, transcript, or JSON text."""
        return cast("list[str]", self.columns[name])

    def numbers(self, name: str) -> list[float]:
        """Return a number or score column."""
        return cast("list[float]", self.columns[name])

    def media(self, name: str) -> list[bytes]:
        """Return an image or audio column: the encoded bytes."""
        return cast("list[bytes]", self.columns[name])


def load_splits(folder: Path, manifest: DatasetManifest) -> dict[str, Rows]:
    """Load every split, after checking the stored bytes against the manifest.

    Raises:
        IntegrityError: The bytes are not the ones that were written.
    """
    verify_folder(folder, manifest)
    return {split: load_split(folder, split) for split in manifest.rows}


def load_split(folder: Path, split: str) -> Rows:
    """Load one split without checking its digest."""
    table = pq.read_table(folder / f"{split}.parquet")
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Rows(columns=columns, num_rows=table.num_rows)
