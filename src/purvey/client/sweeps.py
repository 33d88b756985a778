"""Sweeps: searches over a recipe's fields."""

from collections.abc import Iterator
from urllib.parse import quote

from purvey.client.jobs import SWEEPS, TrainingJobs
from purvey.client.paging import items
from purvey.client.transport import Json, Transport
from purvey.client.values import Event, Page, Sweep
from purvey.errors import JobFailedError


class Sweeps:
    """Searches; each trial of one is a training job."""

    def __init__(self, transport: Transport, jobs: TrainingJobs) -> None:
        self._transport, self._jobs = transport, jobs

    def create(self, recipe: Json, space: Json, *, options: Json | None = None) -> Sweep:
        """Start a search.

        Args:
            recipe: What every trial begins with, JSON values of a `TrainConfig`.
            space: Recipe field, dotted, to `{"low", "high", "log", "step"}` or `{"values"}`.
            options: `metric`, `direction`, `max_trials`, `max_minutes`, `parallel`, `pruner`,
                `keep`, `seed`, `metadata`.
        """
        body: Json = {"recipe": recipe, "space": space, **(options or {})}
        return self._transport.create(SWEEPS, Sweep, body=body)

    def get(self, sweep_id: str) -> Sweep:
        """Return a search with its trials."""
        return self._transport.get(f"{SWEEPS}/{quote(sweep_id, safe='')}", Sweep)

    def list(self) -> Iterator[Sweep]:
        """Yield every search, newest first, without trials."""
        return items(self._transport, SWEEPS, Page[Sweep])

    def cancel(self, sweep_id: str) -> Sweep:
        """End a search and its trials.

        Raises:
            ConflictError: It has ended.
        """
        return self._transport.post(f"{SWEEPS}/{quote(sweep_id, safe='')}/cancel", Sweep)

    def follow(self, sweep_id: str) -> Iterator[Event]:
        """Yield its events from the first, as they come, until it has ended.

        Raises:
            CapacityError: The server stays away.
        """
        return self._jobs.follow(sweep_id)

    def wait(self, sweep_id: str) -> Sweep:
        """Wait until a search has ended, and return it.

        Raises:
            JobFailedError: It failed or was cancelled.
        """
        for _ in self.follow(sweep_id):
            pass
        return found(self.get(sweep_id))


def found(sweep: Sweep) -> Sweep:
    """Return a search that succeeded.

    Raises:
        JobFailedError: It ended otherwise; the message is its own.
    """
    if sweep.status == "succeeded":
        return sweep
    error = sweep.error or {}
    message = str(error.get("message") or f"sweep {sweep.id} was {sweep.status}.")
    raise JobFailedError(message, param=error.get("param"))
