"""The harness can fail: each invariant notices what breaks it."""

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from purvey.store import schema
from tests.matrix import invariants
from tests.matrix.contract import assert_refusal
from tests.matrix.invariants import AtRest, check_store, wait_for_rest

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

FILE = (
    "INSERT INTO files (id, project_id, name, purpose, num_bytes, sha256, created_at)"
    " VALUES ('file-1', 'proj_default', 'a', 'batch', 5, '{}', 0)"
)
JOB = (
    "INSERT INTO jobs (id, project_id, key_id, api, kind, status, created_at, recipe,"
    " recipe_digest, seed, metadata, request, attempt, fence, wanted, compute_s)"
    " VALUES ('job_1', 'proj_default', 'key_1', 'training', 'training', '{}', 0, '{{}}',"
    " '', 0, '{{}}', '{{}}', 1, 1, 'run', 0)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one stored file and nothing wrong with it."""
    schema.prepare(tmp_path / "purvey.db")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "artifacts").mkdir()
    name = hashlib.sha256(b"hello").hexdigest()
    (tmp_path / "blobs" / name).write_bytes(b"hello")
    _write(
        tmp_path,
        "INSERT OR IGNORE INTO projects (id, name, created_at) VALUES ('proj_default', 'd', 0)",
        FILE.format(name),
    )
    check_store(tmp_path)
    return tmp_path


def _write(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "purvey.db") as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def _flip(folder: Path) -> None:
    [blob] = (folder / "blobs").iterdir()
    blob.write_bytes(b"hellp")


def _lose(folder: Path) -> None:
    [blob] = (folder / "blobs").iterdir()
    blob.unlink()


BREAKS: dict[str, Callable[[Path], object]] = {
    "a byte of a file changed": _flip,
    "a file's bytes are gone": _lose,
    "bytes that no row names": lambda f: (f / "blobs" / ".incoming-1").write_bytes(b""),
    "an artifact that no row names": lambda f: (f / "artifacts" / ("0" * 64)).mkdir(),
    "an ended job without its line in the ledger": lambda f: _write(f, JOB.format("succeeded")),
    "a running job without a lease": lambda f: _write(f, JOB.format("running")),
    "a gap in a job's events": lambda f: _write(
        f,
        JOB.format("queued"),
        "INSERT INTO job_events (id, job_id, seq, type, level, message, data, created_at)"
        " VALUES ('e', 'job_1', 2, 'message', 'info', '', '{}', 0)",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_the_store_is_noticed(folder: Path, what: str) -> None:
    BREAKS[what](folder)
    with pytest.raises(AssertionError):
        check_store(folder)


def test_a_descriptor_that_stays_open_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "PATIENCE_S", 0.1)
    before = AtRest.now()
    leaked = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    try:
        with pytest.raises(AssertionError):
            wait_for_rest(before)
    finally:
        for descriptor in leaked:
            os.close(descriptor)


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(500, json={"error": {}}),
        httpx2.Response(400, text="no"),
        httpx2.Response(400, json={"error": {"message": "m", "type": "t", "code": "c"}}),
    ],
    ids=["a bug", "no JSON", "another shape"],
)
def test_an_answer_of_another_shape_is_noticed(response: httpx2.Response) -> None:
    response.request = httpx2.Request("GET", "http://localhost/")
    with pytest.raises((AssertionError, KeyError)):
        assert_refusal(response)


def test_the_server_passes_before_any_fault(held: "Held") -> None:
    assert held.ask("hello").json()["choices"][0]["message"]["content"] == "hello"
