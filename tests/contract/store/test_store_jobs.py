"""Jobs: claimed once, moved along the table, written under the right fence only."""

import itertools
from functools import partial
from typing import TYPE_CHECKING, get_args

import pytest

from purvey.contracts.jobs import TERMINAL, TRANSITIONS, JobStatus
from purvey.errors import ConflictError, NotFoundError, StaleFencingTokenError
from purvey.store import checkpoints, events, jobs
from purvey.store.database import Database

if TYPE_CHECKING:
    from tests.contract.store.conftest import Records

OURS, THEIRS = "proj_ours", "proj_theirs"
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
MOVES = list(itertools.product(STATUSES, STATUSES))


def claimed(database: Database, make: "Records") -> None:
    """Have `job_1` run under fence 1."""
    database.write_now(lambda c: jobs.insert(c, make.job()))
    database.write_now(lambda c: jobs.claim(c, lease="lease_1", now=10.0, lease_s=30.0))


def test_a_record_comes_back_as_it_went(database: Database, make: "Records") -> None:
    job = make.job(error={"code": "x"}, result={"report": {"f1": 0.5}}, request={"n": None})
    database.write_now(lambda c: jobs.insert(c, job))
    assert database.read_now(lambda c: jobs.get(c, OURS, "job_1")) == job


def test_claiming_takes_the_oldest_under_a_new_lease(database: Database, make: "Records") -> None:
    for name in ("job_b", "job_a"):
        database.write_now(partial(jobs.insert, record=make.job(name)))
    job = database.write_now(lambda c: jobs.claim(c, lease="lease_1", now=10.0, lease_s=30.0))
    assert job is not None
    assert (job.id, job.status, job.attempt, job.fence) == ("job_b", "running", 1, 1)
    assert (job.lease, job.lease_expires_at, job.started_at) == ("lease_1", 40.0, 10.0)


def claim_all(database: Database, *, count: int, ending: bool) -> list[str]:
    """Claim `count` jobs, one a second; `ending` has each end before the next."""
    taken = []
    for second in range(1, count + 1):
        job = database.write_now(partial(jobs.claim, lease="l", now=float(second), lease_s=99.0))
        assert job is not None
        taken.append(job.id)
        if ending:
            database.write_now(partial(jobs.move, job_id=job.id, to="failed", now=float(second)))
    return taken


@pytest.mark.parametrize("ending", [False, True])
def test_a_project_with_many_jobs_does_not_keep_others_waiting(
    database: Database, make: "Records", ending: bool
) -> None:
    for number in range(4):
        database.write_now(partial(jobs.insert, record=make.job(f"ours_{number}")))
    for number in range(2):
        record = make.job(f"theirs_{number}", project_id=THEIRS)
        database.write_now(partial(jobs.insert, record=record))
    taken = claim_all(database, count=6, ending=ending)
    assert taken == ["ours_0", "theirs_0", "ours_1", "theirs_1", "ours_2", "ours_3"]


def test_claiming_passes_over_what_is_excluded(database: Database, make: "Records") -> None:
    for name in ("job_1", "job_2"):
        database.write_now(partial(jobs.insert, record=make.job(name)))
    job = database.write_now(
        lambda c: jobs.claim(c, lease="l", now=1.0, lease_s=1.0, excluding={"job_1"})
    )
    assert job is not None
    assert job.id == "job_2"


def test_nothing_queued_is_nothing_claimed(database: Database, make: "Records") -> None:
    claimed(database, make)
    assert database.write_now(lambda c: jobs.claim(c, lease="l", now=1.0, lease_s=1.0)) is None


def test_a_second_attempt_has_the_next_fence_and_the_first_start(
    database: Database, make: "Records"
) -> None:
    claimed(database, make)
    handed_back = database.write_now(lambda c: jobs.move(c, "job_1", to="queued", now=20.0))
    assert (handed_back.lease, handed_back.lease_expires_at) == (None, None)
    again = database.write_now(lambda c: jobs.claim(c, lease="l2", now=30.0, lease_s=30.0))
    assert again is not None
    assert (again.attempt, again.fence, again.started_at) == (2, 2, 10.0)


@pytest.mark.parametrize(("before", "after"), MOVES)
def test_a_job_moves_along_the_table_only(
    database: Database, make: "Records", before: JobStatus, after: JobStatus
) -> None:
    job = make.job(status=before, finished_at=5.0 if before in TERMINAL else None)
    database.write_now(lambda c: jobs.insert(c, job))
    if after in TRANSITIONS[before]:
        moved = database.write_now(lambda c: jobs.move(c, "job_1", to=after, now=9.0))
        assert moved.status == after
        assert moved.finished_at == (9.0 if after in TERMINAL else None)
    else:
        with pytest.raises(ConflictError, match=f"{before}.*{after}"):
            database.write_now(lambda c: jobs.move(c, "job_1", to=after, now=9.0))
        assert database.read_now(lambda c: jobs.find(c, "job_1")) == job


def test_a_move_may_set_other_fields(database: Database, make: "Records") -> None:
    claimed(database, make)
    moved = database.write_now(
        lambda c: jobs.move(
            c,
            "job_1",
            to="succeeded",
            fence=1,
            now=9.0,
            compute_s=2.5,
            result={"report": {}},
            fine_tuned_model="ft:x",
        )
    )
    assert (moved.compute_s, moved.result, moved.fine_tuned_model) == (2.5, {"report": {}}, "ft:x")


