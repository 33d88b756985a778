"""Files to a prepared dataset: read, type, deduplicate, split, profile, write."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purvey.contracts.data import Column, DatasetConfig, DatasetManifest, SplitConfig
from purvey.contracts.jobs import InputFile
from purvey.contracts.limits import LIMITS
from purvey.data.cautions import cautions
from purvey.data.convert import Value, convert
from purvey.data.dedupe import Deduplicated, deduplicate
from purvey.data.folder import write_manifest, write_splits
from purvey.data.leakage import find_leaks
from purvey.data.profile import profile_columns
from purvey.data.reading.readers import read_files
from purvey.data.reading.table import Cell, RawTable
from purvey.data.schema import Schema, infer_schema, requested_schema
from purvey.data.split_columns import read_owners, read_times
from purvey.data.splits import split_rows
from purvey.errors import InvalidFileError


def build_dataset(
    files: Sequence[InputFile], config: DatasetConfig, folder: Path
) -> DatasetManifest:
    """Build one dataset version in an empty folder; the manifest is written last.

    Equal files, config and library versions give equal bytes.

    Raises:
        InvalidFileError: Names the file and the first lines that cannot be used.
        UnsafeArchiveError: A zip is not safe to read.
        InvalidValueError: The request names a column that is not there, or a split by a column of
            too few values.
    """
    wanted = {*config.columns, *_split_names(config)} if config.columns else set[str]()
    tables = read_files(files, form=config.format, wanted=wanted)
    schema = _schema(tables, config)
    num_read = sum(table.num_rows for table in tables)
    if num_read > LIMITS.dataset_rows:
        raise InvalidFileError(f"the files hold more than {LIMITS.dataset_rows} rows together.")
    by = _read_split(tables, config.splits)
    values: dict[str, list[Value]] = {column.name: [] for column in schema.columns}
    for table in tables:
        for name, converted in convert(table, schema.columns).items():
            values[name].extend(converted)
    unique = deduplicate(values, schema.columns, removed=_removed(config))
    values = {name: [cells[row] for row in unique.kept] for name, cells in values.items()}
    labels = _labels(values, schema.columns)
    rows = split_rows(
        unique.groups,
        labels=labels,
        config=config.splits,
        seed=config.seed,
        owners=[by.owners[row] for row in unique.kept] if by.owners else (),
        times=[by.times[row] for row in unique.kept] if by.times else (),
    )
    leaks = find_leaks(unique.contents, rows)
    profile = {
        "rows_read": num_read,
        "rows": len(unique.kept),
        **_cleaning(unique, schema, tables),
        "leakage": leaks,
        "warnings": cautions(labels=labels, rows=rows, leaks=leaks, config=config.splits),
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


def _split_names(config: DatasetConfig) -> set[str]:
    """Return the columns that the split goes by; none is learned from unless it is asked for."""
    return {name for name in (config.splits.group, config.splits.time) if name is not None}


def _schema(tables: Sequence[RawTable], config: DatasetConfig) -> Schema:
    names = list(tables[0].columns)
    if config.columns:
        return requested_schema(config.columns, names)
    kept = [name for name in names if name not in _split_names(config)] or names
    together: dict[str, list[Cell]] = {
        name: [cell for table in tables for cell in table.columns[name]] for name in kept
    }
    found = infer_schema(together)
    left_out = tuple(name for name in names if name not in kept)
    return Schema(columns=found.columns, ignored=(*found.ignored, *left_out))


@dataclass(frozen=True, kw_only=True)
class _SplitBy:
    """What each row read is divided by; at most one of the two is filled."""

    owners: Sequence[str] = ()
    times: Sequence[float] = ()


def _read_split(tables: Sequence[RawTable], config: SplitConfig) -> _SplitBy:
    if config.time is not None:
        return _SplitBy(times=read_times(tables, config.time))
    if config.group is not None:
        return _SplitBy(owners=read_owners(tables, config.group))
    return _SplitBy()


def _removed(config: DatasetConfig) -> Literal["exact", "near"] | None:
    if isinstance(config.deduplicate, bool):
        return "exact" if config.deduplicate else None
    return config.deduplicate


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
        "near_duplicates_removed": unique.num_near_removed,
        "near_duplicates": unique.num_near,
        "conflicting_rows": unique.num_conflicts,
        "ignored_columns": list(schema.ignored),
        "files": [
            {"name": table.source, "rows": table.num_rows, **table.details} for table in tables
        ],
    }
