"""Training and fine-tuning jobs."""

from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote

import msgspec

from purvey.client.paging import Waiter, items
from purvey.client.transport import Json, Transport
from purvey.client.values import Event, Job, Page
from purvey.contracts.jobs import TERMINAL
from purvey.errors import CapacityError, JobFailedError

FINE_TUNING_PREFIX = "ftjob-"
SWEEP_PREFIX = "sweep_"
SWEEPS = "/v1/training/sweeps"


class TrainingJobs:
    """Runs. Ids of fine-tuning jobs and of sweeps are understood too, by their prefix."""

    def __init__(self, transport: Transport, waiter: Waiter) -> None:
        self._transport, self._waiter = transport, waiter

    def create(self, recipe: Json, *, metadata: dict[str, str] | None = None) -> Job:
        """Start a run described by a recipe (JSON values of a `TrainConfig`)."""
        body: Json = {"recipe": recipe}
        if metadata:
            body["metadata"] = metadata
        return self._transport.create("/v1/training/jobs", Job, body=body)

    def validate(self, recipe: Json) -> Json:
        """Return the recipe resolved in full, with its digest and what its run would take."""
        return self._transport.post(
            "/v1/recipes/validate", dict[str, object], body={"recipe": recipe}
        )

    def tensorboard(self, job_id: str) -> bytes:
        """Return what a job has told so far as an event file for TensorBoard."""
        return self._transport.fetch(f"{_path(job_id)}/tensorboard")

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return self._transport.get(_path(job_id), Job)

    def events(self, job_id: str) -> list[Event]:
        """Return what a job has told so far, oldest first."""
        newest_first = items(self._transport, f"{_path(job_id)}/events", Page[Event])
        return [*newest_first][::-1]

    def list(self) -> Iterator[Job]:
        """Yield every training and fine-tuning job, newest first."""
        jobs = {
            job.id: job
            for path in ("/v1/training/jobs", "/v1/fine_tuning/jobs")
            for job in items(self._transport, path, Page[Job])
        }
        yield from sorted(jobs.values(), key=lambda job: job.created_at, reverse=True)

    def act(self, job_id: str, action: Literal["cancel", "pause", "resume"]) -> Job:
        """Cancel, pause or resume a job.

        Raises:
            ConflictError: Its state does not allow that.
        """
        return self._transport.post(f"{_path(job_id)}/{action}", Job)

    def follow(self, job_id: str) -> Iterator[Event]:
        """Yield a job's events from the first, as they come, until it has ended.

        A connection that breaks is taken up again; no event is yielded twice.

        Raises:
            CapacityError: The server stays away.
        """
        seen: set[str] = set()
        failures = 0
        while True:
            try:
                for event in self._streamed(job_id):
                    failures = 0
                    if event.id not in seen:
                        seen.add(event.id)
                        yield event
                if self.get(job_id).status in TERMINAL:
                    return
            except CapacityError:
                failures += 1
                if failures > 1:
                    raise
            self._waiter.pause()

    def wait(self, job_id: str) -> Job:
        """Wait until a job has ended, and return it.

        Raises:
            JobFailedError: It failed or was cancelled.
        """
        for _ in self.follow(job_id):
            pass
        return succeeded(self.get(job_id))

    def _streamed(self, job_id: str) -> Iterator[Event]:
        stream = self._transport.stream("GET", f"{_path(job_id)}/events", query={"stream": "true"})
        for name, data in stream:
            if name == "done":
                return
            yield msgspec.convert(data, Event)


def succeeded(job: Job) -> Job:
    """Return a job that succeeded.

    Raises:
        JobFailedError: It ended otherwise; the message is the job's own.
    """
    if job.status == "succeeded":
        return job
    error = job.error or {}
    raise JobFailedError(
        str(error.get("message") or f"job {job.id} was {job.status}."), param=error.get("param")
    )


def _path(job_id: str) -> str:
    root = "/v1/training/jobs"
    if job_id.startswith(FINE_TUNING_PREFIX):
        root = "/v1/fine_tuning/jobs"
    elif job_id.startswith(SWEEP_PREFIX):
        root = SWEEPS
    return f"{root}/{quote(job_id, safe='')}"
