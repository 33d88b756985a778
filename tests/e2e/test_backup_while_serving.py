"""A backup of a server that works: taken under uploads and deletions, restored, served again."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from openai import OpenAI

KEY = "sk-test-administrator-0123456789abcdef0123456789"
SETTINGS = {"PURVEY_LOG_LEVEL": "error", "PURVEY_SPARE_ENGINE": "false"}
NUM_KEPT, NUM_CHURNING = 40, 3


def purvey(where: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "purvey", *words],
        env={"PATH": os.defpath, "HOME": str(where)},
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@contextmanager
def serving(where: Path, data_dir: str, *, key: str | None) -> Iterator[OpenAI]:
    """Run `purvey serve` on a folder; leave it by SIGTERM."""
    environment = {"PATH": os.defpath, "HOME": str(where), **SETTINGS}
    if key is not None:
        environment["PURVEY_BOOTSTRAP_KEY"] = key
    with subprocess.Popen(
        [sys.executable, "-m", "purvey", "serve", "--port", "0", "--data-dir", data_dir],
        env=environment,
        cwd=where,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address
            with OpenAI(base_url=f"{address.group()}/v1", api_key=KEY, max_retries=3) as client:
                yield client
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def content_of(name: str) -> bytes:
    return f"content of {name}\n".encode() * 2_000


def upload(client: OpenAI, name: str) -> str:
    return client.files.create(file=(name, content_of(name)), purpose="user_data").id


class Churn:
    """Clients that upload and delete without a pause until the block ends."""

    def __init__(self, client: OpenAI) -> None:
        self._client, self._stop = client, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(NUM_CHURNING)]
        self.failures: list[Exception] = []
        self.num_deleted = 0

    def __enter__(self) -> "Churn":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        count = 0
        try:
            while not self._stop.is_set():
                count += 1
                file_id = upload(self._client, f"passing-{number}-{count}")
                self._client.files.delete(file_id)
                self.num_deleted += 1
        except Exception as error:  # noqa: BLE001 (told by the test's own thread)
            self.failures.append(error)


@pytest.mark.row("CRA-21")
@pytest.mark.timeout(200)
@pytest.mark.parametrize("num_backups", [1, pytest.param(3, marks=pytest.mark.faults)])
def test_a_backup_taken_under_load_is_whole(tmp_path: Path, num_backups: int) -> None:
    with serving(tmp_path, "data", key=KEY) as client:
        kept = {upload(client, f"kept-{n}"): f"kept-{n}" for n in range(NUM_KEPT)}
        with Churn(client) as churn:
            backups = [
                purvey(tmp_path, "backup", f"copy-{n}", "--data-dir", "data", "--json")
                for n in range(num_backups)
            ]
            assert churn.num_deleted > 0
        assert churn.failures == []
        assert [(done.returncode, done.stderr) for done in backups] == [(0, "")] * num_backups
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == [
        f"copy-{n}" for n in range(num_backups)
    ]
    for n in range(num_backups):
        _restored_and_served(tmp_path, f"copy-{n}", kept)


def _restored_and_served(where: Path, backup: str, kept: dict[str, str]) -> None:
    done = purvey(where, "restore", backup, "--data-dir", f"of-{backup}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_files"] >= NUM_KEPT + 2
    with closing(sqlite3.connect(where / f"of-{backup}" / "purvey.db")) as database:
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    with serving(where, f"of-{backup}", key=None) as client:
        listed = {file.id: file.filename for file in client.files.list(limit=100)}
        assert kept.items() <= listed.items()
        for file_id, name in listed.items():
            assert client.files.content(file_id).content == content_of(name)
        client.files.delete(upload(client, "after"))
