"""A zip of images or recordings, labelled by the folder each lies in, or described by a manifest.

Nothing is ever written to disk from an archive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from purvey.contracts.limits import LIMITS
from purvey.data.reading.delimited import read_delimited
from purvey.data.reading.jsonl import read_jsonl
from purvey.data.reading.table import Cell, RawTable, check_row_count
from purvey.data.reading.zip_file import ZipEntry, read_directory, read_entry
from purvey.errors import InvalidFileError

FILE_NAME = "file_name"
"""Column of a manifest that names each row's file, beside the manifest or below it."""
MANIFESTS = frozenset({"metadata.csv", "metadata.tsv", "metadata.jsonl"})
_OFFICE = "[Content_Types].xml"
"""In every zip that is a .docx or .xlsx."""


@dataclass(frozen=True, kw_only=True)
class MediaKind:
    """What lies in a zip.

    Args:
        form: The format's name.
        column: The column that holds the files.
        what: One of them, in words.
        endings: Of their names.
        most_bytes: Largest file.
    """

    form: Literal["image_folders", "audio_folders"]
    column: str
    what: str
    endings: frozenset[str]
    most_bytes: int


KINDS = (
    MediaKind(
        form="image_folders",
        column="image",
        what="an image",
        endings=frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}),
        most_bytes=LIMITS.image_bytes,
    ),
    MediaKind(
        form="audio_folders",
        column="audio",
        what="a recording",
        endings=frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"}),
        most_bytes=LIMITS.audio_bytes,
    ),
)


def read_media_zip(
    path: Path, *, source: str, form: Literal["image_folders", "audio_folders"] | None = None
) -> RawTable:
    """Read a zip whose files lie in one folder per class (`cats/1.png`), or have a manifest.

    A manifest is `metadata.csv`, `metadata.tsv` or `metadata.jsonl`; its column `file_name` names
    each row's file, and all its other columns come along. Hidden files and operating systems'
    leftovers are skipped; any other file is refused.

    Args:
        path: The zip.
        source: Its name, for messages.
        form: What lies in it; None looks at the first file.

    Raises:
        UnsafeArchiveError: An entry is no plain file, points outside, is not what the directory
            says of it, or the caps on entries, bytes or ratio are exceeded.
        InvalidFileError: Not a zip, an entry of another kind, one that is outside a folder or
            that the manifest does not name, a row whose file is not there, or an empty class.
    """
    with path.open("rb") as archive:
        everything = read_directory(archive, source=source)
        if any(entry.name == _OFFICE for entry in everything):
            raise InvalidFileError(f"{source!r} is an office document: save it as CSV.")
        entries = [e for e in everything if not e.is_folder and not _is_leftover(e.name)]
        manifests = [e for e in entries if PurePosixPath(e.name).name.lower() in MANIFESTS]
        media = [entry for entry in entries if entry not in manifests]
        check_row_count(source, len(media))
        kind = _kind(media, form)
        for entry in media:
            _check_entry(entry, kind, source=source)
        if len(manifests) > 1:
            names = f"{manifests[0].name!r} and {manifests[1].name!r}"
            raise InvalidFileError(f"{source!r} has the manifests {names}: keep one.")
        if manifests:
            return _described(archive, manifests[0], media, kind, source=source)
        _check_folders(everything, media, source=source)
        return _labelled(archive, media, kind, source=source)


def _labelled(
    archive: BinaryIO, media: Sequence[ZipEntry], kind: MediaKind, *, source: str
) -> RawTable:
    files: list[Cell] = []
    labels: list[Cell] = []
    for entry in media:
        labels.append(_label(entry.name, source=source))
        files.append(read_entry(archive, entry, source=source))
    return RawTable(
        source=source,
        columns={kind.column: files, "label": labels},
        lines=[entry.number for entry in media],
        row_word="entry",
        entries=[entry.name for entry in media],
        details={"format": kind.form},
    )


