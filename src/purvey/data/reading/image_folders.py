"""A zip of class folders: each image's label is the folder it lies in.

Nothing is ever written to disk from an archive.
"""

from pathlib import Path, PurePosixPath

from purvey.contracts.limits import LIMITS
from purvey.data.reading.table import Cell, RawTable, check_row_count
from purvey.data.reading.zip_file import ZipEntry, read_directory, read_entry
from purvey.errors import InvalidFileError

_IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})

_OFFICE = "[Content_Types].xml"
"""In every zip that is a .docx or .xlsx."""


def read_image_folders(path: Path, *, source: str) -> RawTable:
    """Read a zip whose images lie in one folder per class (`cats/1.png`).

    Hidden files and operating systems' leftovers are skipped; any other file is refused.

    Raises:
        UnsafeArchiveError: An entry is no plain file, points outside, is not what the directory
            says of it, or the caps on entries, bytes or ratio are exceeded.
        InvalidFileError: Not a zip, an entry that is no image, or an image outside a folder.
    """
    images: list[Cell] = []
    labels: list[Cell] = []
    numbers: list[int] = []
    with path.open("rb") as archive:
        entries = read_directory(archive, source=source)
        if any(entry.name == _OFFICE for entry in entries):
            raise InvalidFileError(f"{source!r} is an office document: save it as CSV.")
        for entry in entries:
            if entry.is_folder or _is_leftover(entry.name):
                continue
            _check_image(entry, source=source)
            images.append(read_entry(archive, entry, source=source))
            labels.append(_label(entry.name, source=source))
            numbers.append(entry.number)
    check_row_count(source, len(images))
    return RawTable(
        source=source,
        columns={"image": images, "label": labels},
        lines=numbers,
        row_word="entry",
        details={"format": "image_folders"},
    )


def _is_leftover(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        any(part.startswith(".") for part in parts)
        or parts[-1] in {"Thumbs.db", "desktop.ini"}
        or "__MACOSX" in parts
    )


def _check_image(entry: ZipEntry, *, source: str) -> None:
    if PurePosixPath(entry.name).suffix.lower() not in _IMAGE_ENDINGS:
        raise InvalidFileError(
            f"{source!r}: {entry.name!r} is not an image: keep only {sorted(_IMAGE_ENDINGS)}."
        )
    if entry.num_bytes > LIMITS.image_bytes:
        raise InvalidFileError(
            f"{source!r}: {entry.name!r} is larger than {LIMITS.image_bytes} bytes."
        )


def _label(name: str, *, source: str) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        raise InvalidFileError(f"{source!r}: {name!r} lies in no class folder: use CLASS/{name}.")
    return folder
