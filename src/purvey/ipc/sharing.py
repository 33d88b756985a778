"""Who computes on which processors: jobs and engines keep apart while both have work.

The rule, whole: while requests are computed, and for a second after, jobs keep to their share of
the cores and engines to the others; at any other time everybody may use all. Nothing else
changes: a process has as many threads as it began with, so no bit of a result depends on who
computes beside it.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Protocol

from purvey.ipc.processors import Division, cores_of, divide, window
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)
CALM_S = 1.0
"""How long nobody must have asked anything before jobs get all cores back."""


class Process(Protocol):
    """The part of a child process that sharing uses."""

    def run_on(self, processors: AbstractSet[int]) -> None:
        """Keep all its threads there; harmless when it has ended.

        Raises:
            OSError: The kernel refuses.
        """
        ...

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have something called once, when it has ended."""
        ...


class Sharing:
    """Decides for all engines and jobs of this server. To be used on the event loop alone.

    Invariant: every process in `_engines` and `_jobs` keeps to its part of `_division` while
    there is one, and to no part while there is none.

    Args:
        job_share: Share of the cores that jobs keep while requests are computed; 1 leaves
            everything to the kernel.
        num_processors: How many the server may use at a time, where a quota allows fewer than
            it sees.
        calm_s: How long nobody must have asked before jobs get all back.
        allowed: Tells the processors that this server may run on.
    """

    def __init__(
        self,
        *,
        job_share: float,
        num_processors: int,
        calm_s: float = CALM_S,
        allowed: Callable[[], AbstractSet[int]] = lambda: os.sched_getaffinity(0),
    ) -> None:
        self._job_share, self._num_processors = job_share, num_processors
        self._calm_s, self._allowed = calm_s, allowed
        self._first = secrets.randbelow(2**16)  # servers under quotas are not to meet on one core
        self._engines: set[Process] = set()
        self._jobs: set[Process] = set()
        self._busy: set[Process] = set()
        self._calm: asyncio.TimerHandle | None = None
        self._division: Division | None = None
        self._plan: tuple[AbstractSet[int], Division | None] = (frozenset(), None)

    def add_job(self, process: Process) -> None:
        """Take a job's process in, until it ends."""
        self._add(process, self._jobs)

    def add_engine(self, process: Process) -> None:
        """Take an engine's process in, until it ends."""
        self._add(process, self._engines)

    def tell_busy(self, process: Process, *, is_busy: bool) -> None:
        """Hear whether an engine has requests; before the first reaches it, all are in place."""
        if is_busy == (process in self._busy) or process not in self._engines:
            return  # nothing new, or it has ended
        if is_busy:
            self._busy.add(process)
            self._stop_waiting()
        else:
            self._busy.discard(process)
            self._wait_for_calm()
        self._settle()

    def _add(self, process: Process, members: set[Process]) -> None:
        if self._job_share >= 1:
            return
        members.add(process)
        process.when_ended(lambda: self._remove(process, members))
        if self._division is not None:
            self._place(process, self._part(members, self._division))
        self._settle()

    def _remove(self, process: Process, members: set[Process]) -> None:
        self.tell_busy(process, is_busy=False)
        members.discard(process)
        self._settle()

    def _wait_for_calm(self) -> None:
        if not self._busy:
            loop = asyncio.get_running_loop()
            self._calm = loop.call_later(self._calm_s, self._calm_down)

    def _stop_waiting(self) -> None:
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None

    def _calm_down(self) -> None:
        self._calm = None
        self._settle()

    def _settle(self) -> None:
        """Divide the processors, or give them back, if that is what has changed."""
        is_serving = bool(self._busy) or self._calm is not None
        division = self._planned() if is_serving and self._jobs else None
        if division == self._division:
            return
        self._division = division
        for members, name in ((self._jobs, "jobs"), (self._engines, "engines")):
            part = self._part(members, division)
            metrics.PROCESSORS.labels(used_by=name).set(len(part))
            for process in members:
                self._place(process, part)

    def _planned(self) -> Division | None:
        """Divide what there is; a container may be given other processors while it runs."""
        allowed = self._allowed()
        if allowed != self._plan[0]:
            cores = cores_of(allowed)
            if self._num_processors < len(allowed):
                cores = window(cores, num_processors=self._num_processors, first=self._first)
            self._plan = allowed, divide(cores, job_share=self._job_share)
        return self._plan[1]

    def _part(self, members: set[Process], division: Division | None) -> AbstractSet[int]:
        if division is None:
            return self._allowed()
        return division.jobs if members is self._jobs else division.engines

    def _place(self, process: Process, processors: AbstractSet[int]) -> None:
        try:
            process.run_on(processors)
        except OSError as error:  # what is inferred yields: it computes where the kernel says
            logger.warning("cores.not_shared", extra={"errno": error.errno})


UNSHARED = Sharing(job_share=1.0, num_processors=1)
"""Leaves every process to the kernel."""