def _described(
    archive: BinaryIO,
    manifest: ZipEntry,
    media: Sequence[ZipEntry],
    kind: MediaKind,
    *,
    source: str,
) -> RawTable:
    table = _manifest(read_entry(archive, manifest, source=source), manifest, source=source)
    if FILE_NAME not in table.columns:
        raise InvalidFileError(
            f"{table.source!r} has no column {FILE_NAME!r}, which says which file each row is of."
        )
    others = {name: cells for name, cells in table.columns.items() if name != FILE_NAME}
    if kind.column in others:
        raise InvalidFileError(
            f"{table.source!r} has a column {kind.column!r}, which is what the files are called: "
            "rename it."
        )
    named = _entries_of_rows(table, manifest, media)
    in_rows = set(named)
    unnamed = next((entry for entry in media if entry.name not in in_rows), None)
    if unnamed is not None:
        raise InvalidFileError(
            f"{source!r}: {unnamed.name!r} stands in no row of {manifest.name!r}: add one, or "
            "drop the file."
        )
    data = {entry.name: read_entry(archive, entry, source=source) for entry in media}
    return RawTable(
        source=table.source,
        columns={kind.column: [data[name] for name in named], **others},
        lines=table.lines,
        entries=named,
        details={"format": kind.form},
    )


def _manifest(content: bytes, entry: ZipEntry, *, source: str) -> RawTable:
    name = f"{source}/{entry.name}"
    match PurePosixPath(entry.name).suffix.lower():
        case ".jsonl":
            return read_jsonl(content, source=name)
        case ".tsv":
            return read_delimited(content, source=name, form="tsv", wanted={FILE_NAME})
        case _:
            return read_delimited(content, source=name, form="csv", wanted={FILE_NAME})


def _entries_of_rows(table: RawTable, manifest: ZipEntry, media: Sequence[ZipEntry]) -> list[str]:
    """Return the name of each row's entry; one may stand in several rows."""
    folder = PurePosixPath(manifest.name).parent
    known = {entry.name for entry in media}
    named: list[str] = []
    problems = table.problems()
    for row, cell in enumerate(table.columns[FILE_NAME]):
        name = str(folder / str(cell).strip().removeprefix("./"))
        if name not in known:
            table.note(problems, row, f"the archive has no file {name!r}: correct {FILE_NAME!r}")
        named.append(name)
    problems.check()
    return named


def _is_leftover(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        any(part.startswith(".") for part in parts)
        or parts[-1] in {"Thumbs.db", "desktop.ini"}
        or "__MACOSX" in parts
    )


def _kind(media: Sequence[ZipEntry], form: str | None) -> MediaKind:
    """Return the kind that is asked for, else that of the first file, else images."""
    ending = PurePosixPath(media[0].name).suffix.lower()
    told = (kind for kind in KINDS if (kind.form == form if form else ending in kind.endings))
    return next(told, KINDS[0])


def _check_entry(entry: ZipEntry, kind: MediaKind, *, source: str) -> None:
    if PurePosixPath(entry.name).suffix.lower() not in kind.endings:
        raise InvalidFileError(
            f"{source!r}: {entry.name!r} is not {kind.what}: keep only {sorted(kind.endings)}."
        )
    if entry.num_bytes > kind.most_bytes:
        raise InvalidFileError(
            f"{source!r}: {entry.name!r} is larger than {kind.most_bytes} bytes."
        )


def _check_folders(
    everything: Sequence[ZipEntry], media: Sequence[ZipEntry], *, source: str
) -> None:
    """Refuse a class without a file: nobody means to learn it."""
    filled = {parent for entry in media for parent in PurePosixPath(entry.name).parents}
    for entry in everything:
        is_class = entry.is_folder and not _is_leftover(entry.name)
        if is_class and PurePosixPath(entry.name) not in filled:
            raise InvalidFileError(
                f"{source!r}: the class folder {entry.name!r} is empty: fill it, or drop it."
            )


def _label(name: str, *, source: str) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        raise InvalidFileError(
            f"{source!r}: {name!r} lies in no class folder: use CLASS/{name}, or add a manifest."
        )
    return folder
