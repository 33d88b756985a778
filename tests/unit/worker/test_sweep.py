"""A sweep's worker: what it asks for after what it is told."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest

from purvey.contracts.jobs import JobSpec, StopReason
from purvey.contracts.sweep.config import SweepConfig
from purvey.contracts.sweep.messages import (
    SweepFinished,
    Trial,
    TrialAsked,
    TrialNews,
    TrialStopped,
)
from purvey.errors import InvalidValueError, JobFailedError
from purvey.testing.clock import FakeClock
from purvey.worker.job_link import JobInterrupted, JobLink
from purvey.worker.training import sweep

RATE = {"low": 1e-5, "high": 1.0, "log": True}
Request = TrialAsked | TrialStopped


def f1(parameters: dict[str, Any]) -> float:
    return 1 - abs(math.log10(parameters["optimizer.learning_rate"]) + 2) / 5


class Supervisor:
    """Keeps trials as rows do, and tells of changes; stands in for the link.

    Before each look but the first, the next function of `script` is called.
    """

    def __init__(
        self, *, trials: list[Trial] | None = None, seconds_left: float | None = None
    ) -> None:
        self.trials = list(trials or ())
        self.requests: list[Request] = []
        self.stop_requested: StopReason | None = None
        self.waits: list[float | None] = []
        self.seconds_left = seconds_left
        self.script: Iterator[Callable[[], object]] = iter(())
        self._told: list[Trial | None] = []

    def request(self, request: Request) -> None:
        self.requests.append(request)
        if isinstance(request, TrialAsked):
            assert request.number == len(self.trials), "numbers have no gap"
            self.trials.append(Trial(number=request.number, parameters=request.parameters))
        else:
            state: Any = "pruned" if request.reason == "pruned" else "stopped"
            self.change(request.number, state=state)

    def change(self, number: int, **changes: Any) -> None:
        self.trials[number] = msgspec.structs.replace(self.trials[number], **changes)

    def news(self, timeout_s: float | None) -> TrialNews | None:
        self.waits.append(timeout_s)
        if len(self.waits) > 1:
            next(self.script)()
        if self.stop_requested:
            return None
        self._told += [None] * (len(self.trials) - len(self._told))
        pairs = zip(self.trials, self._told, strict=True)
        changed = tuple(trial for trial, told in pairs if trial != told)
        self._told = list(self.trials)
        return TrialNews(trials=changed, seconds_left=self.seconds_left)

    def complete(self, *, after: tuple[float, ...] = ()) -> None:
        """End every trial that runs, with the value of its parameters."""
        for trial in self.trials:
            if trial.state == "running":
                value = f1(trial.parameters)
                evaluations = after or (value,)
                self.change(
                    trial.number,
                    state="complete",
                    value=value,
                    evaluations=evaluations,
                    measured=("macro_f1", "valid_loss"),
                )


def run(supervisor: Supervisor, *, clock: FakeClock | None = None, **changes: Any) -> SweepFinished:
    values = {
        "recipe": {"task": "text-classification"},
        "space": {"optimizer.learning_rate": RATE},
        "metric": "macro_f1",
        "direction": "maximize",
        "max_trials": 12,
    }
    config = SweepConfig.model_validate(values | changes)
    spec = JobSpec(
        job_id="sweep_1",
        kind="sweep",
        attempt=1,
        fence=1,
        recipe=config.model_dump(mode="json"),
        work_dir="/nowhere",
        output_dir="/nowhere",
    )
    return sweep.run(spec, cast("JobLink", supervisor), clock=clock or FakeClock())


def completing(supervisor: Supervisor, num_times: int) -> Iterator[Callable[[], object]]:
    return iter([supervisor.complete] * num_times)


def test_trials_are_asked_for_one_after_the_other_until_there_are_enough() -> None:
    supervisor = Supervisor()
    supervisor.script = completing(supervisor, 12)
    assert run(supervisor) == SweepFinished(num_trials=12)
    assert [request.number for request in supervisor.requests] == list(range(12))


@pytest.mark.parametrize("num_known", [0, 1, 5, 11, 12])
def test_a_worker_that_takes_over_goes_on_as_the_first_would_have(num_known: int) -> None:
    whole = Supervisor()
    whole.script = completing(whole, 12)
    run(whole)
    second = Supervisor(trials=whole.trials[:num_known])
    second.script = completing(second, 12)
    run(second)
    assert second.trials == whole.trials


def test_one_that_takes_over_while_a_trial_runs_asks_for_no_other() -> None:
    running = Trial(number=0, parameters={"optimizer.learning_rate": 0.5})
    supervisor = Supervisor(trials=[running])
    supervisor.script = completing(supervisor, 3)
    run(supervisor, max_trials=3)
    assert [request.number for request in supervisor.requests] == [1, 2]


def test_no_more_run_at_one_time_than_allowed() -> None:
    supervisor = Supervisor()
    most: list[int] = []

    def end_one() -> None:
        running = [trial for trial in supervisor.trials if trial.state == "running"]
        most.append(len(running))
        supervisor.change(running[0].number, state="complete", value=f1(running[0].parameters))

    supervisor.script = iter([end_one] * 12)
    run(supervisor, parallel=4)
    assert max(most) == 4
    assert most[:3] == [4, 4, 4]
    assert len({tuple(trial.parameters.values()) for trial in supervisor.trials}) == 12


def test_a_trial_that_is_worse_than_the_others_were_by_then_is_pruned_once() -> None:
    good = [
        Trial(
            number=n,
            parameters={"optimizer.learning_rate": 0.01 + n / 1_000},
            state="complete",
            value=0.9,
            evaluations=(0.8, 0.9),
        )
        for n in range(4)
    ]
    supervisor = Supervisor(trials=good)

    def report_little() -> None:
        supervisor.change(4, evaluations=(0.1,))

    supervisor.script = iter([report_little, lambda: None])
    run(supervisor, max_trials=5)
    asked, stopped = supervisor.requests
    assert isinstance(asked, TrialAsked)
    assert stopped == TrialStopped(number=4, reason="pruned")


def test_when_the_time_is_over_trials_are_stopped_and_the_best_so_far_counts() -> None:
    clock = FakeClock()
    supervisor = Supervisor(seconds_left=60.0)

    def pass_time() -> None:
        clock.advance(61)
        supervisor.seconds_left = 0.0

    supervisor.script = iter([supervisor.complete, pass_time, lambda: None])
    assert run(supervisor, clock=clock, max_minutes=1.0) == SweepFinished(num_trials=2)
    assert supervisor.requests[-1] == TrialStopped(number=1, reason="time")
    assert supervisor.waits[1] == 60.0, "it wakes when the time is over"


def test_a_sweep_whose_time_is_over_before_a_trial_is_complete_says_so() -> None:
    supervisor = Supervisor(seconds_left=0.0)
    with pytest.raises(JobFailedError, match=r"no trial of 0 was completed in its 1 minutes"):
        run(supervisor, max_minutes=1.0)


def test_a_metric_that_trials_do_not_measure_ends_the_sweep_at_its_first_evaluation() -> None:
    supervisor = Supervisor()
    supervisor.script = iter([lambda: supervisor.change(0, measured=("accuracy", "valid_loss"))])
    with pytest.raises(InvalidValueError, match="they measure accuracy, valid_loss") as it:
        run(supervisor, metric="acuracy")
    assert "Did you mean 'accuracy'?" in it.value.text
    assert it.value.param == "metric"


def test_trials_that_all_fail_end_the_sweep_early_with_their_error() -> None:
    supervisor = Supervisor()

    def fail() -> None:
        number = len(supervisor.trials) - 1
        supervisor.change(number, state="failed", error="the rows are odd.")

    supervisor.script = iter([fail] * 12)
    with pytest.raises(JobFailedError, match="first 3 trials failed: the rows are odd"):
        run(supervisor)
    assert len(supervisor.trials) == 3


def test_a_few_failures_among_others_are_passed_over() -> None:
    supervisor = Supervisor()

    def fail_or_complete() -> None:
        trial = supervisor.trials[-1]
        if trial.number % 2:
            supervisor.change(trial.number, state="failed", error="the loss is not finite.")
        else:
            supervisor.complete()

    supervisor.script = iter([fail_or_complete] * 12)
    assert run(supervisor) == SweepFinished(num_trials=12)


@pytest.mark.parametrize("reason", ["cancel", "hand_back"])
def test_asked_to_stop_it_stops_at_once(reason: StopReason) -> None:
    supervisor = Supervisor()
    supervisor.script = iter([lambda: setattr(supervisor, "stop_requested", reason)])
    with pytest.raises(JobInterrupted, match=reason):
        run(supervisor)
    assert len(supervisor.requests) == 1
