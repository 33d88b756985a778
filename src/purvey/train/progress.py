"""Telling how a run goes: what the loop reports to, and the meter of speed and loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from purvey.contracts.clock import Clock
from purvey.contracts.jobs import CheckpointSaved
from purvey.train.step import StepTaken

StopReason = Literal["pause", "cancel", "hand_back"]
Watch = Callable[[], AbstractContextManager[None]]
"""Makes a context that surrounds one step."""
REPORT_INTERVAL_S = 1.0


class Progress(Protocol):
    """Where a run reports, and where it hears that it should stop."""

    @property
    def stop_requested(self) -> StopReason | None:
        """Why the run should stop, if it should; looked at before every step."""
        ...

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Report numbers under the names of `contracts.jobs.JobEvent`."""
        ...

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Report a checkpoint that is on disk."""
        ...


class Meter:
    """Losses and speed since the last report.

    Args:
        clock: Where time comes from.
        first_step: Step the attempt began at.
        total_steps: Steps of the run.
    """

    def __init__(self, clock: Clock, *, first_step: int, total_steps: int) -> None:
        self._clock, self._total_steps = clock, total_steps
        self._first_step, self._started = first_step, clock.monotonic()
        self._clear(self._started)

    def add(self, taken: StepTaken) -> None:
        """Count one step."""
        self._losses.append(taken.loss)
        self._rows += taken.num_rows
        self._tokens += taken.num_tokens

    def is_due(self) -> bool:
        """Tell whether the last report is `REPORT_INTERVAL_S` old."""
        return self._clock.monotonic() - self._since >= REPORT_INTERVAL_S

    def restart(self) -> None:
        """Begin to measure speed now: what took place since the last report was no training."""
        self._clear(self._clock.monotonic())

    def read(self, step: int, *, rate: float) -> dict[str, Any]:
        """Return the numbers since the last call, and start anew.

        `train_loss` is the mean over those steps; `seconds_left` assumes that the rest goes at
        the attempt's mean pace, evaluations included.
        """
        now = self._clock.monotonic()
        elapsed_s = max(now - self._since, 1e-9)
        pace_s = (now - self._started) / max(1, step - self._first_step)
        data: dict[str, Any] = {  # JSON values
            "step": step,
            "total_steps": self._total_steps,
            "learning_rate": rate,
            "rows_per_s": round(self._rows / elapsed_s, 2),
            "seconds_left": round(pace_s * (self._total_steps - step), 1),
        }
        if self._losses:
            data["train_loss"] = sum(self._losses) / len(self._losses)
        if self._tokens:
            data["tokens_per_s"] = round(self._tokens / elapsed_s, 1)
        self._clear(now)
        return data

    def _clear(self, now: float) -> None:
        self._since, self._losses, self._rows, self._tokens = now, list[float](), 0, 0
