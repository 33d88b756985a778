"""What holds after every fault: the store is whole, the ledger exact, the process at rest.

Read from the disk and the process table by means of their own (`sqlite3`, `hashlib`, `psutil`),
not through the code that is under test.
"""

import hashlib
import json
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from purvey.contracts.jobs import TERMINAL, TRANSITIONS

PATIENCE_S = 10.0
POOLS = ("store-reader", "asyncio_", "AnyIO worker thread")
FDS_OF_A_CONNECTION = 2  # the database and its log
_NAMING_ARTIFACTS = ("models", "datasets")


@contextmanager
def reading(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """Open the database of a data folder for reading, whether a server has it or not."""
    with closing(sqlite3.connect(f"file:{data_dir / 'purvey.db'}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        yield db


def check_store(data_dir: Path) -> None:
    """Assert what must hold of a data folder at any moment at which nothing is being written."""
    with reading(data_dir) as db:
        _check_database(db)
        _check_events(db)
        _check_ledger(db)
        _check_blobs(db, data_dir / "blobs")
        _check_artifacts(db, data_dir / "artifacts")


def _check_database(db: sqlite3.Connection) -> None:
    """G7: no damaged page, no reference into nothing."""
    assert [tuple(row) for row in db.execute("PRAGMA integrity_check")] == [("ok",)]
    assert [tuple(row) for row in db.execute("PRAGMA foreign_key_check")] == []


def _check_events(db: sqlite3.Connection) -> None:
    """G5: known states, numbered events without gap or repeat, nothing after the end."""
    for job in db.execute("SELECT id, status, lease FROM jobs"):
        assert job["status"] in TRANSITIONS, job["status"]
        assert (job["lease"] is not None) == (job["status"] == "running"), tuple(job)
        told = db.execute(
            "SELECT seq, type, data FROM job_events WHERE job_id = ? ORDER BY position",
            (job["id"],),
        ).fetchall()
        assert [row["seq"] for row in told] == list(range(1, len(told) + 1)), job["id"]
        steps = [json.loads(row["data"]).get("step") for row in told if row["type"] == "metrics"]
        assert all(a < b for a, b in pairwise(s for s in steps if s is not None)), steps


def _check_ledger(db: sqlite3.Connection) -> None:
    """G3: one row for each attempt of each request; every ended job that ran has its row."""
    ids = db.execute("SELECT request_id, attempt FROM usage_ledger").fetchall()
    assert len({tuple(row) for row in ids}) == len(ids)
    per_job = Counter(row["request_id"] for row in ids)
    for job in db.execute("SELECT id, status FROM jobs"):
        expected = 1 if job["status"] in TERMINAL else 0
        assert per_job[job["id"]] == expected, (job["id"], job["status"], per_job[job["id"]])


def _check_blobs(db: sqlite3.Connection, folder: Path) -> None:
    """G1, G2, G6: every file's bytes are there and are its own, and nothing else is there."""
    named = {row["sha256"]: row["num_bytes"] for row in db.execute("SELECT * FROM files")}
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert present == set(named), (present ^ set(named),)
    for sha256, num_bytes in named.items():
        data = (folder / sha256).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (num_bytes, sha256)


def _check_artifacts(db: sqlite3.Connection, folder: Path) -> None:
    """G6: every model and ready dataset has its folder, whole, and no other folder is there."""
    named = {
        row["artifact"]
        for table in _NAMING_ARTIFACTS
        for row in db.execute(f"SELECT artifact FROM {table} WHERE artifact IS NOT NULL")  # noqa: S608 (constants)
    }
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert present == named, (present ^ named,)
    for digest in named:
        manifest = json.loads((folder / digest / "artifact.json").read_bytes())
        for file in manifest["files"]:
            data = (folder / digest / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"], (digest, file["path"])


@dataclass(frozen=True, kw_only=True)
class AtRest:
    """G11: what this process holds while it does nothing.

    `num_pooled` are the threads of pools that grow to a fixed size as requests happen to meet.
    """

    num_fds: int
    num_threads: int
    num_pooled: int
    temporary: frozenset[str]

    @classmethod
    def now(cls) -> "AtRest":
        """Count now."""
        process = psutil.Process()
        return cls(
            num_fds=process.num_fds(),
            num_threads=process.num_threads(),
            num_pooled=sum(t.name.startswith(POOLS) for t in threading.enumerate()),
            temporary=frozenset(path.name for path in Path(tempfile.gettempdir()).glob("tmp*")),
        )


def wait_for_rest(before: AtRest, *, slack: int = 2) -> None:
    """Assert that this process comes back to what it held, `slack` descriptors and threads aside.

    A pool may have grown: a thread of it may also hold a connection to the database.
    """
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
    while True:
        now = AtRest.now()
        num_grown = max(0, now.num_pooled - before.num_pooled)
        is_back = (
            now.num_fds <= before.num_fds + slack + FDS_OF_A_CONNECTION * num_grown
            and now.num_threads <= before.num_threads + slack + num_grown
        )
        if is_back:
            return
        assert time.monotonic() < deadline, (before, now)
        pause.wait(0.05)


def job_row(data_dir: Path, job_id: str) -> dict[str, Any]:
    """Return a job as the database has it."""
    with reading(data_dir) as db:
        return dict(db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone())
