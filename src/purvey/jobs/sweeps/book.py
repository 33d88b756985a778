"""What a sweep's worker asks for, written down: trials become jobs, or are made to end."""

from typing import Any

from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.jobs import TERMINAL
from purvey.contracts.recipe import parse_recipe
from purvey.contracts.records import JobRecord, TrialRecord
from purvey.contracts.sweep.config import digest_of, trial_values
from purvey.contracts.sweep.messages import TrialAsked, TrialStopped
from purvey.errors import InternalError, InvalidValueError
from purvey.jobs.bell import QUEUE, Bell, events_of, wishes_for
from purvey.jobs.draft import queued
from purvey.jobs.hooks import Ended
from purvey.jobs.sweeps.ending import end_trial
from purvey.jobs.sweeps.standing import config_of
from purvey.store import events, jobs
from purvey.store.sweeps import trials

Request = TrialAsked | TrialStopped


class TrialBook:
    """The trials of one sweep, as its worker has them written. One attempt owns it.

    Args:
        sweep: The sweep's job.
        clock: Time of events.
        ended: Effects of the end of a trial that waits.
    """

    def __init__(self, sweep: JobRecord, *, clock: Clock, ended: Ended) -> None:
        self._sweep, self._config = sweep, config_of(sweep)
        self._clock, self._ended = clock, ended
        self._topics: set[str] = set()

    def write(self, conn: Connection, request: Request) -> None:
        """Write one request, in the transaction that has checked the sweep's lease.

        Raises:
            InternalError: The worker counts otherwise than the rows do.
        """
        known = trials.of_sweep(conn, self._sweep.id)
        if isinstance(request, TrialAsked):
            if request.number != len(known) or request.number >= self._config.max_trials:
                raise InternalError(f"trial {request.number} was asked for after {len(known)}")
            self._begin(conn, request)
        else:
            if request.number >= len(known):
                raise InternalError(f"trial {request.number} is to stop, and has not begun")
            self._stop(conn, known[request.number], request)

    def ring(self, bell: Bell) -> None:
        """Wake whoever waits for what has been written; call it when that is on disk."""
        topics, self._topics = self._topics, set()
        for topic in topics:
            bell.ring(topic)

    def _begin(self, conn: Connection, asked: TrialAsked) -> None:
        sweep, now = self._sweep, self._clock.now()
        recipe, digest, seed = self._recipe(asked.parameters)
        job = queued(
            {
                "project_id": sweep.project_id,
                "key_id": sweep.key_id,
                "api": "training",
                "kind": "training",
                "recipe": recipe,
                "recipe_digest": digest,
                "seed": seed,
                "base_model": sweep.base_model,
                "dataset_id": sweep.dataset_id,
                "metadata": sweep.metadata,
                "request": {"sweep": sweep.id, "trial": asked.number},
            },
            now=now,
        )
        jobs.insert(conn, job)
        self._tell(conn, job.id, f"The job is queued, as trial {asked.number} of {sweep.id}.")
        trials.insert(
            conn,
            TrialRecord(
                sweep_id=sweep.id,
                number=asked.number,
                job_id=job.id,
                parameters=asked.parameters,
            ),
        )
        told = ", ".join(f"{name}={_short(value)}" for name, value in asked.parameters.items())
        data = {"trial": asked.number, "job": job.id, "parameters": asked.parameters}
        self._tell(conn, sweep.id, f"Trial {asked.number} begins: {told}.", data)
        jobs.count_anew(conn, sweep.id)  # it has come further than any attempt before
        self._topics |= {QUEUE, events_of(sweep.id)}

    def _recipe(self, parameters: dict[str, Any]) -> tuple[dict[str, Any], str, int]:
        """Resolve a trial's recipe; one that is refused is left as it is, for its job to refuse."""
        values = trial_values(self._config, parameters)
        try:
            recipe = parse_recipe(values)
        except InvalidValueError:
            return values, digest_of(values), 0
        return recipe.model_dump(mode="json"), recipe.digest(), recipe.seed

    def _stop(self, conn: Connection, trial: TrialRecord, stopped: TrialStopped) -> None:
        if jobs.find(conn, trial.job_id).status in TERMINAL:
            return  # it was faster
        trials.stop(conn, trial.sweep_id, trial.number, stopped.reason)
        end_trial(conn, trial.job_id, now=self._clock.now(), ended=self._ended)
        self._topics |= {wishes_for(trial.job_id), events_of(trial.job_id)}

    def _tell(
        self, conn: Connection, job_id: str, message: str, data: dict[str, Any] | None = None
    ) -> None:
        events.append(
            conn,
            job_id,
            kind="message",
            level="info",
            message=message,
            data=data or {},
            now=self._clock.now(),
        )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:80]
