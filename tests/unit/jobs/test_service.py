"""What owners may do with jobs, and what they are told when they may not."""

import asyncio
from typing import Literal

import pytest
from sqlalchemy import Connection

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import JobRecord
from purvey.errors import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    RateLimitedError,
    ShuttingDownError,
)
from purvey.jobs import service as service_module
from purvey.store import jobs
from purvey.testing.scripted_jobs import ScriptedJobLauncher, succeed, until_stopped
from purvey.testing.workshop import Workshop

Verb = Literal["cancel", "pause", "resume"]
P = DEFAULT_PROJECT


async def queued_behind_another(workshop: Workshop) -> JobRecord:
    """Return a job that stays queued: the only worker is busy."""
    busy = await workshop.submit()
    job = await workshop.submit()
    await workshop.until_event(busy.id, "Waiting.")
    return job


async def test_create_stores_the_job_its_first_event_and_what_belongs_to_it(
    workshop: Workshop,
) -> None:
    seen: list[str] = []

    def beside(conn: Connection, job: JobRecord) -> None:
        seen.append(jobs.find(conn, job.id).id)

    job = await workshop.service.create(
        project_id=P,
        key_id="key_0",
        api="fine_tuning",
        kind="training",
        recipe={"task": "text-generation"},
        recipe_digest="d" * 64,
        metadata={"a": "b"},
        beside=beside,
    )
    assert job.id.startswith("ftjob-")
    assert (await workshop.service.get(P, job.id)).metadata == {"a": "b"}
    assert seen == [job.id]
    assert (await workshop.history(job.id))[0].message == "The job is queued."


async def test_nothing_of_a_job_is_stored_when_what_belongs_to_it_is_refused(
    workshop: Workshop,
) -> None:
    def refuse(conn: Connection, job: JobRecord) -> None:
        raise InvalidValueError("no.", param="name")

    with pytest.raises(InvalidValueError):
        await workshop.service.create(
            project_id=P,
            key_id="key_0",
            api="dataset",
            kind="dataset",
            recipe={},
            recipe_digest="d" * 64,
            beside=refuse,
        )
    assert (await workshop.service.page(P)).items == []


async def test_a_project_may_not_queue_without_bound(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = type(LIMITS)(queued_jobs=2)
    monkeypatch.setattr(service_module, "LIMITS", few)
    await workshop.submit()
    await workshop.submit()
    with pytest.raises(RateLimitedError, match="2 unfinished jobs"):
        await workshop.submit()


async def test_waiting_jobs_are_paused_resumed_and_cancelled_at_once(workshop: Workshop) -> None:
    job = await queued_behind_another(workshop)
    assert (await workshop.service.pause(P, job.id)).status == "paused"
    assert (await workshop.service.resume(P, job.id)).status == "queued"
    assert (await workshop.service.cancel(P, job.id)).status == "cancelled"
    assert [ended.id for ended in workshop.effects.ended] == [job.id]
    said = [event.message for event in await workshop.history(job.id)]
    assert said == [
        "The job is queued.",
        "The job is paused.",
        "The job is resumed.",
        "The job is cancelled.",
    ]


@pytest.mark.parametrize(
    ("verbs", "refused", "names"),
    [
        (["cancel"], "cancel", "cancelled"),
        (["cancel"], "pause", "cancelled"),
        (["cancel"], "resume", "cancelled"),
        (["pause"], "pause", "paused already"),
        ([], "resume", "queued"),
    ],
)
async def test_a_move_the_state_does_not_allow_names_the_state(
    workshop: Workshop, verbs: list[Verb], refused: Verb, names: str
) -> None:
    job = await queued_behind_another(workshop)
    for verb in verbs:
        await getattr(workshop.service, verb)(P, job.id)
    before = await workshop.history(job.id)
    with pytest.raises(ConflictError, match=names):
        await getattr(workshop.service, refused)(P, job.id)
    assert await workshop.history(job.id) == before


async def test_another_projects_job_is_like_a_missing_one(workshop: Workshop) -> None:
    job = await workshop.submit()
    service = workshop.service

    async def drain(project_id: str, job_id: str) -> None:
        async for _ in service.follow(project_id, job_id):
            pass

    for ask in (
        service.get,
        service.cancel,
        service.pause,
        service.resume,
        service.events,
        service.checkpoints,
        drain,
    ):
        answers: list[str] = []
        for job_id in (job.id, "job_missing"):
            with pytest.raises(NotFoundError) as caught:
                await ask("proj_other", job_id)
            answers.append(caught.value.text.replace(job_id, "ID"))
        assert answers[0] == answers[1], ask


async def test_follow_yields_every_event_once_and_ends_with_the_job(
    workshop: Workshop, launcher: ScriptedJobLauncher
) -> None:
    launcher.then(until_stopped, succeed)
    blocker = await workshop.submit()
    job = await workshop.submit()

    async def follow(after_seq: int) -> list[int]:
        return [event.seq async for event in workshop.service.follow(P, job.id, after_seq)]

    followers = asyncio.gather(follow(0), follow(2))
    await workshop.service.cancel(P, blocker.id)
    everything, rest = await followers
    assert everything == list(range(1, len(everything) + 1))
    assert rest == everything[2:]
    assert (await workshop.service.get(P, job.id)).status == "succeeded"
    assert [e async for e in workshop.service.follow(P, job.id, everything[-1])] == []


async def test_follow_reads_a_long_history_in_parts(
    workshop: Workshop, launcher: ScriptedJobLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher.then(succeed)
    job = await workshop.submit()
    await workshop.until(job.id, "succeeded")
    history = await workshop.history(job.id)
    for at_once in (1, 2, len(history)):
        monkeypatch.setattr(service_module, "FOLLOWED_AT_ONCE", at_once)
        assert [e async for e in workshop.service.follow(P, job.id)] == history


async def test_follow_ends_with_the_server(workshop: Workshop) -> None:
    job = await workshop.submit()
    await workshop.until_event(job.id, "Waiting.")
    is_up_to_date = asyncio.Event()

    async def follow() -> None:
        async for event in workshop.service.follow(P, job.id):
            if event.message == "Waiting.":
                is_up_to_date.set()

    following = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        await is_up_to_date.wait()
        await workshop.supervisor.drain(timeout_s=10)
        with pytest.raises(ShuttingDownError):
            await following


async def test_listings_filter_by_resource_and_type(workshop: Workshop) -> None:
    job = await workshop.submit()
    await workshop.until_event(job.id, "Waiting.")
    assert [j.id for j in (await workshop.service.page(P, api="training")).items] == [job.id]
    assert (await workshop.service.page(P, api="dataset")).items == []
    page = await workshop.service.events(P, job.id, order="asc", limit=1)
    assert (page.items[0].seq, page.has_more) == (1, True)
    assert (await workshop.service.events(P, job.id, type="metrics")).items == []
