"""What jobs read before they run and what becomes of their results.

Jobs, files, datasets, models and the ledger do not know each other; here they meet, always
inside the transaction that moves the job.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.contracts.data import DatasetManifest
from purvey.contracts.jobs import DatasetBuilt, InputDataset, InputFile, JobStatus
from purvey.contracts.model import MANIFEST_NAME, ModelManifest
from purvey.contracts.records import DatasetRecord, JobRecord, UsageRecord
from purvey.contracts.sweep.messages import SweepFinished
from purvey.errors import (
    ConflictError,
    IntegrityError,
    InternalError,
    JobFailedError,
    NotFoundError,
)
from purvey.jobs.hooks import JobHooks, JobInputs, JobResult
from purvey.jobs.sweeps.ending import sweep_of
from purvey.jobs.sweeps.standing import best_of, config_of, counts_of, trials_of
from purvey.registry.models import ModelRegistry
from purvey.store import datasets, files, jobs, ledger, models
from purvey.store.artifacts import Artifact, Artifacts
from purvey.store.blobs import Blobs
from purvey.store.sweeps import trials

UsageStatus = Literal["ok", "error", "cancelled"]
_LEDGER_STATUS: dict[JobStatus, UsageStatus] = {"succeeded": "ok", "cancelled": "cancelled"}


class JobEffects:
    """The hooks of the supervisor.

    Args:
        blobs: Bytes of uploaded files.
        artifacts: Prepared datasets and trained models.
        registry: Where trained models are registered.
        module_roots: Folders of the operator's own modules.
        clock: Times of ledger rows.
    """

    def __init__(
        self,
        *,
        blobs: Blobs,
        artifacts: Artifacts,
        registry: ModelRegistry,
        module_roots: Sequence[Path],
        clock: Clock,
    ) -> None:
        self._blobs, self._artifacts = blobs, artifacts
        self._registry, self._clock = registry, clock
        self._module_roots = tuple(str(root.resolve()) for root in module_roots)

    @property
    def hooks(self) -> JobHooks:
        """All of them."""
        return JobHooks(prepare=self.prepare, outcome=self.outcome, ended=self.ended)

    def prepare(self, conn: Connection, job: JobRecord) -> JobInputs:
        """Resolve the ids in a job's record to what its worker may read.

        Raises:
            NotFoundError: A file, dataset or model is gone.
            ConflictError: The dataset is not ready.
        """
        if job.kind == "sweep":
            return JobInputs()  # its trials read
        if job.kind == "dataset":
            file_ids = datasets.of_job(conn, job.id).file_ids
            sources = tuple(self._file(conn, job, "source", file_id) for file_id in file_ids)
            return JobInputs(files=sources)
        named = {"training": job.training_file, "validation": job.validation_file}
        return JobInputs(
            files=tuple(self._file(conn, job, role, i) for role, i in named.items() if i),
            dataset=self._dataset(conn, job),
            base=self._registry.source_in(conn, models.get(conn, job.project_id, job.base_model))
            if job.base_model
            else None,
            module_roots=self._module_roots,
        )

    def outcome(
        self,
        conn: Connection,
        job: JobRecord,
        result: JobResult,
        artifact: Artifact | None,
    ) -> dict[str, Any]:  # columns of the job's row
        """Make what a job produced usable; return what its row says of it."""
        if isinstance(result, SweepFinished):
            return self._register_best(conn, job)
        assert artifact is not None, "only a sweep publishes nothing"  # noqa: S101
        if isinstance(result, DatasetBuilt):
            manifest = msgspec.to_builtins(result.manifest)
            dataset = datasets.of_job(conn, job.id)
            datasets.finish(
                conn, dataset.id, status="ready", artifact=artifact.digest, manifest=manifest
            )
            return {"result": {"rows": result.manifest.rows, "digest": result.manifest.digest}}
        name = self._keep(conn, job, artifact)
        failpoints.reach("model.registered")
        told = {
            "report": result.report,
            "validation": result.validation,
            "trained_tokens": result.trained_tokens,
            "trained_rows": result.trained_rows,
        }
        return {"fine_tuned_model": name, "result": told}

    def _keep(self, conn: Connection, job: JobRecord, artifact: Artifact) -> str | None:
        """Register what a run has made, and return its name; of a trial, only if that is asked."""
        sweep_id = sweep_of(job)
        if sweep_id is None:
            return self._register(conn, job, artifact)
        trials.hold(conn, job.id, artifact.digest)
        if config_of(jobs.find(conn, sweep_id)).keep == "best":
            return None
        name = f"{job.recipe.get('name') or job.recipe['task']}-trial-{job.request['trial']}"
        named = msgspec.structs.replace(job, recipe=job.recipe | {"name": name})
        return self._register(conn, named, artifact)

    def _register(self, conn: Connection, job: JobRecord, artifact: Artifact) -> str:
        base = models.get(conn, job.project_id, job.base_model) if job.base_model else None
        manifest = _model_manifest(artifact)
        return self._registry.register_trained(conn, job, manifest, artifact, base).name

    def _register_best(self, conn: Connection, sweep: JobRecord) -> dict[str, Any]:
        """Register the model of a sweep's best trial; return what the sweep's row says of it."""
        views = trials_of(conn, sweep)
        best = best_of(views, config_of(sweep).direction)
        if best is None or best.record.artifact is None:
            raise JobFailedError("no trial of the sweep is complete.")
        try:
            folder = self._artifacts.folder(best.record.artifact)
        except NotFoundError:
            raise IntegrityError("the model of the best trial is gone.") from None
        artifact = Artifact(digest=best.record.artifact, folder=folder)
        name = self._register(conn, best.job, artifact)
        failpoints.reach("model.registered")
        told = {
            "best": {
                "trial": best.record.number,
                "job": best.job.id,
                "value": best.value,
                "parameters": best.record.parameters,
            },
            "trials": counts_of(views),
            "compute_s": sum(view.job.compute_s for view in views),
            "report": (best.job.result or {}).get("report"),
        }
        return {"fine_tuned_model": name, "result": told}

    def ended(self, conn: Connection, job: JobRecord) -> None:
        """Write the job's line of the ledger, and the end of the dataset it should have built."""
        ledger.append(conn, self._usage(job))
        failpoints.reach("usage.settled")
        if job.kind == "dataset" and job.status != "succeeded":
            self._fail_dataset(conn, job)

    def _file(self, conn: Connection, job: JobRecord, role: str, file_id: str) -> InputFile:
        record = files.get(conn, job.project_id, file_id)
        return InputFile(
            role=role,
            path=str(self._blobs.path(record.sha256)),
            name=record.name,
            sha256=record.sha256,
            num_bytes=record.num_bytes,
        )

    def _dataset(self, conn: Connection, job: JobRecord) -> InputDataset | None:
        if job.dataset_id is None:
            return None
        record = datasets.get(conn, job.project_id, job.dataset_id)
        if record.status != "ready" or record.artifact is None:
            raise ConflictError(
                f"the dataset {record.id!r} is {record.status}, not ready.", param="dataset"
            )
        try:
            folder = self._artifacts.folder(record.artifact)
        except NotFoundError:
            raise IntegrityError(f"the rows of the dataset {record.id!r} are gone.") from None
        return InputDataset(
            folder=str(folder),
            manifest=msgspec.convert(record.manifest, DatasetManifest),
        )

    def _fail_dataset(self, conn: Connection, job: JobRecord) -> None:
        dataset = _built_by(conn, job)
        if dataset is not None and dataset.status == "processing":
            why = job.error or {
                "code": "cancelled",
                "message": "The job was cancelled.",
                "param": None,
            }
            datasets.finish(conn, dataset.id, status="failed", error=why)

    def _usage(self, job: JobRecord) -> UsageRecord:
        result = job.result or {}
        return UsageRecord(
            request_id=job.id,
            attempt=max(1, job.attempt),
            project_id=job.project_id,
            key_id=job.key_id,
            kind=job.kind,
            model=job.fine_tuned_model or job.base_model or "",
            status=_LEDGER_STATUS.get(job.status, "error"),
            input_tokens=result.get("trained_tokens") or 0,
            rows=result.get("trained_rows") or sum(result.get("rows", {}).values()),
            compute_s=job.compute_s,  # of a sweep none: its trials compute
            created_at=self._clock.now(),
        )


def _built_by(conn: Connection, job: JobRecord) -> DatasetRecord | None:
    try:
        return datasets.of_job(conn, job.id)
    except NotFoundError:
        return None  # its owner has deleted it


def _model_manifest(artifact: Artifact) -> ModelManifest:
    try:
        text = (artifact.folder / MANIFEST_NAME).read_bytes()
        return msgspec.json.decode(text, type=ModelManifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise InternalError("the run left no readable manifest beside its model") from error
