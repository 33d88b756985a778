"""Run a dataset job: build the version in the output folder."""

from pathlib import Path
from typing import Literal, Protocol

from pydantic import ValidationError

from purvey.contracts.data import DatasetConfig
from purvey.contracts.jobs import DatasetBuilt, JobSpec
from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe import first_problem
from purvey.data.build import build_dataset
from purvey.data.reading.parquet import rehearse
from purvey.errors import InvalidFileError
from purvey.ipc.confinement import Confinement, memory_of_machine

_OPEN_FILES = 256


class EventLink(Protocol):
    """The part of a job's link that this runner uses."""

    def event(
        self, message: str, *, level: Literal["info", "warn", "error"] = ..., **data: object
    ) -> None:
        """Tell the owner something."""
        ...


def run_confined(spec: JobSpec, link: EventLink) -> DatasetBuilt:
    """Confine this process for good, then build: archives, pictures and tables may be bombs.

    Raises:
        InvalidFileError: As `run`, or the files need more memory than the process may take.
    """
    rehearse()
    memory_bytes = min(LIMITS.dataset_bytes, memory_of_machine() * 3 // 4)
    Confinement(memory_bytes=memory_bytes, file_bytes=LIMITS.dataset_bytes, open_files=_OPEN_FILES)
    try:
        return run(spec, link)
    except MemoryError:
        raise InvalidFileError(
            f"the files need more memory than the {memory_bytes} bytes that preparing a dataset "
            "may take: split them, or drop rows."
        ) from None


def run(spec: JobSpec, link: EventLink) -> DatasetBuilt:
    """Build the dataset that the spec asks for.

    Raises:
        InvalidValueError: The request names a column that is not there.
        InvalidFileError: A file is not usable; the message names its first bad lines.
        UnsafeArchiveError: A zip is not safe to read.
    """
    try:
        config = DatasetConfig.model_validate(spec.recipe)
    except ValidationError as error:
        raise first_problem(error, DatasetConfig) from None
    link.event(f"Reading {len(spec.files)} file(s).")
    manifest = build_dataset(spec.files, config, Path(spec.output_dir))
    for caution in manifest.profile["warnings"]:
        link.event(caution, level="warn")
    profile = manifest.profile
    removed = profile["duplicates_removed"] + profile["near_duplicates_removed"]
    sizes = ", ".join(f"{split} {count}" for split, count in manifest.rows.items())
    link.event(f"Dataset ready: {sizes} rows; {removed} duplicates removed.")
    return DatasetBuilt(manifest=manifest)
