"""Files to a prepared dataset: read, type, deduplicate, split, profile, write."""

import math
from collections.abc import Sequence
from pathlib import Path

from purvey.contracts.data import Column, DatasetConfig, DatasetManifest
from purvey.contracts.jobs import InputFile
from purvey.contracts.limits import LIMITS
from purvey.data.convert import Value, convert
from purvey.data.dedupe import Deduplicated, deduplicate
from purvey.data.folder import write_manifest, write_splits
from purvey.data.profile import profile_columns
from purvey.data.reading.readers import read_files
from purvey.data.reading.table import Cell, RawTable
from purvey.data.schema import Schema, infer_schema, requested_schema
from purvey.data.splits import split_rows
from purvey.errors import InvalidFileError


def build_dataset(
    files: Sequence[InputFile], config: DatasetConfig, folder: Path
) -> DatasetManifest:
    """Build one dataset version in an empty folder; the manifest is written last.

    Equal files, config and library versions give equal bytes.

    Raises:
        InvalidFileError: Names the file and line that cannot be used.
        UnsafeArchiveError: A zip is not safe to read.
        InvalidValueError: The request names a column that is not there.
    """
    tables = read_files(files, form=config.format, wanted=config.columns)
    schema = _schema(tables, config)
    num_read = sum(table.num_rows for table in tables)
    if num_read > LIMITS.dataset_rows:
        raise InvalidFileError(f"the files hold more than {LIMITS.dataset_rows} rows together.")
    values: dict[str, list[Value]] = {column.name: [] for column in schema.columns}
    for table in tables:
        for name, converted in convert(table, schema.columns).items():
            values[name].extend(converted)
    unique = deduplicate(values, schema.columns, is_wanted=config.deduplicate)
    values = {name: [cells[row] for row in unique.kept] for name, cells in values.items()}
    labels = _labels(values, schema.columns)
    rows = split_rows(unique.groups, labels=labels, config=config.splits, seed=config.seed)
    profile = {
        "rows_read": num_read,
        "rows": len(unique.kept),
        **_cleaning(unique, schema, tables),
        **profile_columns(values, schema.columns, rows),
    }
    manifest = DatasetManifest(
        columns=schema.columns,
        labels=sorted_labels(labels or ()),
        rows={split: len(chosen) for split, chosen in rows.items()},
        profile=profile,
        digest=write_splits(folder, values, schema.columns, rows),
        source_sha256=tuple(file.sha256 for file in files),
    )
    write_manifest(folder, manifest)
    return manifest


def sorted_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct labels; all-numeric ones in numeric order, else by code point.

    Raises:
        InvalidFileError: More distinct labels than `LIMITS.labels`.
    """
    distinct = set(labels)
    if len(distinct) > LIMITS.labels:
        raise InvalidFileError(f"more than {LIMITS.labels} distinct labels: merge some.")
    if all(_is_finite_number(label) for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (float(label), label)))
    return tuple(sorted(distinct))


def _is_finite_number(label: str) -> bool:
    """Tell whether a label orders as a number; `nan` does not, and reads as one."""
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _schema(tables: Sequence[RawTable], config: DatasetConfig) -> Schema:
    names = list(tables[0].columns)
    if config.columns:
        return requested_schema(config.columns, names)
    together: dict[str, list[Cell]] = {
        name: [cell for table in tables for cell in table.columns[name]] for name in names
    }
    return infer_schema(together)


def _labels(values: dict[str, list[Value]], columns: tuple[Column, ...]) -> list[str] | None:
    for column in columns:
        if column.kind == "label":
            return [str(value) for value in values[column.name]]
    return None


def _cleaning(
    unique: Deduplicated, schema: Schema, tables: Sequence[RawTable]
) -> dict[str, object]:
    return {
        "duplicates_removed": unique.num_removed,
        "conflicting_rows": unique.num_conflicts,
        "ignored_columns": list(schema.ignored),
        "files": [
            {"name": table.source, "rows": table.num_rows, **table.details} for table in tables
        ],
    }
