"""A zip of class folders: each image's label is the folder it lies in.

Nothing is ever written to disk from an archive. Entries must be plain files with relative
names, within the caps of the limits table, checked against what really inflates.
"""

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from purvey.contracts.limits import LIMITS
from purvey.data.table import Cell, RawTable, check_row_count
from purvey.errors import InvalidFileError, UnsafeArchiveError

_IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
_ENCRYPTED = 0x1

_OFFICE = "[Content_Types].xml"
"""In every zip that is a .docx or .xlsx."""


def read_image_folders(path: Path, *, source: str) -> RawTable:
    """Read a zip whose images lie in one folder per class (`cats/1.png`).

    Hidden files and operating systems' leftovers are skipped; any other file is refused.

    Raises:
        UnsafeArchiveError: An entry is no plain file, points outside, is encrypted, or the
            caps on entries, bytes or ratio are exceeded.
        InvalidFileError: Not a zip, an entry that is no image, or an image outside a folder.
    """
    images: list[Cell] = []
    labels: list[Cell] = []
    numbers: list[int] = []
    budget = LIMITS.archive_bytes
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename == _OFFICE for entry in entries):
                raise InvalidFileError(f"{source!r} is an office document: save it as CSV.")
            check_entries(entries, source=source)
            for number, entry in enumerate(entries, start=1):
                if entry.is_dir() or _is_leftover(entry.filename):
                    continue
                images.append(_read_entry(archive, entry, source=source, budget=budget))
                labels.append(_label(entry.filename, source=source))
                numbers.append(number)
                budget -= entry.file_size
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise InvalidFileError(f"{source!r} is not a readable zip: pack it again.") from error
    check_row_count(source, len(images))
    return RawTable(
        source=source,
        columns={"image": images, "label": labels},
        lines=numbers,
        row_word="entry",
        details={"format": "image_folders"},
    )


def check_entries(entries: list[zipfile.ZipInfo], *, source: str) -> None:
    """Refuse an archive by its directory, before anything is inflated.

    Raises:
        UnsafeArchiveError: Too many entries or bytes, or an entry that is not a plain file inside.
    """
    if len(entries) > LIMITS.archive_entries:
        raise UnsafeArchiveError(f"{source!r} has more than {LIMITS.archive_entries} entries.")
    if sum(entry.file_size for entry in entries) > LIMITS.archive_bytes:
        raise UnsafeArchiveError(f"{source!r} inflates to more than {LIMITS.archive_bytes} bytes.")
    for number, entry in enumerate(entries, start=1):
        if problem := _entry_problem(entry):
            raise UnsafeArchiveError(
                f"{source!r}, entry {number}: {problem}.", param=f"entry {number}"
            )


def _entry_problem(entry: zipfile.ZipInfo) -> str:
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
        return "its name points outside the archive"
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "it is a link or a device, not a plain file"
    if entry.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    if entry.file_size > LIMITS.archive_ratio * max(1, entry.compress_size):
        return f"it inflates more than {LIMITS.archive_ratio} times"
    return ""


def _is_leftover(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        any(part.startswith(".") for part in parts)
        or parts[-1] in {"Thumbs.db", "desktop.ini"}
        or "__MACOSX" in parts
    )


def _read_entry(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, *, source: str, budget: int
) -> bytes:
    if PurePosixPath(entry.filename).suffix.lower() not in _IMAGE_ENDINGS:
        raise InvalidFileError(
            f"{source!r}: {entry.filename!r} is not an image: keep only {sorted(_IMAGE_ENDINGS)}."
        )
    if entry.file_size > LIMITS.image_bytes:
        raise InvalidFileError(
            f"{source!r}: {entry.filename!r} is larger than {LIMITS.image_bytes} bytes."
        )
    with archive.open(entry) as stream:
        data = stream.read(entry.file_size + 1)  # one more than announced shows a lie
    if len(data) != entry.file_size or len(data) > budget:
        raise UnsafeArchiveError(f"{source!r}: {entry.filename!r} is not as large as announced.")
    return data


def _label(name: str, *, source: str) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        raise InvalidFileError(f"{source!r}: {name!r} lies in no class folder: use CLASS/{name}.")
    return folder
