"""Datasets: what is asked for, and what a prepared version holds.

A prepared version is a folder with one Parquet file per split (`train.parquet`,
`validation.parquet`, `test.parquet`) and `dataset.json`, the manifest. Columns by kind:
text, label, category and transcript as string, number and score as float64, image and audio as
the encoded bytes, conversation and preference as JSON text.
"""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError

DATASET_MANIFEST_NAME = "dataset.json"
SPLITS = ("train", "validation", "test")
ColumnKind = Literal[
    "text",
    "label",
    "number",
    "image",
    "conversation",
    "category",
    "score",
    "audio",
    "transcript",
    "preference",
]
"""Inputs are `text`, `number`, `category`, `image`, `audio`; what is learned from them is the
`label` (one of a few), the `score` (a number) or the `transcript` (what a recording says). A
`conversation` and a `preference` (a prompt with a better and a worse answer) stand alone."""
INPUT_KINDS: tuple[ColumnKind, ...] = ("text", "number", "category", "image", "audio")
TARGET_KINDS: tuple[ColumnKind, ...] = ("label", "score", "transcript")


ColumnName = Annotated[str, Field(min_length=1, max_length=128)]


class SplitConfig(BaseModel):
    """How rows are divided. Fractions are of the rows that remain after deduplication.

    At random, unless one of `group` and `time` names a column of the files. Rows that ask the
    same, or nearly the same, are on one side in any case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    stratify: bool = True
    """Keep each label's share in every split, where there is a label column; not by time."""
    group: ColumnName | None = None
    """Rows with equal values in this column are on one side: a speaker, a patient, a document."""
    time: ColumnName | None = None
    """The latest rows by this column are the test, those before them validation. Numbers, or dates
    in ISO 8601; without a zone they are in UTC."""


def resolved_splits(
    *,
    validation: float = 0.1,
    test: float = 0.1,
    stratify: bool | None = None,
    group: str | None = None,
    time: str | None = None,
) -> SplitConfig:
    """Resolve how rows are divided, where `stratify` may be left to the rest.

    Raises:
        InvalidValueError: No rows would train, or the fields contradict one another.
    """
    if validation + test >= 1:
        raise InvalidValueError(
            "validation and test together leave no rows to train on.", param="splits"
        )
    if group is not None and time is not None:
        raise InvalidValueError(
            "rows are divided by a group or by time, not by both: drop one.", param="splits.time"
        )
    if time is not None and stratify:
        raise InvalidValueError(
            "a split by time takes the latest rows, whatever their label: drop splits.stratify.",
            param="splits.stratify",
        )
    is_stratified = time is None if stratify is None else stratify
    return SplitConfig(
        validation=validation, test=test, stratify=is_stratified, group=group, time=time
    )


class DatasetConfig(BaseModel):
    """A dataset as asked for: format, columns, cleaning, splits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[
        "auto", "csv", "tsv", "jsonl", "parquet", "text", "image_folders", "audio_folders"
    ] = "auto"
    """`auto` looks at the file name's ending, then at the first bytes."""
    columns: dict[ColumnName, ColumnKind] = {}
    """Column name to kind; empty means inferred, and the manifest says what was inferred."""
    deduplicate: Literal["exact", "near"] | bool = "exact"
    """What is removed: rows equal to an earlier one, target included; `near`, also rows whose
    texts and images are nearly an earlier one's and whose other values are equal; false, none.
    `true` means `exact`."""
    splits: SplitConfig = SplitConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a prepared dataset."""

    name: str
    kind: ColumnKind


class DatasetManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `dataset.json`.

    Args:
        columns: Columns in order.
        labels: Distinct labels, sorted; numeric-looking ones in numeric order.
        rows: Rows per split.
        profile: Counts, balance, lengths, sizes, duplicates removed, by name (JSON values).
        digest: Hex SHA-256 over the split files' digests and the columns.
        source_sha256: Digests of the files it was made from.
    """

    columns: tuple[Column, ...]
    labels: tuple[str, ...] = ()
    rows: dict[str, int] = {}
    profile: dict[str, Any] = {}  # JSON values
    digest: str = ""
    source_sha256: tuple[str, ...] = ()

    def column(self, kind: ColumnKind) -> str | None:
        """Return the name of the first column of that kind."""
        return next((c.name for c in self.columns if c.kind == kind), None)


MAX_ROWS = LIMITS.dataset_rows
