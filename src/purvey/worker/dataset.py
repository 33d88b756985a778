"""Run a dataset job: build the version in the output folder."""

from pathlib import Path
from typing import Literal, Protocol

from pydantic import ValidationError

from purvey.contracts.data import DatasetConfig
from purvey.contracts.jobs import DatasetBuilt, JobSpec
from purvey.contracts.recipe import first_problem
from purvey.data.build import build_dataset


class EventLink(Protocol):
    """The part of a job's link that this runner uses."""

    def event(
        self, message: str, *, level: Literal["info", "warn", "error"] = ..., **data: object
    ) -> None:
        """Tell the owner something."""
        ...


def run(spec: JobSpec, link: EventLink) -> DatasetBuilt:
    """Build the dataset that the spec asks for.

    Raises:
        InvalidValueError: The request names a column that is not there.
        InvalidFileError: A file or row is not usable; the message names the line.
        UnsafeArchiveError: A zip is not safe to read.
    """
    try:
        config = DatasetConfig.model_validate(spec.recipe)
    except ValidationError as error:
        raise first_problem(error, DatasetConfig) from None
    link.event(f"Reading {len(spec.files)} file(s).")
    manifest = build_dataset(spec.files, config, Path(spec.output_dir))
    removed = manifest.profile["duplicates_removed"]
    sizes = ", ".join(f"{split} {count}" for split, count in manifest.rows.items())
    link.event(f"Dataset ready: {sizes} rows; {removed} duplicates removed.")
    return DatasetBuilt(manifest=manifest)
