"""Parquet files: flat columns of text, numbers, booleans, bytes, or Hugging Face image structs."""

import contextlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from purvey.contracts.limits import LIMITS
from purvey.data.reading.table import Cell, RawTable, check_column_count, check_row_count
from purvey.errors import InvalidFileError

_BATCH_ROWS = 64


def read_parquet(path: Path, *, source: str) -> RawTable:
    """Read a Parquet file; the row count is checked from its footer first.

    It is read few rows at a time: a value that is stored once may stand in millions of rows.

    Raises:
        InvalidFileError: Not Parquet, too many rows or bytes, or a column of a kind we do not read.
    """
    try:
        file = pq.ParquetFile(path)
        num_rows = file.metadata.num_rows
        _check_announced(file, source=source)
        columns = _columns(file, source=source)
    except MemoryError:
        raise  # the file may be whole and the machine too small
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"{source!r} is not readable as Parquet.") from error
    if any(len(cells) != num_rows for cells in columns.values()):
        raise InvalidFileError(f"{source!r} does not hold the {num_rows} rows that it announces.")
    return RawTable(
        source=source,
        columns=columns,
        lines=range(1, num_rows + 1),
        row_word="row",
        details={"format": "parquet"},
    )


def rehearse() -> None:
    """Let the library fail once, while there is memory for all that a failure needs.

    A thread's first C++ exception takes memory of its own; without any left the process aborts.
    """
    with contextlib.suppress(pa.ArrowException, OSError):
        pq.ParquetFile(io.BytesIO(b"no table"))


def _check_announced(file: pq.ParquetFile, *, source: str) -> None:
    """Refuse a file by its footer. Of its columns' chunks no more is asked: damage there aborts."""
    check_row_count(source, max(0, file.metadata.num_rows))
    names = file.schema_arrow.names
    check_column_count(source, len(names))
    if len(set(names)) < len(names):
        raise InvalidFileError(f"{source!r} has two columns of one name: rename one.")


def _columns(file: pq.ParquetFile, *, source: str) -> dict[str, list[Cell]]:
    columns: dict[str, list[Cell]] = {name: [] for name in file.schema_arrow.names}
    num_bytes = 0
    # In this thread alone: another one may lack the memory for its first steps, which aborts.
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
        num_bytes += sum(map(_inflated_bytes, batch.columns))
        if num_bytes > LIMITS.archive_bytes:
            raise InvalidFileError(
                f"{source!r} inflates to more than {LIMITS.archive_bytes} bytes: split it."
            )
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            columns[name] += _cells(column, name, source=source)
    return columns


def _inflated_bytes(column: pa.Array) -> int:
    """Count a column's bytes once every row has its own value."""
    if not isinstance(column, pa.DictionaryArray):
        return int(column.nbytes)
    values = column.dictionary
    if pa.types.is_primitive(values.type):
        return 8 * len(column)
    lengths = pc.take(pc.binary_length(values), column.indices)
    return int(pc.sum(lengths).as_py() or 0)


def _cells(column: pa.Array, name: str, *, source: str) -> list[Cell]:
    kind = column.type
    if pa.types.is_list(kind) and len(column.flatten()) > len(column) * LIMITS.row_bytes:
        problem = f"a row of column {name!r} holds more than {LIMITS.row_bytes} values: shorten it."
        raise InvalidFileError(f"{source!r}: {problem}")
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
            f"{source!r}: column {name!r} has the type {str(kind)[:100]!r}: "
            "store it as text, numbers or bytes."
        )
    return _values(column)


def _values(column: pa.Array) -> list[Cell]:
    """Return the rows' values; rows of a dictionary share theirs.

    One by one pyarrow copies them, and aborts the process where memory ends in such a copy.
    """
    if not isinstance(column, pa.DictionaryArray):
        values: list[Cell] = column.to_pylist()
        return values
    entries: list[Cell] = column.dictionary.to_pylist()
    return [None if index is None else entries[index] for index in column.indices.to_pylist()]
