"""The first rank's clock and its owner's wishes, as all ranks see them.

With these the loop takes every decision alike on every rank: when to report, to write a
checkpoint, to stop.
"""

from typing import Any

from purvey.contracts.clock import Clock
from purvey.contracts.jobs import CheckpointSaved
from purvey.train.parallel.group import Group
from purvey.train.progress import Progress, StopReason

_WISHES: tuple[StopReason | None, ...] = (None, "hand_back", "pause", "cancel")


class SharedClock:
    """The first rank's clock: each reading is a message, so that all ranks read alike."""

    def __init__(self, clock: Clock, group: Group) -> None:
        self._clock, self._group = clock, group

    def now(self) -> float:
        """Return the first rank's seconds since the epoch, UTC."""
        return self._group.told(self._clock.now())

    def monotonic(self) -> float:
        """Return the first rank's seconds that never go back."""
        return self._group.told(self._clock.monotonic())


class SharedProgress:
    """Reports from the first rank alone; its wish to stop is heard by all at the same step."""

    def __init__(self, progress: Progress, group: Group) -> None:
        self._progress, self._group = progress, group

    @property
    def stop_requested(self) -> StopReason | None:
        """Why all ranks should stop, if they should."""
        wish = self._progress.stop_requested if self._group.is_first else None
        return _WISHES[int(self._group.told(float(_WISHES.index(wish))))]

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Report numbers; those of the other ranks are the same."""
        if self._group.is_first:
            self._progress.metrics(message, data)

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Report a checkpoint, which the first rank has written; no message between ranks."""
        self._progress.checkpoint(saved)
