"""A disk without room: what stores is refused or waits, what reads goes on, and all resumes.

By failpoints in the suite; on a small disk of its own in the full form.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from purvey import failpoints
from purvey.contracts.jobs import JobFailed
from purvey.server.native import explaining
from purvey.testing import scripted_jobs
from tests.matrix.invariants import check_store, job_row, reading
from tests.matrix.kills import (
    World,
    attempts,
    messages,
    run_with,
    wait_until_ended,
)
from tests.matrix.served import Served, serving
from tests.matrix.waiting import wait_until

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

IS_FULL = "insufficient_storage: The disk is full."
HAS_ROOM = "There is room on the disk again; the job goes on."
QUICK = {"JOB_LEASE_S": "8"}
"""How long a job that was set aside is left alone at least."""

PLANS = {
    "its first checkpoint": ("ckpt.tmp=enospc", "table"),
    "a later one, at its fsync": ("eval.done=delay:1#1+,ckpt.fsync=enospc#10", "table"),
    "its result": ("output.written=enospc", "table"),
    "publishing it": ("disk.fsync=enospc#2", "table"),
    "a dataset": ("output.written=enospc", "rows"),
}


def _is_set_aside_once(world: World, root: Path, plan: str, name: str) -> None:
    run = run_with(world, root, plan, [name], settings=QUICK)
    world.check(root, run.jobs)
    job_id = run.jobs[name]
    assert (attempts(root, job_id), job_row(root / "data", job_id)["attempt"]) == (2, 1)
    told = messages(root, job_id)
    full = [message for message in told if message.startswith(IS_FULL)]
    assert len(full) == 1, told
    assert told[told.index(full[0]) + 1] == HAS_ROOM


@pytest.mark.parametrize("what", ["its first checkpoint"])
def test_a_job_that_meets_a_full_disk_goes_on_by_itself(
    world: World, tmp_path: Path, what: str
) -> None:
    _is_set_aside_once(world, tmp_path, *PLANS[what])


@pytest.mark.faults
@pytest.mark.parametrize("what", PLANS)
def test_a_job_that_meets_a_full_disk_anywhere_goes_on_by_itself(
    world: World, tmp_path: Path, what: str
) -> None:
    _is_set_aside_once(world, tmp_path, *PLANS[what])


def _refused(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
    assert answer.headers["x-should-retry"] == "false"


def _requests(http: httpx2.Client) -> int:
    found = http.get("/v1/usage", params={"by": "kind"}).raise_for_status().json()["data"]
    return sum(total["requests"] for total in found if total["group"] == "chat")


def test_a_database_without_room_refuses_to_store_and_serves_on(held: "Held") -> None:
    http, before = held.http, _requests(held.http)
    kept = http.post(
        "/v1/files", files={"file": ("a.csv", b"a,b\n")}, data={"purpose": "user_data"}
    )
    file_id = kept.raise_for_status().json()["id"]
    failpoints.arm("db.commit=enospc#1+")
    upload = {"files": {"file": ("b.csv", b"c,d\n")}, "data": {"purpose": "user_data"}}
    _refused(http.post("/v1/files", **upload))  # type: ignore[arg-type]  # as above
    _refused(http.post("/v1/datasets", json={"file_ids": [file_id]}))
    _refused(http.post("/v1/keys", json={"name": "more"}))
    _refused(http.delete(f"/v1/files/{file_id}"))
    assert http.get(f"/v1/files/{file_id}/content").content == b"a,b\n"
    assert http.get("/v1/models").status_code == 200
    for _ in range(20):
        held.check_alive()
    assert _streamed(held) == "on and on"
    assert _requests(http) == before
    failpoints.arm("")
    wait_until(lambda: _requests(http) == before + 21)
    http.delete(f"/v1/files/{file_id}").raise_for_status()


def test_an_explanation_waits_for_room(held: "Held", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "ROOM_RETRY_S", 0.05)
    body: dict[str, Any] = {
        "model": held.model,
        "input": {"messages": [{"role": "user", "content": "say it"}]},
        "output": {"text": "it"},
        "budget": {"max_ms": 0},
    }
    held.check_alive()  # the key's last use is written now, if at all
    failpoints.arm("db.commit=enospc#1+")
    _refused(held.http.post("/v1/explanations", json=body))
    failpoints.arm("db.commit=enospc#2+")  # after it is stored as begun
    begun = held.http.post("/v1/explanations", json=body)
    assert begun.status_code == 202, begun.text
    path = f"/v1/explanations/{begun.json()['id']}"
    wait_until(lambda: held.server.application.services.meter.num_owed == 1)
    assert held.http.get(path).json()["status"] == "in_progress"
    failpoints.arm("")
    wait_until(lambda: held.http.get(path).json()["status"] == "completed")
    held.http.delete(path).raise_for_status()
    wait_until(lambda: held.server.application.services.meter.num_owed == 0)


def test_a_job_without_room_is_shown_as_such(held: "Held") -> None:
    assert held.server.jobs is not None
    full = JobFailed(code="insufficient_storage", message="the disk is full.", is_transient=True)
    held.server.jobs.then(scripted_jobs.fail(full))
    rows = "\n".join(json.dumps({"messages": _turns(number)}) for number in range(12)).encode()
    with held.server.openai() as sdk:
        file = sdk.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
        job = sdk.fine_tuning.jobs.create(model=held.model, training_file=file.id)
        jobs = sdk.fine_tuning.jobs
        wait_until(lambda: str(jobs.retrieve(job.id).status) == "paused")
        shown = jobs.retrieve(job.id)
        assert shown.error is not None
        assert shown.error.code == "insufficient_storage"
        assert "goes on by itself once 16 MiB are free" in str(shown.error.message)
        told = jobs.list_events(job.id).data[0]
        assert (told.level, told.message.startswith(IS_FULL)) == ("warn", True)
        jobs.resume(job.id)
        wait_until(lambda: jobs.retrieve(job.id).status == "succeeded")
        assert jobs.retrieve(job.id).error is None


def _turns(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": "yes"}]


def _streamed(held: "Held") -> str:
    body = {"model": held.model, "messages": [{"role": "user", "content": "on and on"}]}
    with held.server.openai() as sdk:
        chunks: Any = sdk.chat.completions.create(**body, stream=True)  # type: ignore[call-overload]  # from JSON
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.parametrize("place", ["blob.tmp", "blob.fsync", "blob.renamed", "disk.fsync"])
def test_an_upload_without_room_is_refused_and_leaves_nothing(held: "Held", place: str) -> None:
    failpoints.arm(f"{place}=enospc")
    upload = {"files": {"file": ("c.csv", place.encode())}, "data": {"purpose": "user_data"}}
    _refused(held.http.post("/v1/files", **upload))  # type: ignore[arg-type]  # as above
    held.http.post("/v1/files", **upload).raise_for_status()  # type: ignore[arg-type]  # as above


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, too small for much."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def _fill(ballast: Path) -> None:
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    os.write(fd, bytes(size))
            except OSError:
                continue
    finally:
        os.close(fd)


ROWS = "text,label\n" + "".join(f"the {n} was {n % 2},{'ab'[n % 2]}\n" for n in range(80))


@pytest.mark.faults
def test_a_disk_that_fills_up_under_a_server_and_its_job(tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "data").mkdir()
    (tmp_path / "data").symlink_to(small_disk / "data")
    with serving(tmp_path, settings=QUICK) as served:
        recipe = _recipe(served)
        _train(served, recipe | {"name": MODEL})
        assert served.stop() == 0
    ballast = small_disk / "ballast"
    with serving(tmp_path, settings=QUICK, failpoints="eval.done=delay:1#1+") as served:
        job_id = _submit(served, recipe)
        wait_until(lambda: "checkpoints" in _parts_of(small_disk / "data" / "jobs" / job_id))
        _fill(ballast)
        _serves_on(served)
        assert _processor_s(served) < 0.5
        os.truncate(ballast, ballast.stat().st_size - 2**20)  # room for words, not for work
        wait_until(lambda: _status(tmp_path, job_id) == "paused")
        _fill(ballast)
        _serves_on(served)
        assert served.stop() == 0
    with serving(tmp_path, settings=QUICK) as served:
        _serves_on(served)
        assert _processor_s(served) < 0.5
        assert _status(tmp_path, job_id) == "paused"
        ballast.unlink()
        wait_until_ended(tmp_path, [job_id])
        assert served.stop() == 0
    row = job_row(tmp_path / "data", job_id)
    assert (row["status"], row["attempt"], row["error"]) == ("succeeded", 1, None)
    assert _num_classified(tmp_path) == 2
    assert served.log.read_text().count("usage.unwritten") == 1  # owed when the server was stopped
    check_store(tmp_path / "data")


MODEL = "served-meanwhile"


def _recipe(served: Served) -> dict[str, Any]:
    with served.witness.client() as http:
        upload = {"files": {"file": ("rows.csv", ROWS)}, "data": {"purpose": "user_data"}}
        file_id = http.post("/v1/files", **upload).raise_for_status().json()["id"]  # type: ignore[arg-type]  # as above
        made = http.post("/v1/datasets", json={"file_ids": [file_id]}).raise_for_status().json()
        wait_until_ended(served.data_dir.parent, [made["job_id"]])
        assert http.get(f"/v1/datasets/{made['id']}").json()["error"] is None
    train = {"epochs": 2, "batch_size": 8, "evals_per_epoch": 2, "checkpoint_interval_s": 1}
    return {"task": "text-classification", "dataset": made["id"], "train": train}


def _submit(served: Served, recipe: dict[str, Any]) -> str:
    with served.witness.client() as http:
        made = http.post("/v1/training/jobs", json={"recipe": recipe}).raise_for_status().json()
    return str(made["id"])


def _train(served: Served, recipe: dict[str, Any]) -> None:
    wait_until_ended(served.data_dir.parent, [_submit(served, recipe)])


def _status(root: Path, job_id: str) -> str:
    return str(job_row(root / "data", job_id)["status"])


def _parts_of(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def _serves_on(served: Served) -> None:
    """Refuse to store, read, and answer."""
    with served.witness.client() as http:
        upload = {"files": {"file": ("x.csv", b"x" * 10_000)}, "data": {"purpose": "user_data"}}
        _refused(http.post("/v1/files", **upload))  # type: ignore[arg-type]  # as above
        assert http.get("/v1/files").status_code == 200
        assert http.get("/v1/training/jobs").status_code == 200
        body = {"model": MODEL, "inputs": [{"text": "the 3 was 1"}]}
        answer = http.post("/v1/classify", json=body)
        assert answer.status_code == 200, (answer.text, served.log.read_text()[-5_000:])


def _processor_s(served: Served) -> float:
    """Return what the server computes in a second in which nobody asks anything."""
    import threading

    import psutil

    process = psutil.Process(served.process.pid)
    before = process.cpu_times()
    threading.Event().wait(1.0)
    after = process.cpu_times()
    spent: float = after.user + after.system - before.user - before.system
    return spent


def _num_classified(root: Path) -> int:
    with reading(root / "data") as db:
        count: int = db.execute(
            "SELECT count(*) FROM usage_ledger WHERE kind = 'classify'"
        ).fetchone()[0]
    return count
