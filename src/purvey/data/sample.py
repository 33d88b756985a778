"""The first rows of a prepared split, without reading the rest."""

from pathlib import Path

import pyarrow.parquet as pq

from purvey.data.loader import Rows

_AT_ONCE = 64


def load_sample(folder: Path, split: str, *, most_rows: int, most_bytes: int) -> Rows:
    """Load rows of one split until there are enough, or their columns take enough bytes.

    Args:
        folder: Of the dataset; its digest is not checked.
        split: Which rows.
        most_rows: So many at most.
        most_bytes: No further rows are read from there on.
    """
    columns: dict[str, list[str] | list[float] | list[bytes]] = {}
    num_rows = num_bytes = 0
    with pq.ParquetFile(folder / f"{split}.parquet") as file:
        columns = {name: [] for name in file.schema_arrow.names}
        for batch in file.iter_batches(batch_size=min(_AT_ONCE, most_rows)):
            taken = batch.slice(0, most_rows - num_rows)
            for name in columns:
                columns[name] += taken.column(name).to_pylist()
            num_rows, num_bytes = num_rows + taken.num_rows, num_bytes + taken.nbytes
            if num_rows >= most_rows or num_bytes >= most_bytes:
                break
    return Rows(columns=columns, num_rows=num_rows)


def raw_bytes(rows: Rows) -> int:
    """Return about what the values of some rows take in memory."""
    return sum(_size(value) for column in rows.columns.values() for value in column)


def _size(value: str | float | bytes) -> int:
    return (len(value) if isinstance(value, str | bytes) else 0) + 64  # the object, and its place
