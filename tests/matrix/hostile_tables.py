"""Data files that lie or would unfold, made at run time."""

import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CALLING = b"cposix\nsystem\n(S'touch {}'\ntR."
"""A pickle that calls a program; `{}` is the file that it would make."""


def parquet(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def plain() -> pa.Table:
    """A table of every kind of column that is read."""
    return pa.table(
        {
            "text": [f"hello {i}" for i in range(32)],
            "label": pa.array(["x", "y"] * 16).dictionary_encode(),
            "number": list(range(32)),
            "turns": [[1, 2], [3]] * 16,
            "image": [{"bytes": b"1", "path": None}] * 32,
        }
    )


def rows_announced(num_rows: int) -> bytes:
    """Return a file of three rows whose footer announces another number (thrift's zigzag)."""
    data = parquet(pa.table({"text": ["a", "b", "c"]}))
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    # FileMetaData: field 3, an i64; of all such fields only this one holds 3 before the groups.
    at = footer.index(b"\x16\x06\x19")
    longer = footer[: at + 1] + _varint(num_rows << 1) + footer[at + 2 :]
    return data[: -8 - length] + longer + struct.pack("<L", len(longer)) + b"PAR1"


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def one_long_list(num_values: int) -> bytes:
    """Return a few hundred bytes that hold one row of so many nothings."""
    nothings = pa.nulls(num_values, pa.int8())
    return parquet(pa.table({"text": pa.ListArray.from_arrays([0, num_values], nothings)}))


def nested_types(depth: int) -> bytes:
    """Return a file without rows whose one column lies so many structs deep."""
    root, leaf = b"\x48\x01s\x15\x02\x00", b"\x15\x0c\x25\x02\x18\x01a\x00"
    schema = root + b"\x35\x02\x18\x01a\x15\x02\x00" * depth + leaf
    footer = b"\x15\x02\x19\xfc" + _varint(depth + 2) + schema + b"\x16\x02\x19\x0c\x00"
    return b"PAR1" + footer + struct.pack("<L", len(footer)) + b"PAR1"


def pickled_type(canary: Path) -> bytes:
    """Return a column whose extension type is a pickle, as pyarrow before 14.0.1 would run it."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": CALLING.replace(b"{}", str(canary).encode()),
    }
    field = pa.field("text", pa.binary(), metadata=metadata)
    return parquet(pa.table([pa.array([b"a", b"b"])], schema=pa.schema([field])))


def not_text() -> bytes:
    """Return a text column whose bytes are not UTF-8."""
    offsets = pa.py_buffer(struct.pack("<3i", 0, 2, 4))
    text = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"\xff\xfe\xff\xfe"))
    return parquet(pa.table({"text": text, "label": ["x", "y"]}))


def arrow_file() -> bytes:
    """Return a table in Arrow's own format, which is not read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, plain().schema) as writer:
            writer.write_table(plain())
        return path.read_bytes()


def _names_twice() -> bytes:
    columns = [pa.array(["a", "b"]), pa.array(["c", "d"])]
    return parquet(pa.Table.from_arrays(columns, names=["text", "text"]))


def lists(depth: int) -> bytes:
    """Return one row of lists so many deep."""
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "no footer": ("a.parquet", lambda: parquet(plain())[:-8], "not readable as Parquet"),
    "a footer of 2 GiB": (
        "a.parquet", lambda: parquet(plain())[:-8] + b"\xff\xff\xff\x7fPAR1", "not readable"
    ),
    "a footer of noise": (
        "a.parquet", lambda: b"PAR1" + b"\xa5" * 400 + b"\x90\x01\0\0PAR1", "not readable"
    ),
    "an encrypted footer": ("a.parquet", lambda: parquet(plain())[:-4] + b"PARE", "not readable"),
    "2^62 rows announced": ("a.parquet", lambda: rows_announced(2**62), "more than 5000000 rows"),
    "no rows announced": ("a.parquet", lambda: rows_announced(0), "holds no rows"),
    "more rows announced": ("a.parquet", lambda: rows_announced(4), "the 4 rows that it announces"),
    "fewer rows announced": ("a.parquet", lambda: rows_announced(2), "the 2 rows that it announ"),
    "one row of 20 million nothings": (
        "a.parquet", lambda: one_long_list(20_000_000), "holds more than 1048576 values"
    ),
    "types 40 deep": ("a.parquet", lambda: nested_types(40), "the 1 rows that it announces"),
    "types 10^4 deep": ("a.parquet", lambda: nested_types(10_000), "readable"),
    "text that is not UTF-8": ("a.parquet", not_text, "not readable as Parquet"),
    "two columns of one name": ("a.parquet", _names_twice, "two columns of one name"),
    "too many columns": (
        "a.parquet",
        lambda: parquet(pa.table({f"c{i}": ["x"] for i in range(10_001)})),
        "more than 10000 columns",
    ),
    "another format": ("a.arrow", arrow_file, "not UTF-8"),
    "another format under this ending": ("a.parquet", arrow_file, "not readable as Parquet"),
    "a header of 10^5 fields": (
        "a.csv", lambda: b"a," * 100_000 + b"b\n" + b"1," * 100_000 + b"2\n", "10000 columns"
    ),
    "a quote that never ends": ("a.csv", lambda: b'a,b\n"' + b"x,y\n" * 10**6, "field larger than"),
    "an object of 50,000 keys": (
        "a.jsonl", lambda: json.dumps(dict.fromkeys(map(str, range(50_000)))).encode(), "columns"
    ),
    "lists 10^4 deep": ("a.jsonl", lambda: lists(10_000), "line 1: not one JSON object"),
    "lists 900 deep": ("a.jsonl", lambda: lists(900), "deeper than 64"),
    "lists 64 deep in an object": ("a.jsonl", lambda: lists(64), "deeper than 64"),
    "a number of 10^6 digits": ("a.jsonl", lambda: b'{"a":' + b"9" * 10**6 + b"}", "line 1"),
}  # fmt: skip
"""Files by what is wrong with them: the name, the bytes, what must be said; `invalid_file`."""
