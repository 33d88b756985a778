"""Files to one raw table: the format by request, by ending, or by the first bytes."""

from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from typing import Literal, assert_never

from purvey.contracts.jobs import InputFile
from purvey.data.reading.delimited import read_delimited
from purvey.data.reading.jsonl import read_jsonl
from purvey.data.reading.media_zip import read_media_zip
from purvey.data.reading.parquet import read_parquet
from purvey.data.reading.plain_text import read_text
from purvey.data.reading.table import RawTable
from purvey.errors import InvalidFileError

Format = Literal["csv", "tsv", "jsonl", "parquet", "text", "image_folders", "audio_folders", "zip"]
"""`zip` holds images or recordings, whichever it is."""

_BY_ENDING: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".zip": "zip",
    ".md": "text",
}


def read_files(
    files: Sequence[InputFile],
    *,
    form: Format | Literal["auto"] = "auto",
    wanted: Collection[str] = (),
) -> list[RawTable]:
    """Read every file; all must have the same columns, or all that are asked for.

    Args:
        files: The files, at least one.
        form: Their format, or `auto` to find it for each.
        wanted: Column names the caller will ask for.

    Raises:
        InvalidFileError: A file is not usable; the message names it, and its line.
        UnsafeArchiveError: A zip is not safe to read.
    """
    if not files:
        raise InvalidFileError("a dataset needs at least one file.", param="file_ids")
    tables = [
        read_file(
            Path(file.path),
            source=file.name,
            form=detect_format(file) if form == "auto" else form,
            wanted=wanted,
        )
        for file in files
    ]
    for table in tables[1:]:
        is_enough = bool(wanted) and table.columns.keys() >= set(wanted)
        if table.columns.keys() != tables[0].columns.keys() and not is_enough:
            raise InvalidFileError(
                f"{table.source!r} has the columns {sorted(table.columns)}, but "
                f"{tables[0].source!r} has {sorted(tables[0].columns)}: make them equal."
            )
    return tables


def read_file(path: Path, *, source: str, form: Format, wanted: Collection[str] = ()) -> RawTable:
    """Read one file of a known format.

    Raises:
        InvalidFileError: The file is not usable; the message names the line.
        UnsafeArchiveError: A zip is not safe to read.
    """
    match form:
        case "csv" | "tsv":
            return read_delimited(path, source=source, form=form, wanted=wanted)
        case "jsonl":
            return read_jsonl(path, source=source)
        case "parquet":
            return read_parquet(path, source=source)
        case "text":
            return read_text(path, source=source)
        case "image_folders" | "audio_folders":
            return read_media_zip(path, source=source, form=form)
        case "zip":
            return read_media_zip(path, source=source)
        case _:
            assert_never(form)


def detect_format(file: InputFile) -> Format:
    """Return a file's format from its ending, else from its first bytes.

    A file without a telling ending is JSON Lines when it begins with a brace, tab separated
    when each of its first lines has equally many tabs, else text.
    """
    if form := _BY_ENDING.get(PurePath(file.name).suffix.lower()):
        return form
    with Path(file.path).open("rb") as stream:
        head = stream.read(16 * 1_024)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"PAR1"):
        return "parquet"
    head = head.removeprefix(b"\xef\xbb\xbf")
    if head.lstrip().startswith(b"{"):
        return "jsonl"
    tabs = {line.count(b"\t") for line in head.splitlines()[:-1] if line.strip()}
    return "tsv" if len(tabs) == 1 and tabs != {0} else "text"
