"""Jobs under a supervisor, with workers that misbehave and owners who change their minds.

Whatever happens, every job ends in exactly one terminal state, its events have no gap, its
effects happen once, and nothing is left running.
"""

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import TERMINAL, JobFailed
from purvey.errors import ConflictError
from purvey.jobs.run import RunConfig
from purvey.testing import scripted_jobs
from purvey.testing.scripted_jobs import Conversation, Script, ScriptedJobLauncher
from purvey.testing.workshop import Workshop

Verb = Literal["cancel", "pause", "resume", "restart", "breathe"]
VERBS: tuple[Verb, ...] = ("cancel", "pause", "resume", "restart", "breathe")
SCRIPTS: dict[str, Script] = {
    "succeed": scripted_jobs.succeed,
    "crash": scripted_jobs.crash,
    "until_stopped": scripted_jobs.until_stopped,
    "full": scripted_jobs.fail(
        JobFailed(code="insufficient_storage", message="full.", is_transient=True)
    ),
    "diverge": scripted_jobs.fail(JobFailed(code="diverged", message="not finite.")),
}
CONFIG = RunConfig(lease_s=5.0, stop_grace_s=0.2, max_attempts=3)
walks = {
    "acts": st.lists(st.sampled_from(sorted(SCRIPTS)), max_size=6),
    "verbs": st.lists(st.tuples(st.integers(0, 1), st.sampled_from(VERBS)), max_size=8),
}


@settings(max_examples=15, deadline=None)
@given(**walks)
def test_every_job_ends_once(acts: list[str], verbs: list[tuple[int, Verb]]) -> None:
    asyncio.run(walk(acts, verbs))


@pytest.mark.faults
@settings(max_examples=300, deadline=None)
@given(**walks)
def test_every_job_ends_once_in_many_walks(acts: list[str], verbs: list[tuple[int, Verb]]) -> None:
    asyncio.run(walk(acts, verbs))


async def walk(acts: list[str], verbs: list[tuple[int, Verb]]) -> None:
    remaining = list(acts)

    async def play(worker: Conversation) -> int:
        return await SCRIPTS[remaining.pop(0) if remaining else "succeed"](worker)

    launcher = ScriptedJobLauncher(play)
    ended: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        job_ids: list[str] = []
        for stretch in stretches(verbs):
            async with Workshop(Path(folder), launcher, config=CONFIG) as workshop:
                if not job_ids:
                    job_ids = [(await workshop.submit()).id for _ in range(2)]
                for which, verb in stretch:
                    await act(workshop, job_ids[which], verb)
            ended += [job.id for job in workshop.effects.ended]
        remaining.clear()
        async with Workshop(Path(folder), launcher, config=CONFIG) as workshop:
            for job_id in job_ids:
                await finish(workshop, job_id)
                await workshop.check(job_id)
        ended += [job.id for job in workshop.effects.ended]
    assert sorted(ended) == sorted(job_ids)
    assert workshop.supervisor.num_running == 0


def stretches(verbs: list[tuple[int, Verb]]) -> list[list[tuple[int, Verb]]]:
    """Cut the verbs at each restart of the server."""
    cut: list[list[tuple[int, Verb]]] = [[]]
    for which, verb in verbs:
        if verb == "restart":
            cut.append([])
        else:
            cut[-1].append((which, verb))
    return cut


async def act(workshop: Workshop, job_id: str, verb: Verb) -> None:
    if verb == "breathe":
        await workshop.history(job_id)
        return
    with contextlib.suppress(ConflictError):
        await getattr(workshop.service, verb)(DEFAULT_PROJECT, job_id)


async def finish(workshop: Workshop, job_id: str) -> None:
    """See a job to its end: what waits is resumed, what runs is left to."""
    job = await workshop.until(job_id, "paused", *TERMINAL)
    if job.status == "paused":
        with contextlib.suppress(ConflictError):  # there was room, and it went on by itself
            await workshop.service.resume(DEFAULT_PROJECT, job_id)
        await workshop.until(job_id, *TERMINAL)
