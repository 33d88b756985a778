"""A disk that refuses (EIO): the operation fails, nothing moves on, nothing is half there.

And runs that go wrong by themselves: a step that hangs ends its worker, not the job.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from purvey import failpoints
from tests.matrix.kills import World, attempts, messages, run_with
from tests.matrix.waiting import wait_until

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

PLACES = ("blob.tmp", "blob.fsync", "blob.renamed", "disk.fsync", "db.commit")


@pytest.mark.row("CRA-09")
@pytest.mark.parametrize("place", PLACES)
def test_an_upload_that_the_disk_refuses_is_not_acknowledged(held: "Held", place: str) -> None:
    upload: Any = {
        "files": {"file": ("e.csv", f"not yet {place}".encode())},
        "data": {"purpose": "user_data"},
    }
    before = held.http.get("/v1/files").json()["data"]
    failpoints.arm(f"{place}=eio")  # once: had the same fsync been tried again, it would succeed
    refused = held.http.post("/v1/files", **upload)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
    assert refused.headers["x-should-retry"] == "true"
    assert held.http.get("/v1/files").json()["data"] == before
    stored = held.http.post("/v1/files", **upload).raise_for_status().json()
    held.http.delete(f"/v1/files/{stored['id']}").raise_for_status()


def _make_a_dataset(held: "Held", plan: str) -> None:
    data: Any = {
        "files": {"file": ("d.csv", b"text,label\nhi,ham\n")},
        "data": {"purpose": "user_data"},
    }
    file_id = held.http.post("/v1/files", **data).raise_for_status().json()["id"]
    failpoints.arm(plan)
    made = held.http.post("/v1/datasets", json={"file_ids": [file_id]}).raise_for_status().json()
    wait_until(lambda: held.http.get(f"/v1/datasets/{made['id']}").json()["status"] == "ready")
    held.http.delete(f"/v1/datasets/{made['id']}").raise_for_status()
    held.http.delete(f"/v1/files/{file_id}").raise_for_status()


@pytest.mark.row("CRA-09")
def test_a_result_that_the_disk_refuses_is_made_again(held: "Held") -> None:
    _make_a_dataset(held, "disk.fsync=eio#3")


@pytest.mark.row("CRA-09")
@pytest.mark.faults
@pytest.mark.parametrize("hit", [2, 3, 4, 5])
def test_a_move_that_the_database_refuses_is_made_after_a_lease(held: "Held", hit: int) -> None:
    _make_a_dataset(held, f"db.commit=eio#{hit}")


@pytest.mark.row("CRA-09")
@pytest.mark.faults
@pytest.mark.parametrize("hit", [1, 3, 6, 8, 10, 12])
def test_a_checkpoint_that_the_disk_refuses_costs_an_attempt_and_no_more(
    world: World, tmp_path: Path, hit: int
) -> None:
    plan = f"eval.done=delay:1#1+,ckpt.fsync=eio#{hit}"
    run = run_with(world, tmp_path, plan, ["table"])
    world.check(tmp_path, run.jobs)
    assert attempts(tmp_path, run.jobs["table"]) == 2
    assert any("the disk refused" in message for message in messages(tmp_path, run.jobs["table"]))


@pytest.mark.row("CRA-25")
@pytest.mark.faults
def test_a_step_that_hangs_is_noticed_and_the_run_goes_on_from_its_checkpoint(
    world: World, tmp_path: Path
) -> None:
    plan = "eval.done=delay:1#1+,train.step=delay:3600#12"
    run = run_with(world, tmp_path, plan, ["table"], settings={"JOB_STALL_S": "3"})
    world.check(tmp_path, run.jobs)
    job_id = run.jobs["table"]
    assert attempts(tmp_path, job_id) == 2
    told = messages(tmp_path, job_id)
    assert any("stalled: step 12 of this attempt" in message for message in told), told
    assert any("from the checkpoint of step" in message for message in told), told
