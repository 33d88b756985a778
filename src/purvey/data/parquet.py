"""Parquet files: flat columns of text, numbers, booleans, bytes, or Hugging Face image structs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from purvey.data.table import Cell, RawTable, check_row_count
from purvey.errors import InvalidFileError


def read_parquet(path: Path, *, source: str) -> RawTable:
    """Read a Parquet file; the row count is checked from its footer first.

    Raises:
        InvalidFileError: Not Parquet, too many rows, or a column of a kind we do not read.
    """
    try:
        file = pq.ParquetFile(path)
        check_row_count(source, file.metadata.num_rows)
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise InvalidFileError(f"{source!r} is not readable as Parquet.") from error
    columns = {name: _cells(table.column(name), name, source=source) for name in table.column_names}
    return RawTable(
        source=source,
        columns=columns,
        lines=range(1, table.num_rows + 1),
        row_word="row",
        details={"format": "parquet"},
    )


def _cells(column: pa.ChunkedArray, name: str, *, source: str) -> list[Cell]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        cells: list[Cell] = [cell and cell["bytes"] for cell in column.to_pylist()]
        return cells
    accepted = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_list,
    )
    if not any(accepts(kind) for accepts in accepted):
        raise InvalidFileError(
            f"{source!r}: column {name!r} has the type {str(kind)!r}: "
            "store it as text, numbers or bytes."
        )
    values: list[Cell] = column.to_pylist()
    return values
