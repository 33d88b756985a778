"""A server killed between effect and answer: who asks again under the same key finds the effect."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from openai import APIConnectionError, OpenAI

from purvey.client.purvey import Purvey
from purvey.testing.model_folder import write_plausible_folder
from tests.conftest import FIRST_KEY
from tests.matrix.invariants import check_store, reading
from tests.matrix.served import Served, serving

if TYPE_CHECKING:
    from purvey.client.values import Dataset

ROWS = "\n".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"say {number}"},
                {"role": "assistant", "content": str(number)},
            ]
        }
    )
    for number in range(12)
).encode()
ONCE = {"idempotency-key": "once-and-only-once"}
SETTINGS = {"MAX_RUNNING_JOBS": "0", "LOG_LEVEL": "warning"}


def _count(root: Path, table: str) -> int:
    with reading(root / "data") as db:
        count: int = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 (constants)
    return count


def _upload(sdk: OpenAI, headers: dict[str, str] | None = None, content: bytes = ROWS) -> str:
    return sdk.files.create(
        file=("rows.jsonl", content), purpose="fine-tune", extra_headers=headers
    ).id


def _tune(sdk: OpenAI, file: str) -> str:
    return sdk.fine_tuning.jobs.create(model="echo", training_file=file, extra_headers=ONCE).id


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A server's folder with a registered model, and the id of a file in it."""
    root = tmp_path_factory.mktemp("prepared")
    folder = write_plausible_folder(root / "models" / "echo")
    with serving(root, settings=SETTINGS) as served, served.openai() as sdk:
        with served.witness.client() as http:
            http.post("/v1/models", json={"id": "echo", "source": str(folder)}).raise_for_status()
        file = _upload(sdk)
        assert served.stop() == 0
    return root, file


@pytest.fixture
def root(prepared: tuple[Path, str], tmp_path: Path) -> Iterator[Path]:
    """A copy of the folder; the store is whole when the test is over."""
    copy = tmp_path / "copy"
    shutil.copytree(prepared[0], copy, ignore=shutil.ignore_patterns("models"))
    (copy / "models").symlink_to(prepared[0] / "models")  # served from where they were registered
    yield copy
    check_store(copy / "data")


@pytest.fixture
def file(prepared: tuple[Path, str]) -> str:
    """The uploaded file."""
    return prepared[1]


def _dies_of(served: Served, act: Callable[[OpenAI], str]) -> str | None:
    """Ask once, without the SDK's own repetition; the answer may still arrive."""
    with served.openai(max_retries=0) as sdk:
        try:
            return act(sdk)
        except APIConnectionError:
            return None
        finally:
            assert served.process.wait(timeout=30) == -9


def _one_job(root: Path, file: str, where: str) -> None:
    with serving(root, settings=SETTINGS, failpoints=f"{where}=kill9") as served:
        first = _dies_of(served, lambda sdk: _tune(sdk, file))
    assert _count(root, "jobs") == int(where != "job.created")
    with serving(root, settings=SETTINGS) as served, served.openai() as sdk:
        ids = [_tune(sdk, file), _tune(sdk, file)]
        assert [job.id for job in sdk.fine_tuning.jobs.list()] == [ids[0]]
        assert served.stop() == 0
    assert ids[0] == ids[1]
    assert first in {None, ids[0]}


@pytest.mark.row("CRA-01")
def test_a_job_asked_for_again_after_a_kill_is_one_job(root: Path, file: str) -> None:
    _one_job(root, file, "job.committed")


@pytest.mark.faults
@pytest.mark.row("CRA-01")
@pytest.mark.parametrize("where", ["job.created", "resp.sent"])
def test_wherever_the_server_dies_it_is_one_job(root: Path, file: str, where: str) -> None:
    _one_job(root, file, where)


@pytest.mark.faults
@pytest.mark.row("CRA-01")
@pytest.mark.parametrize(
    "where",
    [
        "upload.received",
        "blob.tmp",
        "blob.fsync",
        "blob.renamed",
        "file.created",
        "file.committed",
        "resp.sent",
    ],
)
def test_a_file_sent_again_after_a_kill_is_one_file(root: Path, where: str) -> None:
    content = ROWS + b"\n"
    with serving(root, settings=SETTINGS, failpoints=f"{where}=kill9") as served:
        first = _dies_of(served, lambda sdk: _upload(sdk, ONCE, content))
    with serving(root, settings=SETTINGS) as served, served.openai() as sdk:
        ids = [_upload(sdk, ONCE, content), _upload(sdk, ONCE, content)]
        assert len(list(sdk.files.list())) == 2
        assert sdk.files.content(ids[0]).content == content
        assert served.stop() == 0
    assert ids[0] == ids[1]
    assert first in {None, ids[0]}


@pytest.mark.row("CRA-01")
def test_our_client_outlives_the_server_and_makes_one_dataset(root: Path, file: str) -> None:
    """It asks again by itself, under its key, until the next server is there."""
    settings = SETTINGS | {"PORT": str(_free_port())}
    made: list[Dataset] = []

    def create() -> None:
        with Purvey(served.base_url, FIRST_KEY) as client:
            made.append(client.datasets.create([file]))

    with serving(root, settings=settings, failpoints="job.committed=kill9") as served:
        asking = threading.Thread(target=create)
        asking.start()
        assert served.process.wait(timeout=30) == -9
    with serving(root, settings=settings) as served, served.witness.client() as http:
        asking.join(timeout=60)
        assert [one["id"] for one in http.get("/v1/datasets").json()["data"]] == [made[0].id]
        assert served.stop() == 0
    assert (_count(root, "jobs"), _count(root, "datasets")) == (1, 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