def test_a_worker_that_lost_its_lease_can_write_nothing(
    database: Database, make: "Records"
) -> None:
    claimed(database, make)
    writes = (
        lambda c: jobs.move(c, "job_1", to="succeeded", fence=0, now=9.0),
        lambda c: jobs.renew(c, "job_1", fence=0, now=9.0, lease_s=9.0),
        lambda c: events.append(
            c, "job_1", kind="message", level="info", message="m", data={}, now=9.0, fence=0
        ),
        lambda c: checkpoints.insert(c, make.checkpoint(), fence=0),
    )
    before = database.read_now(lambda c: jobs.find(c, "job_1"))
    for write in writes:
        with pytest.raises(StaleFencingTokenError):
            database.write_now(write)
    assert database.read_now(lambda c: jobs.find(c, "job_1")) == before
    assert database.read_now(lambda c: events.since(c, "job_1", 0)) == []
    assert database.read_now(lambda c: checkpoints.newest(c, "job_1")) == []


def test_the_right_fence_after_the_end_is_stale_too(database: Database, make: "Records") -> None:
    claimed(database, make)
    database.write_now(lambda c: jobs.move(c, "job_1", to="cancelled", now=9.0))
    with pytest.raises(StaleFencingTokenError):
        database.write_now(lambda c: jobs.renew(c, "job_1", fence=1, now=9.0, lease_s=9.0))


def test_renewing_puts_the_end_of_the_lease_off(database: Database, make: "Records") -> None:
    claimed(database, make)
    assert [j.id for j in database.read_now(lambda c: jobs.expired(c, 40.0))] == ["job_1"]
    database.write_now(lambda c: jobs.renew(c, "job_1", fence=1, now=20.0, lease_s=30.0))
    assert database.read_now(lambda c: jobs.expired(c, 40.0)) == []
    assert [j.id for j in database.read_now(lambda c: jobs.expired(c, 50.0))] == ["job_1"]


def test_what_the_owner_wants_is_noted(database: Database, make: "Records") -> None:
    claimed(database, make)
    wanted = database.write_now(lambda c: jobs.want(c, OURS, "job_1", "pause"))
    assert (wanted.wanted, wanted.status) == ("pause", "running")
    assert [j.wanted for j in database.read_now(jobs.running)] == ["pause"]


def test_unfinished_jobs_are_counted_per_project(database: Database, make: "Records") -> None:
    for i, status in enumerate(STATUSES):
        record = make.job(f"job_{i}", status=status)
        database.write_now(partial(jobs.insert, record=record))
    count = database.read_now(lambda c: jobs.count_unfinished(c, OURS))
    assert count == len(STATUSES) - len(TERMINAL)
    assert database.read_now(lambda c: jobs.count_unfinished(c, "proj_theirs")) == 0


def test_a_listing_can_be_of_one_resource(database: Database, make: "Records") -> None:
    database.write_now(lambda c: jobs.insert(c, make.job("job_1")))
    database.write_now(lambda c: jobs.insert(c, make.job("ftjob-1", api="fine_tuning")))
    page = database.read_now(lambda c: jobs.page(c, OURS, after=None, limit=9, api="fine_tuning"))
    assert [job.id for job in page.items] == ["ftjob-1"]


def test_an_absent_job_is_not_found(database: Database) -> None:
    with pytest.raises(NotFoundError):
        database.write_now(lambda c: jobs.move(c, "job_x", to="running", now=1.0))


def test_events_are_numbered_from_one_without_a_gap(database: Database, make: "Records") -> None:
    for name in ("job_1", "job_2"):
        database.write_now(partial(jobs.insert, record=make.job(name)))
    for i in range(5):
        for name in ("job_1", "job_2"):
            database.write_now(
                partial(
                    events.append,
                    job_id=name,
                    kind="message",
                    level="info",
                    message=str(i),
                    data={"i": i},
                    now=1.0,
                )
            )
    found = database.read_now(lambda c: events.since(c, "job_2", 0))
    assert [(e.seq, e.message, e.data) for e in found] == [
        (i + 1, str(i), {"i": i}) for i in range(5)
    ]
    assert [e.seq for e in database.read_now(lambda c: events.since(c, "job_1", 3))] == [4, 5]


def test_events_are_paged_by_type(database: Database, make: "Records") -> None:
    database.write_now(lambda c: jobs.insert(c, make.job()))
    kinds: tuple[events.Kind, ...] = ("message", "metrics", "message")
    for kind in kinds:
        database.write_now(
            partial(
                events.append,
                job_id="job_1",
                kind=kind,
                level="info",
                message="m",
                data={},
                now=1.0,
            )
        )
    page = database.read_now(
        lambda c: events.page(c, "job_1", after=None, limit=1, order="asc", type="message")
    )
    assert ([e.seq for e in page.items], page.has_more) == ([1], True)
    rest = database.read_now(
        lambda c: events.page(
            c, "job_1", after=page.items[0].id, limit=1, order="asc", type="message"
        )
    )
    assert ([e.seq for e in rest.items], rest.has_more) == ([3], False)


def test_checkpoints_are_listed_newest_first(database: Database, make: "Records") -> None:
    claimed(database, make)
    for step in (10, 20):
        record = make.checkpoint(f"ftckpt_{step}", step=step)
        database.write_now(partial(checkpoints.insert, record=record, fence=1))
    assert [k.step for k in database.read_now(lambda c: checkpoints.newest(c, "job_1"))] == [20, 10]
    page = database.read_now(lambda c: checkpoints.page(c, "job_1", after=None, limit=1))
    assert ([k.step for k in page.items], page.has_more) == ([20], True)
