"""What is deleted over HTTP leaves the disk of a running server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
from openai import OpenAI

from purvey.app.application import build
from purvey.contracts.records import FileRecord
from purvey.errors import SettingError, StorageUnavailableError
from purvey.store import files
from purvey.testing import scripted_jobs
from purvey.testing.scripted_jobs import Conversation

if TYPE_CHECKING:
    from tests.api.conftest import Until
    from tests.conftest import RunningServer


@pytest.fixture(autouse=True)
def _workers_succeed(api: "RunningServer") -> Iterator[None]:
    assert api.jobs is not None
    yield
    api.jobs.script = scripted_jobs.succeed


@pytest.fixture
def file_id(sdk: OpenAI) -> str:
    return sdk.files.create(file=("rows.csv", b"text,label\nhi,ham\n"), purpose="user_data").id


@pytest.fixture
def make(http: httpx2.Client, until: "Until", file_id: str) -> Callable[[], str]:
    """A function that makes a ready dataset."""

    def create() -> str:
        made = http.post("/v1/datasets", json={"file_ids": [file_id]}).json()
        until(f"/v1/datasets/{made['id']}", "ready")
        return str(made["id"])

    return create


def artifacts(api: "RunningServer") -> list[Path]:
    return list((api.data_dir / "artifacts").iterdir())


def test_a_dataset_goes_with_the_last_that_is_equal(
    http: httpx2.Client, api: "RunningServer", make: Callable[[], str]
) -> None:
    first, second = make(), make()
    assert len(artifacts(api)) == 1, "equal content is one folder"
    http.delete(f"/v1/datasets/{first}").raise_for_status()
    assert http.get(f"/v1/datasets/{second}/rows").status_code == 200
    http.delete(f"/v1/datasets/{second}").raise_for_status()
    assert artifacts(api) == []


def test_a_model_goes_when_it_is_deleted(
    http: httpx2.Client, api: "RunningServer", make: Callable[[], str], until: "Until"
) -> None:
    dataset = make()
    recipe = {"task": "text-classification", "name": "short-lived", "dataset": dataset}
    run = http.post("/v1/training/jobs", json={"recipe": recipe}).json()["id"]
    until(f"/v1/training/jobs/{run}", "succeeded")
    digest = http.get("/v1/models/short-lived").json()["digest"]
    assert (api.data_dir / "artifacts" / digest).is_dir()
    http.delete("/v1/models/short-lived").raise_for_status()
    assert not (api.data_dir / "artifacts" / digest).exists()
    http.delete(f"/v1/datasets/{dataset}").raise_for_status()


async def _checkpoint_and_stop(worker: Conversation) -> int:
    Path(worker.spec.work_dir, "checkpoint-1").mkdir()  # noqa: ASYNC240 (a script of a test)
    return await scripted_jobs.until_stopped(worker)


def test_a_run_that_is_cancelled_while_paused_leaves_no_folder(
    http: httpx2.Client, api: "RunningServer", make: Callable[[], str], until: "Until"
) -> None:
    assert api.jobs is not None
    recipe = {"task": "text-classification", "dataset": make()}
    api.jobs.then(_checkpoint_and_stop)
    run = http.post("/v1/training/jobs", json={"recipe": recipe}).json()["id"]
    path = f"/v1/training/jobs/{run}"
    until(path, "running")
    http.post(f"{path}/pause").raise_for_status()
    until(path, "paused")
    assert (api.data_dir / "jobs" / run / "work" / "checkpoint-1").is_dir()
    http.post(f"{path}/cancel").raise_for_status()
    assert not (api.data_dir / "jobs" / run).exists()


def test_an_upload_whose_row_is_refused_leaves_no_bytes(
    sdk: OpenAI, api: "RunningServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set((api.data_dir / "blobs").iterdir())

    def refuse(_conn: object, _record: FileRecord) -> None:
        raise StorageUnavailableError("the storage refused.")

    monkeypatch.setattr(files, "insert", refuse)
    with pytest.raises(Exception, match="the storage refused"):
        sdk.files.create(file=("new.csv", b"never seen before\n"), purpose="user_data")
    assert set((api.data_dir / "blobs").iterdir()) == before


def test_a_start_removes_what_a_killed_server_left(server: "RunningServer") -> None:
    with server.openai() as sdk:
        kept = sdk.files.create(file=("kept.csv", b"a,b\n"), purpose="user_data")
    server.application.stop()
    blobs = server.data_dir / "blobs"
    before = set(blobs.iterdir())
    (blobs / ("0" * 64)).write_bytes(b"of an upload that ended before its row")
    again = build(server.settings, engine_launcher=server.engines, job_launcher=server.jobs)
    again.start()
    try:
        assert set(blobs.iterdir()) == before
        with server.openai() as sdk:
            assert sdk.with_options(base_url=f"{again.base_url}/v1").files.content(kept.id).read()
    finally:
        again.stop()


def test_a_server_whose_pepper_is_lost_does_not_start(server: "RunningServer") -> None:
    server.application.stop()
    pepper = server.data_dir / "secret" / "pepper"
    secret = pepper.read_bytes()
    pepper.unlink()
    with pytest.raises(SettingError, match="is gone"):
        build(server.settings)
    pepper.write_bytes(secret)
    again = build(server.settings)
    again.start()
    again.stop()
