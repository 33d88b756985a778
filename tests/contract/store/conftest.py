"""What every store must pass runs on each subject; SQLite is the one there is."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection

from purvey.contracts.records import (
    CheckpointRecord,
    DatasetRecord,
    ExplanationRecord,
    FileRecord,
    JobRecord,
    ModelRecord,
    UsageRecord,
)
from purvey.store import projects, schema
from purvey.store.database import Database
from purvey.testing.clock import FakeClock

OURS, THEIRS = "proj_ours", "proj_theirs"


class Records:
    """Complete records; keywords replace fields."""

    def file(self, record_id: str = "file-1", **changes: object) -> FileRecord:
        record = FileRecord(
            id=record_id,
            project_id=OURS,
            name="rows.jsonl",
            purpose="fine-tune",
            num_bytes=3,
            sha256="a" * 64,
            created_at=1.0,
        )
        return msgspec.structs.replace(record, **changes)

    def dataset(self, record_id: str = "ds_1", **changes: object) -> DatasetRecord:
        record = DatasetRecord(
            id=record_id,
            project_id=OURS,
            name="spam",
            status="processing",
            config={"seed": 1},
            file_ids=("file-1",),
            job_id="job_1",
            created_at=1.0,
        )
        return msgspec.structs.replace(record, **changes)

    def job(self, record_id: str = "job_1", **changes: object) -> JobRecord:
        record = JobRecord(
            id=record_id,
            project_id=OURS,
            key_id="key_1",
            api="training",
            kind="training",
            status="queued",
            created_at=1.0,
            recipe={"task": "text-classification", "train": {"epochs": 1.5}},
            recipe_digest="d" * 64,
            seed=2**63 - 1,
            metadata={"who": "me"},
        )
        return msgspec.structs.replace(record, **changes)

    def checkpoint(self, record_id: str = "ftckpt_1", **changes: object) -> CheckpointRecord:
        record = CheckpointRecord(
            id=record_id,
            job_id="job_1",
            step=10,
            folder="/w/step-10",
            digest="e" * 64,
            metrics={"valid_loss": 0.5},
            created_at=1.0,
        )
        return msgspec.structs.replace(record, **changes)

    def model(self, name: str = "spam", **changes: object) -> ModelRecord:
        record = ModelRecord(
            name=name,
            project_id=OURS,
            family="text-ngrams",
            task="text-classification",
            digest="f" * 64,
            folder="/a/f",
            created_at=1.0,
            manifest={"labels": ["ham", "spam"]},
        )
        return msgspec.structs.replace(record, **changes)

    def explanation(self, record_id: str = "expl_1", **changes: object) -> ExplanationRecord:
        record = ExplanationRecord(
            id=record_id,
            project_id=OURS,
            model="spam",
            status="in_progress",
            created_at=1.0,
            body={"units": []},
        )
        return msgspec.structs.replace(record, **changes)

    def usage(self, request_id: str = "req_1", **changes: object) -> UsageRecord:
        record = UsageRecord(
            request_id=request_id,
            project_id=OURS,
            key_id="key_1",
            kind="chat",
            model="spam",
            input_tokens=3,
            output_tokens=5,
            images=1,
            rows=2,
            compute_s=0.25,
            created_at=86_400.0,
        )
        return msgspec.structs.replace(record, **changes)


@pytest.fixture
def make() -> Records:
    return Records()


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "empty.db"
    schema.prepare(path)
    return path


@pytest.fixture(params=["sqlite"])
def database(empty_file: Path, tmp_path: Path) -> Iterator[Database]:
    copy = shutil.copy(empty_file, tmp_path / "purvey.db")
    opened = Database.open(f"sqlite:///{copy}", clock=FakeClock())
    opened.write_now(_add_projects)
    yield opened
    opened.close()


def _add_projects(conn: Connection) -> None:
    for project in (OURS, THEIRS):
        projects.ensure(conn, project, name=project, now=1.0)
