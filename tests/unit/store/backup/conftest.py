"""A data folder as a server keeps it, with its database open."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.records import FileRecord, KeyRecord, ModelRecord
from purvey.store import files, keys, models, projects
from purvey.store.artifacts import Artifacts
from purvey.store.backup.manifest import BackupManifest
from purvey.store.backup.taking import Source, take_backup
from purvey.store.blobs import Blobs
from purvey.store.database import Database
from purvey.store.sweeper import collect_artifact
from purvey.testing.clock import FakeClock


class Server:
    """What a running server does to its folder, without the server."""

    def __init__(self, root: Path, database: Database) -> None:
        self.root, self.database = root, database
        self.artifacts, self.blobs = Artifacts(root / "artifacts"), Blobs(root / "blobs")
        (root / "secret").mkdir()
        (root / "secret" / "pepper").write_bytes(b"p" * 32)
        database.write_now(partial(projects.ensure, project_id=DEFAULT_PROJECT, name="p", now=0.0))

    def upload(self, content: bytes) -> str:
        blob = self.blobs.put_bytes(content)
        record = FileRecord(
            id=f"file-{blob.sha256[:16]}",
            project_id=DEFAULT_PROJECT,
            name="f",
            purpose="user_data",
            num_bytes=blob.num_bytes,
            sha256=blob.sha256,
            created_at=0.0,
        )
        self.database.write_now(lambda conn: files.insert(conn, record))
        return blob.sha256

    def delete(self, sha256: str) -> None:
        file_id = f"file-{sha256[:16]}"
        self.database.write_now(lambda conn: files.delete(conn, DEFAULT_PROJECT, file_id))
        self.blobs.remove(sha256)

    def train(self, name: str, *contents: bytes) -> str:
        folder = self.root / "output"
        (folder / "inner").mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / "inner" / f"weights-{number}").write_bytes(content)
        digest = self.artifacts.publish(folder).digest
        self.register(name, artifact=digest)
        return digest

    def register(self, name: str, *, artifact: str | None) -> None:
        record = ModelRecord(
            name=name,
            project_id=DEFAULT_PROJECT,
            family="decoder",
            task="text-generation",
            digest="d",
            folder="/models/elsewhere",
            artifact=artifact,
            created_at=0.0,
        )
        self.database.write_now(lambda conn: models.insert(conn, record))

    async def forget(self, name: str, digest: str) -> None:
        self.artifacts.release(digest)
        self.database.write_now(lambda conn: models.delete(conn, DEFAULT_PROJECT, name))
        await collect_artifact(self.database, self.artifacts, digest)

    def add_key(self) -> None:
        record = KeyRecord(
            id="key_1", project_id=DEFAULT_PROJECT, name="k", scopes=(), hint="abcd", created_at=0.0
        )
        self.database.write_now(lambda conn: keys.insert(conn, record, secret_hash=b"hash"))

    def back_up(
        self, target: Path, moved: Callable[[int], None] = lambda _: None
    ) -> BackupManifest:
        source = Source(data_dir=self.root, database=self.root / "purvey.db")
        return take_backup(source, target, version="1.2.3", now=7.0, moved=moved)


@pytest.fixture
def server(empty_file: Path, tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "data"
    root.mkdir()
    shutil.copy(empty_file, root / "purvey.db")
    database = Database.open(f"sqlite:///{root / 'purvey.db'}", clock=FakeClock())
    yield Server(root, database)
    database.close()
