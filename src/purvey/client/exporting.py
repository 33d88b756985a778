"""A model's files, fetched into a folder."""

import hashlib
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from purvey.client.transport import Transport
from purvey.client.values import ModelFile, Page
from purvey.errors import IntegrityError, InvalidFileError, InvalidValueError


def exported(transport: Transport, name: str, folder: Path) -> list[ModelFile]:
    """Write a model's files into a new folder, each checked against its digest.

    Raises:
        InvalidFileError: The folder is there already, or cannot be made.
        IntegrityError: A file is not what the server says it is; nothing is left.
        PurveyError: Whatever the server refuses it for.
    """
    files = transport.get(_url(name), Page[ModelFile]).data
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InvalidFileError(
            f"the folder {str(folder)!r} cannot be made: {error.strerror}.",
            param="folder",
            hint="Name one that is not there yet.",
        ) from None
    try:
        for file in files:
            _fetch(transport, name, folder, file)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return files


def _fetch(transport: Transport, name: str, folder: Path, file: ModelFile) -> None:
    parts = PurePosixPath(file.file)
    if parts.is_absolute() or ".." in parts.parts:
        raise InvalidValueError(f"the server names the file {file.file!r}, outside the folder.")
    target = folder / parts
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w+b") as opened:
        transport.save(_url(name), opened, query={"file": file.file})
        opened.seek(0)
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            raise IntegrityError(f"the file {file.file!r} did not arrive as the server has it.")


def _url(name: str) -> str:
    return f"/v1/exports/{quote(name, safe='')}"
