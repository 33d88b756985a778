"""A prepared dataset on disk: one Parquet file per split, a preview, the manifest last."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from purvey.contracts.data import DATASET_MANIFEST_NAME, SPLITS, Column, DatasetManifest
from purvey.data.convert import Value
from purvey.errors import IntegrityError

PREVIEW_NAME = "preview.json"
PREVIEW_ROWS = 1_000
"""Rows of a split that are kept for showing, at most."""
_PREVIEW_BYTES = 2 * 2**20
"""Encoded, the rows of a split that are kept for showing; the first 20 are kept in any case."""
_LEAST_ROWS = 20
_PREVIEW_CHARS = 1_000
_PREVIEW_MEDIA_BYTES = 128 * 1_024
_IMAGE_TYPES = {b"\xff\xd8": "jpeg", b"RI": "webp", b"GI": "gif", b"BM": "bmp"}
_AUDIO_TYPES = {b"RI": "wav", b"fL": "flac", b"Og": "ogg"}
_ARROW_TYPES = {
    "text": pa.string(),
    "label": pa.string(),
    "conversation": pa.string(),
    "preference": pa.string(),
    "category": pa.string(),
    "transcript": pa.string(),
    "score": pa.float64(),
    "audio": pa.binary(),
    "number": pa.float64(),
    "image": pa.binary(),
}


def write_splits(
    folder: Path,
    values: Mapping[str, Sequence[Value]],
    columns: tuple[Column, ...],
    rows: Mapping[str, Sequence[int]],
) -> str:
    """Write `<split>.parquet` for every split, and `preview.json`.

    Returns:
        The dataset's digest: hex SHA-256 over the split files' digests and the columns.
    """
    schema = pa.schema([(column.name, _ARROW_TYPES[column.kind]) for column in columns])
    for split in SPLITS:
        chosen = {c.name: [values[c.name][row] for row in rows[split]] for c in columns}
        pq.write_table(pa.table(chosen, schema=schema), folder / f"{split}.parquet")
    preview = {split: list(_preview(values, columns, rows[split])) for split in SPLITS}
    text = json.dumps(preview, ensure_ascii=False)
    (folder / PREVIEW_NAME).write_text(text, encoding="utf-8")
    return folder_digest(folder, columns)


def write_manifest(folder: Path, manifest: DatasetManifest) -> None:
    """Write the manifest; a folder without one is not a dataset."""
    (folder / DATASET_MANIFEST_NAME).write_bytes(
        msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    )


def folder_digest(folder: Path, columns: tuple[Column, ...]) -> str:
    """Compute the digest of what lies in the folder."""
    splits = {}
    for split in SPLITS:
        with (folder / f"{split}.parquet").open("rb") as stream:
            splits[split] = hashlib.file_digest(stream, "sha256").hexdigest()
    described = {"columns": [[c.name, c.kind] for c in columns], "splits": splits}
    canonical = json.dumps(described, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def verify_folder(folder: Path, manifest: DatasetManifest) -> None:
    """Check that the stored bytes are the ones that were written.

    Raises:
        IntegrityError: They are not, or a file is missing.
    """
    try:
        found = folder_digest(folder, manifest.columns)
    except OSError as error:
        raise IntegrityError("a file of the dataset cannot be read: build it again.") from error
    if found != manifest.digest:
        raise IntegrityError("the stored dataset was changed on disk: build it again.")


def _preview(
    values: Mapping[str, Sequence[Value]], columns: tuple[Column, ...], rows: Sequence[int]
) -> Iterator[dict[str, Any]]:
    num_bytes = 0
    for number, row in enumerate(rows[:PREVIEW_ROWS]):
        shown = {c.name: _shown(values[c.name][row], c) for c in columns}
        num_bytes += len(json.dumps(shown, ensure_ascii=False).encode())
        if number >= _LEAST_ROWS and num_bytes > _PREVIEW_BYTES:
            return
        yield shown


def _shown(value: Value, column: Column) -> Any:  # noqa: ANN401 (JSON value)
    if isinstance(value, bytes):
        if len(value) > _PREVIEW_MEDIA_BYTES:
            return None
        is_audio, start = column.kind == "audio", value[:2]
        kind = _AUDIO_TYPES.get(start, "mpeg") if is_audio else _IMAGE_TYPES.get(start, "png")
        encoded = base64.b64encode(value).decode()
        return f"data:{column.kind}/{kind};base64,{encoded}"
    if isinstance(value, str):
        return json.loads(value) if column.kind == "conversation" else value[:_PREVIEW_CHARS]
    return value
