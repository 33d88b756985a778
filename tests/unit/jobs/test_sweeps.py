"""Sweeps under the supervisor: trials are jobs, begun once, told of, and ended with their sweep."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import (
    TERMINAL,
    JobEvent,
    JobFailed,
    JobSpec,
    JobStopped,
    ModelTrained,
)
from purvey.contracts.limits import LIMITS
from purvey.contracts.sweep.messages import (
    StopCause,
    SweepFinished,
    TrialAsked,
    TrialNews,
    TrialStopped,
)
from purvey.errors import RateLimitedError
from purvey.jobs import service as service_module
from purvey.jobs.run import RunConfig
from purvey.store.artifacts import Artifacts
from purvey.testing.scripted_jobs import (
    Conversation,
    ScriptedJobLauncher,
    ScriptedJobWorker,
    search,
    until_stopped,
)
from purvey.testing.workshop import Workshop

P = DEFAULT_PROJECT
Act = Callable[[Conversation], Awaitable[int]]
CONFIG = RunConfig(lease_s=30.0, heartbeat_s=0.1, stop_grace_s=5.0)


def launcher(trial: Act, sweep: Act = search) -> ScriptedJobLauncher:
    async def play(worker: Conversation) -> int:
        return await (sweep if worker.spec.kind == "sweep" else trial)(worker)

    return ScriptedJobLauncher(play)


async def by_seed(worker: Conversation) -> int:
    """Deliver a model whose worth is its seed."""
    seed = worker.spec.recipe["seed"]
    numbers = {"step": 1, "macro_f1": seed / 1_000, "valid_loss": 0.5}
    worker.say(JobEvent(kind="metrics", message="Step 1/1", data=numbers))
    worker.write("weights", str(seed).encode())
    worker.say(ModelTrained(trained_rows=1, validation={"macro_f1": seed / 1_000}))
    return 0


async def ask_then(worker: Conversation, *requests: TrialAsked | TrialStopped) -> int:
    """Say the requests, then wait for the end of all trials or for a request to stop."""
    for request in requests:
        worker.say(request)
    states: dict[int, str] = {}
    stopping = asyncio.ensure_future(worker.stop_asked())
    while "running" in states.values() or not states:
        hearing = asyncio.ensure_future(worker.news())
        await asyncio.wait((stopping, hearing), return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            hearing.cancel()
            worker.say(JobStopped(reason=stopping.result()))
            return 0
        states |= {trial.number: trial.state for trial in hearing.result().trials}
    stopping.cancel()
    worker.say(SweepFinished(num_trials=len(states)))
    return 0


async def test_every_trial_is_a_job_and_the_best_is_known(tmp_path: Path) -> None:
    async with Workshop(tmp_path, launcher(by_seed), config=CONFIG) as workshop:
        space = {"seed": {"values": [10, 900, 400]}}
        made = await workshop.sweep(space=space)
        done = await workshop.until(made.id, *TERMINAL)
        assert (done.status, done.error, done.compute_s) == ("succeeded", None, 0.0)
        views = await workshop.trials(made.id)
        assert [view.record.parameters["seed"] for view in views] == [10, 900, 400]
        assert [view.value for view in views] == [0.01, 0.9, 0.4]
        assert {view.state for view in views} == {"complete"}
        jobs = [await workshop.service.get(P, view.job.id) for view in views]
        assert [job.recipe["seed"] for job in jobs] == [10, 900, 400]
        assert {(job.api, job.kind, job.status) for job in jobs} == {
            ("training", "training", "succeeded")
        }
        assert [job.id for job in workshop.effects.swept] == [made.id]
        assert len(workshop.effects.ended) == 4
        for job in [done, *jobs]:
            await workshop.check(job.id)


async def test_the_end_of_each_trial_is_told_once_with_the_best_so_far(tmp_path: Path) -> None:
    async with Workshop(tmp_path, launcher(by_seed), config=CONFIG) as workshop:
        made = await workshop.sweep(space={"seed": {"values": [10, 900, 400]}})
        await workshop.until(made.id, *TERMINAL)
        history = await workshop.history(made.id)
        told = [event.data for event in history if event.type == "metrics"]
        assert [(one["trial"], one["step"], one["best_trial"]) for one in told] == [
            (0, 1, 0),
            (1, 2, 1),
            (2, 3, 1),
        ]
        said = [event.message for event in history]
        assert "Trial 1 begins: seed=900." in said
        assert "Trial 1 is complete: macro_f1 0.9, the best so far." in said
        assert "Trial 2 is complete: macro_f1 0.4." in said


async def test_a_sweep_takes_no_place_from_its_trials_and_waits_for_none(tmp_path: Path) -> None:
    async with Workshop(tmp_path, launcher(by_seed), config=CONFIG, max_running=1) as workshop:
        made = [await workshop.sweep() for _ in range(2)]
        for sweep in made:
            assert (await workshop.until(sweep.id, *TERMINAL)).status == "succeeded"


async def test_only_the_best_model_so_far_is_kept_and_none_after_the_end(tmp_path: Path) -> None:
    third = asyncio.Event()

    async def trial(worker: Conversation) -> int:
        if worker.spec.recipe["seed"] == 400:
            await third.wait()
        return await by_seed(worker)

    artifacts = Artifacts(tmp_path / "artifacts")
    async with Workshop(tmp_path, launcher(trial), config=CONFIG) as workshop:
        made = await workshop.sweep(space={"seed": {"values": [10, 900, 400]}})
        await workshop.until_event(made.id, "Trial 2 begins")
        kept = (await workshop.trials(made.id))[1].record.artifact
        assert kept is not None
        async with asyncio.timeout(10):
            while artifacts.digests() != [kept]:  # noqa: ASYNC110 (a disk rings no bell)
                await asyncio.sleep(0.01)
        third.set()
        await workshop.until(made.id, *TERMINAL)
        await workshop.supervisor.drain(timeout_s=10)
    assert artifacts.digests() == []  # nothing of this workshop registers a model


async def test_a_trial_that_fails_is_told_with_its_error(tmp_path: Path) -> None:
    async def trial(worker: Conversation) -> int:
        if worker.spec.recipe["seed"] == 10:
            worker.say(JobFailed(code="diverged", message="the loss is not finite."))
            return 0
        return await by_seed(worker)

    async with Workshop(tmp_path, launcher(trial), config=CONFIG) as workshop:
        made = await workshop.sweep(space={"seed": {"values": [10, 900]}}, max_trials=2)
        await workshop.until(made.id, *TERMINAL)
        assert [view.state for view in await workshop.trials(made.id)] == ["failed", "complete"]
        said = [event.message for event in await workshop.history(made.id)]
        assert "Trial 0 is failed: the loss is not finite." in said


@pytest.mark.parametrize(("cause", "state"), [("pruned", "pruned"), ("time", "stopped")])
async def test_a_trial_is_ended_early(tmp_path: Path, cause: StopCause, state: str) -> None:
    async def sweep(worker: Conversation) -> int:
        asked = TrialAsked(number=0, parameters={"seed": 5})
        return await ask_then(worker, asked, TrialStopped(number=0, reason=cause))

    started = launcher(until_stopped, sweep)
    async with Workshop(tmp_path, started, config=CONFIG) as workshop:
        made = await workshop.sweep(max_trials=1)
        done = await workshop.until(made.id, *TERMINAL)
        assert done.status == "succeeded"
        [view] = await workshop.trials(made.id)
        assert (view.state, view.value, view.job.status) == (state, None, "cancelled")
        said = [event.message for event in await workshop.history(made.id)]
        assert f"Trial 0 is {state}." in said
        assert len(workshop.effects.ended) == 2


async def test_cancelling_a_sweep_ends_its_trials_those_that_run_and_those_that_wait(
    tmp_path: Path,
) -> None:
    async def sweep(worker: Conversation) -> int:
        asked = [TrialAsked(number=number, parameters={"seed": number}) for number in range(3)]
        return await ask_then(worker, *asked)

    started = launcher(until_stopped, sweep)
    async with Workshop(tmp_path, started, config=CONFIG) as workshop:
        made = await workshop.sweep(parallel=3)
        await workshop.until_event(made.id, "Trial 2 begins")
        first = (await workshop.trials(made.id))[0].job
        await workshop.until_event(first.id, "Waiting.")
        await workshop.service.cancel(P, made.id)
        assert (await workshop.until(made.id, *TERMINAL)).status == "cancelled"
        assert (await workshop.until(first.id, *TERMINAL)).status == "cancelled"
        views = await workshop.trials(made.id)
        assert [view.state for view in views] == ["cancelled"] * 3
        assert len(workshop.effects.ended) == 4


async def test_a_sweep_that_waits_is_cancelled_with_its_trials_at_once(tmp_path: Path) -> None:
    async with Workshop(tmp_path, launcher(until_stopped), config=CONFIG) as workshop:
        made = await workshop.sweep()
        await workshop.until_event(made.id, "Trial 0 begins")
    async with Workshop(tmp_path, launcher(until_stopped), max_running=0) as workshop:
        assert (await workshop.service.get(P, made.id)).status == "queued"
        assert (await workshop.service.cancel(P, made.id)).status == "cancelled"
        [view] = await workshop.trials(made.id)
        assert view.state == "cancelled"


async def test_a_sweep_that_fails_ends_its_trials(tmp_path: Path) -> None:
    async def sweep(worker: Conversation) -> int:
        worker.say(TrialAsked(number=0, parameters={"seed": 1}))
        worker.say(JobFailed(code="invalid_value", message="no such metric.", param="metric"))
        return 0

    async with Workshop(tmp_path, launcher(until_stopped, sweep), config=CONFIG) as workshop:
        made = await workshop.sweep()
        done = await workshop.until(made.id, *TERMINAL)
        assert done.error == {
            "code": "invalid_value",
            "message": "no such metric.",
            "param": "metric",
        }
        [view] = await workshop.trials(made.id)
        assert (await workshop.until(view.job.id, *TERMINAL)).status == "cancelled"


async def test_a_worker_that_dies_is_replaced_and_no_trial_is_lost_or_begun_twice(
    tmp_path: Path,
) -> None:
    async def sweep(worker: Conversation) -> int:
        if worker.spec.fence > 2:
            return await search(worker)
        known = (await worker.news()).trials
        if all(trial.state != "running" for trial in known):
            worker.say(TrialAsked(number=len(known), parameters={"seed": len(known)}))
            await worker.news()
        return -9

    async with Workshop(tmp_path, launcher(by_seed, sweep), config=CONFIG) as workshop:
        made = await workshop.sweep(space={"seed": {"low": 0, "high": 1}}, max_trials=2)
        made = await workshop.until(made.id, *TERMINAL)
        views = await workshop.trials(made.id)
        assert [view.record.number for view in views] == list(range(len(views)))
        assert len({view.job.id for view in views}) == len(views) == 2
        begun = [e.message for e in await workshop.history(made.id) if "begins" in e.message]
        assert len(begun) == 2


async def test_a_server_that_restarts_goes_on_with_the_sweep_and_its_trial(tmp_path: Path) -> None:
    async with Workshop(tmp_path, launcher(until_stopped), config=CONFIG) as workshop:
        made = await workshop.sweep(space={"seed": {"values": [10, 900, 400]}})
        await workshop.until_event(made.id, "Trial 0 begins")
        [view] = await workshop.trials(made.id)
        await workshop.until_event(view.job.id, "Waiting.")
    async with Workshop(tmp_path, launcher(by_seed), config=CONFIG) as workshop:
        done = await workshop.until(made.id, *TERMINAL)
        assert done.status == "succeeded"
        views = await workshop.trials(made.id)
        assert [view.value for view in views] == [0.01, 0.9, 0.4]
        assert views[0].job.id == view.job.id
        await workshop.check(made.id)


@pytest.mark.parametrize(
    "request_",
    [
        TrialAsked(number=1, parameters={"seed": 1}),
        TrialStopped(number=0, reason="pruned"),
    ],
)
async def test_a_worker_that_counts_otherwise_is_not_believed(
    tmp_path: Path, request_: TrialAsked | TrialStopped
) -> None:
    async def sweep(worker: Conversation) -> int:
        return await ask_then(worker, request_)

    async with Workshop(tmp_path, launcher(by_seed, sweep), config=CONFIG) as workshop:
        made = await workshop.sweep()
        done = await workshop.until(made.id, *TERMINAL)
        assert done.status == "failed"
        assert done.error is not None
        assert "broke the protocol" in done.error["message"]
        assert await workshop.trials(made.id) == []


async def test_a_job_that_is_no_sweep_begins_no_trial(tmp_path: Path) -> None:
    async def trial(worker: Conversation) -> int:
        worker.say(TrialAsked(number=0, parameters={}))
        worker.say(JobStopped(reason=await worker.stop_asked()))
        return 0

    async with Workshop(tmp_path, launcher(trial), config=CONFIG) as workshop:
        job = await workshop.submit()
        assert (await workshop.until(job.id, *TERMINAL)).status == "failed"


async def test_a_sweep_needs_room_for_its_trials_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "LIMITS", type(LIMITS)(queued_jobs=3))
    async with Workshop(tmp_path, launcher(by_seed), max_running=0) as workshop:
        await workshop.sweep(parallel=2)
        with pytest.raises(RateLimitedError, match="1 unfinished jobs"):
            await workshop.sweep(parallel=3)


class _Unheard(ScriptedJobWorker):
    """A worker that cannot be told anything."""

    async def tell(self, news: TrialNews) -> None:
        raise RuntimeError("nobody expects this")


class _UnheardAtFirst(ScriptedJobLauncher):
    async def launch(self, spec: JobSpec) -> ScriptedJobWorker:
        if spec.kind == "sweep" and spec.fence == 1:
            return _Unheard(Conversation(spec), until_stopped)
        return await super().launch(spec)


async def test_a_worker_that_cannot_be_told_is_replaced_and_the_bug_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(worker: Conversation) -> int:
        return await (search if worker.spec.kind == "sweep" else by_seed)(worker)

    async with Workshop(tmp_path, _UnheardAtFirst(play), config=CONFIG) as workshop:
        made = await workshop.sweep(space={"seed": {"values": [1]}}, max_trials=1)
        done = await workshop.until(made.id, *TERMINAL)
        assert (done.status, done.fence) == ("succeeded", 2)
    assert "sweep.broke" in [record.message for record in caplog.records]
