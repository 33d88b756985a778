"""A job's inputs, read once before its work: bytes that changed at rest are not used."""

import hashlib
from pathlib import Path

from purvey.contracts.jobs import InputFile, JobSpec
from purvey.errors import IntegrityError
from purvey.registry.model_bytes import verify_model


def verify_inputs(spec: JobSpec) -> None:
    """Check files and base; a dataset is checked by its loader, a checkpoint by the server.

    Raises:
        IntegrityError: Something is gone or changed; the message names it.
    """
    for file in spec.files:
        if _sha256_of(file) != file.sha256:
            raise IntegrityError(
                f"the bytes of the file {file.name!r} are not the ones that were stored.",
                hint="Upload it again.",
            )
    if spec.base is not None:
        verify_model(spec.base)


def _sha256_of(file: InputFile) -> str | None:
    try:
        with Path(file.path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
