"""What the composition root adds to jobs: their inputs before a run, their effects after it.

Each hook runs inside a database transaction and composes with the write that surrounds it:
effects of a job and its terminal state are committed together or not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from purvey.contracts.jobs import DatasetBuilt, InputDataset, InputFile, ModelTrained
from purvey.contracts.model import ModelSource
from purvey.contracts.records import JobRecord
from purvey.contracts.sweep.messages import SweepFinished
from purvey.store.artifacts import Artifact


@dataclass(frozen=True, kw_only=True)
class JobInputs:
    """What a job reads: resolved from the ids in its record when an attempt starts."""

    files: tuple[InputFile, ...] = ()
    dataset: InputDataset | None = None
    base: ModelSource | None = None
    module_roots: tuple[str, ...] = ()


Prepare = Callable[[Connection, JobRecord], JobInputs]
"""Resolves inputs; a `PurveyError` it raises fails the job with that error."""

JobResult = DatasetBuilt | ModelTrained | SweepFinished

Outcome = Callable[[Connection, JobRecord, JobResult, Artifact | None], dict[str, Any]]
"""Registers what a job made, for a sweep the best that its trials have; returns columns of the job
row to set beside `succeeded`."""

Ended = Callable[[Connection, JobRecord], None]
"""Follows every move into a terminal state; receives the row as it then is (usage, datasets)."""


@dataclass(frozen=True, kw_only=True)
class JobHooks:
    """The three hooks together."""

    prepare: Prepare
    outcome: Outcome
    ended: Ended
