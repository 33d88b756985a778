"""What a backup says of itself: every file with its size and SHA-256, written last.

A folder without `backup.json` is not a backup. `DATABASE`, `PEPPER`, `BLOBS` and `ARTIFACTS`
are where a data folder has these things, and a backup has them at the same places.
"""

import re
from pathlib import Path, PurePosixPath

import msgspec

from purvey.errors import IntegrityError, UnsupportedValueError

MANIFEST = "backup.json"
FORMAT = 1
DATABASE, PEPPER, BLOBS, ARTIFACTS = "purvey.db", "secret/pepper", "blobs", "artifacts"
_ALLOWED = re.compile(
    rf"{re.escape(DATABASE)}|{PEPPER}|{BLOBS}/[0-9a-f]{{64}}|{ARTIFACTS}/[0-9a-f]{{64}}/[^\0]+"
)


class BackupFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a backup; `path` is relative, with `/`."""

    path: str
    num_bytes: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `backup.json`.

    Attributes:
        format: Version of this layout.
        purvey: Version of the program that wrote it.
        database_schema: Version of the database's tables.
        created_at: Epoch seconds at which the copy began.
        files: Every other file, by path.
        models_elsewhere: Models served from the operator's own folders, which are not copied.
        unfinished_jobs: Jobs that had checkpoints to go on from, which are not copied.
    """

    format: int
    purvey: str
    database_schema: str
    created_at: float
    files: tuple[BackupFile, ...]
    models_elsewhere: tuple[str, ...] = ()
    unfinished_jobs: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.num_bytes for file in self.files)


def read_manifest(folder: Path) -> BackupManifest:
    """Read `backup.json`, and refuse paths that no backup has.

    Raises:
        IntegrityError: It is missing or damaged.
        UnsupportedValueError: A newer version wrote it.
        OSError: The disk refused.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(
            f"{str(folder)!r} is not a finished backup: {MANIFEST!r} is missing."
        ) from None
    try:
        manifest = msgspec.json.decode(content, type=BackupManifest)
    except msgspec.MsgspecError:
        raise IntegrityError(f"the backup is damaged: {MANIFEST!r} cannot be read.") from None
    if manifest.format != FORMAT:
        raise UnsupportedValueError(
            f"the backup has format {manifest.format}, which this version does not know.",
            param="source",
            hint="It was written by a newer Purvey: upgrade, or restore an older backup.",
        )
    for file in manifest.files:
        if not _ALLOWED.fullmatch(file.path) or ".." in PurePosixPath(file.path).parts:
            raise IntegrityError(f"the backup is damaged: it names {file.path!r}.")
    return manifest
