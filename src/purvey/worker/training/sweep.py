"""Run a sweep: ask for trials, learn how they go, prune, and say when all have ended.

Nothing is kept here but what the supervisor tells: a worker that takes another's place is told
of every trial first, and goes on as if it had been there.
"""

import math
from collections.abc import Iterable
from difflib import get_close_matches

import msgspec

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.jobs import JobSpec
from purvey.contracts.sweep.config import SweepConfig
from purvey.contracts.sweep.messages import (
    StopCause,
    SweepFinished,
    Trial,
    TrialAsked,
    TrialNews,
    TrialStopped,
)
from purvey.errors import InvalidValueError, JobFailedError
from purvey.train.sweep import should_prune, suggest
from purvey.worker.job_link import JobInterrupted, JobLink

MOST_FAILURES = 3
"""Trials that fail before any has come to an evaluation, after which the sweep gives up."""
_CLOCK = SystemClock()


def run(spec: JobSpec, job: JobLink, *, clock: Clock = _CLOCK) -> SweepFinished:
    """Search until the budget is used up and every trial has ended.

    Raises:
        JobInterrupted: The sweep was asked to stop; its trials are its supervisor's.
        InvalidValueError: Trials do not measure the metric.
        JobFailedError: No trial is complete, or the first ones all failed.
    """
    return Sweep(SweepConfig.model_validate(spec.recipe), job, clock=clock).run()


class Sweep:
    """One sweep as its worker sees it.

    Invariant: `_trials` holds each trial once, by number; what was asked for is among them.

    Args:
        config: What is searched.
        job: The supervisor.
        clock: Says when the time is over.
    """

    def __init__(self, config: SweepConfig, job: JobLink, *, clock: Clock) -> None:
        self._config, self._job, self._clock = config, job, clock
        self._trials: list[Trial] = []
        self._judged: dict[int, int] = {}  # trial to its evaluations that were judged
        self._ending: set[int] = set()  # trials that were asked to stop
        self._ends_at = math.inf

    def run(self) -> SweepFinished:
        """Go on until all trials have ended."""
        is_first = True
        while True:
            news = self._job.news(None if is_first else self._left_s())
            if self._job.stop_requested is not None:
                raise JobInterrupted(self._job.stop_requested)
            if news is not None:
                self._learn(news, is_first=is_first)
                is_first = False
            elif is_first:
                continue
            self._check()
            if self._is_time_over():
                self._stop(self._running(), "time")
            else:
                self._stop(self._hopeless(), "pruned")
                self._ask()
            if not self._running():
                return self._finished()

    def _learn(self, news: TrialNews, *, is_first: bool) -> None:
        for trial in news.trials:
            if trial.number < len(self._trials):
                self._trials[trial.number] = trial
            else:
                self._trials.append(trial)
            if is_first:  # what came before its newest evaluation was judged when it came
                self._judged[trial.number] = max(0, len(trial.evaluations) - 1)
        if news.seconds_left is not None:
            self._ends_at = self._clock.monotonic() + news.seconds_left

    def _check(self) -> None:
        """Give up early where trials cannot succeed."""
        metric = self._config.metric
        for trial in self._trials:
            if trial.measured and metric not in trial.measured:
                raise _not_measured(metric, trial.measured)
        failed = [trial for trial in self._trials if trial.state == "failed"]
        hopeful = any(trial.evaluations or trial.value is not None for trial in self._trials)
        if len(failed) >= MOST_FAILURES and not hopeful:
            raise JobFailedError(f"the first {len(failed)} trials failed: {failed[0].error}")

    def _ask(self) -> None:
        """Begin trials, as many as there are places and numbers left."""
        config = self._config
        while len(self._running()) < config.parallel and len(self._trials) < config.max_trials:
            parameters = suggest(config, self._trials)
            trial = Trial(number=len(self._trials), parameters=parameters)
            self._job.request(TrialAsked(number=trial.number, parameters=parameters))
            self._trials.append(trial)

    def _hopeless(self) -> Iterable[Trial]:
        """Yield trials whose new evaluations, judged one by one, say that they are to be pruned."""
        for trial in self._running():
            count = len(trial.evaluations)
            for seen in range(self._judged.get(trial.number, 0) + 1, count + 1):
                self._judged[trial.number] = seen
                as_seen = msgspec.structs.replace(trial, evaluations=trial.evaluations[:seen])
                trials = [as_seen if t.number == trial.number else t for t in self._trials]
                if should_prune(self._config, trials, trial.number):
                    yield trial
                    break

    def _stop(self, trials: Iterable[Trial], reason: StopCause) -> None:
        for trial in trials:
            if trial.number not in self._ending:
                self._ending.add(trial.number)
                self._job.request(TrialStopped(number=trial.number, reason=reason))

    def _running(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.state == "running"]

    def _left_s(self) -> float | None:
        left_s = self._ends_at - self._clock.monotonic()
        return None if math.isinf(left_s) or self._is_time_over() else left_s

    def _is_time_over(self) -> bool:
        return self._clock.monotonic() >= self._ends_at

    def _finished(self) -> SweepFinished:
        if any(trial.state == "complete" for trial in self._trials):
            return SweepFinished(num_trials=len(self._trials))
        minutes = self._config.max_minutes
        why = f" in its {minutes:g} minutes" if self._is_time_over() and minutes else ""
        told = next((t.error for t in self._trials if t.error), None)
        raise JobFailedError(
            f"no trial of {len(self._trials)} was completed{why}{f': {told}' if told else '.'}"
        )


def _not_measured(metric: str, measured: tuple[str, ...]) -> InvalidValueError:
    nearest = get_close_matches(metric, measured, n=1)
    return InvalidValueError(
        f"trials do not measure {metric!r}; they measure {', '.join(measured)}.",
        param="metric",
        hint=f"Did you mean {nearest[0]!r}?" if nearest else "",
    )
