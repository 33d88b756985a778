"""Runs as a tracking server is told of them; a dead one is in nobody's way, and misses nothing."""

import base64
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from purvey.server.reporting.tracking import following
from tests.api.conftest import PATIENCE_S
from tests.api.mlflow_double import MlflowDouble, Told
from tests.api.upstream_double import UpstreamDouble, plain
from tests.conftest import RunningServer, scripted_server

PASSWORD = "canary-0123456789"
SHOWN = f"Basic {base64.b64encode(f'purvey:{PASSWORD}'.encode()).decode()}"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "INTERVAL_S", 0.02)
    monkeypatch.setattr(following, "LONGEST_WAIT_S", 0.05)


@pytest.fixture
def tracker() -> MlflowDouble:
    return MlflowDouble(authorization=SHOWN)


@pytest.fixture
def url(tracker: MlflowDouble) -> Iterator[str]:
    with UpstreamDouble(tracker) as double:
        yield f"http://127.0.0.1:{double.port}"


@contextmanager
def serving(root: Path, url: str) -> Iterator[tuple[RunningServer, httpx2.Client]]:
    """Run a server that tells the tracker, on a folder that it may find again."""
    key_file = root / "key"
    key_file.write_text(PASSWORD, encoding="ascii")
    mlflow = {"url": url, "user": "purvey", "key_file": key_file, "experiment": "tables"}
    with scripted_server(root, mlflow=mlflow) as running:
        headers = {"authorization": f"Bearer {running.admin_key}"}
        with httpx2.Client(base_url=running.base_url, headers=headers) as http:
            yield running, http


def _until(is_so: Callable[[], object]) -> None:
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.01)


def _dataset(http: httpx2.Client) -> str:
    files = {"file": ("rows.csv", b"text,label\nhi,ham\n")}
    uploaded = http.post("/v1/files", files=files, data={"purpose": "user_data"}).json()["id"]
    made: str = http.post("/v1/datasets", json={"file_ids": [uploaded]}).json()["id"]
    _until(lambda: http.get(f"/v1/datasets/{made}").json()["status"] == "ready")
    return made


def _trained(http: httpx2.Client, dataset: str, name: str) -> str:
    recipe = {"task": "text-classification", "dataset": dataset, "name": name}
    asked = {"recipe": recipe, "metadata": {"who": "\u674e"}}
    job: str = http.post("/v1/training/jobs", json=asked).raise_for_status().json()["id"]
    _until(lambda: http.get(f"/v1/training/jobs/{job}").json()["status"] == "succeeded")
    return job


def _told(tracker: MlflowDouble, job: str) -> Told:
    """Return the run of a job once it has all of its events."""
    found = list[Told]()

    def is_whole() -> bool:
        found[:] = [run for run in tracker.runs.values() if run.tags["purvey.job"] == job]
        return bool(found) and "mlflow.note.content" in found[0].tags

    _until(is_whole)
    return tracker.run(job)


def test_a_run_is_told_whole_and_each_thing_once(
    tmp_path: Path, url: str, tracker: MlflowDouble, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(tmp_path, url) as (running, http):
        dataset = _dataset(http)
        job = _trained(http, dataset, "letters")
        run = _told(tracker, job)
        shown = http.get(f"/v1/training/jobs/{job}").json()
        assert list(tracker.experiments.values()) == ["tables"]
        assert (run.info["run_name"], run.info["status"]) == ("letters", "FINISHED")
        assert run.info["end_time"] >= run.info["start_time"] == round(shown["created_at"] * 1_000)
        assert run.points("train_loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
        assert run.points("test.accuracy") == [(0, 1.0)]
        assert run.points("test.accuracy.low") == [(0, 0.7)]
        assert run.params["task"] == "text-classification"
        assert run.params["train.batch_size"] == str(shown["recipe"]["train"]["batch_size"])
        for name, value in {
            "purvey.dataset": dataset,
            "purvey.model": "letters",
            "purvey.recipe_digest": shown["recipe_digest"],
            "metadata.who": "\u674e",
        }.items():
            assert run.tags[name] == value, name
        assert "| accuracy | 1 | 0.7 to 1 | 10 |" in run.tags["mlflow.note.content"]
        (mark,) = (running.data_dir / "cache").glob("mlflow-*")
    mark.unlink()  # told all over again
    before, num_calls = [*run.metrics], tracker.num_calls
    with serving(tmp_path, url) as (_, http):
        _until(lambda: mark.exists())
        assert tracker.num_calls > num_calls
        assert len(tracker.runs) == 1, "found again, and no dataset is a run"
        assert run.metrics == before
    assert PASSWORD not in caplog.text
    assert SHOWN not in caplog.text


def test_trials_are_shown_below_their_sweep(
    tmp_path: Path, url: str, tracker: MlflowDouble
) -> None:
    with serving(tmp_path, url) as (_, http):
        recipe = {"task": "text-classification", "dataset": _dataset(http), "name": "swept"}
        asked = {"recipe": recipe, "space": {"seed": {"values": [1, 2]}}, "max_trials": 2}
        sweep = http.post("/v1/training/sweeps", json=asked).raise_for_status().json()["id"]
        _until(lambda: http.get(f"/v1/training/sweeps/{sweep}").json()["status"] == "succeeded")
        _until(lambda: len(tracker.runs) == 3)
        parent = tracker.run(sweep)
        trials = [run for run in tracker.runs.values() if run is not parent]
        assert {run.tags["mlflow.parentRunId"] for run in trials} == {parent.info["run_id"]}
        assert {run.tags["purvey.sweep"] for run in trials} == {sweep}
        assert {run.params["seed"] for run in trials} == {"1", "2"}
        names = {run.info["run_name"] for run in tracker.runs.values()}
        assert names == {"swept", "swept-trial-0", "swept-trial-1"}
        _until(lambda: {run.info["status"] for run in tracker.runs.values()} == {"FINISHED"})


def _cut() -> Iterable[bytes]:
    yield b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{"
    raise OSError("cut")


UNWELL: dict[str, Callable[[], Iterable[bytes]]] = {
    "busy": lambda: [plain(503, b"busy")],
    "page": lambda: [plain(200, b"<html>", kind="text/html")],
    "mistyped": lambda: [plain(200, b'{"experiment": {"experiment_id": 7}}')],
    "redirect": lambda: [plain(302, b"", location="http://127.0.0.1:1/")],
    "stranger": lambda: [plain(401, b"You are not authenticated.", kind="text/plain")],
    "noise": lambda: [b"\x00\x00"],
    "cut": _cut,
}


def test_a_tracker_that_is_unwell_costs_jobs_nothing_and_misses_nothing(
    tmp_path: Path, url: str, tracker: MlflowDouble, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.unwanted = ("not-taken",)
    with serving(tmp_path, url) as (_, http):
        dataset = _dataset(http)
        for name, answer in UNWELL.items():
            tracker.instead = answer
            job = _trained(http, dataset, name)
            asked = tracker.num_calls
            _until(lambda asked=asked: tracker.num_calls > asked + 2)  # type: ignore[misc]
            tracker.instead = None
            run = _told(tracker, job)
            assert [step for step, _ in run.points("train_loss")] == [1, 2, 3], name
        not_taken = _trained(http, dataset, "not-taken")
        _told(tracker, _trained(http, dataset, "the-next"))
    assert len(tracker.runs) == len(UNWELL) + 1
    told = {(r.message, getattr(r, "job_id", "")) for r in caplog.records}
    assert ("mlflow.refused", not_taken) in told
    assert [r.message for r in caplog.records].count("mlflow.failed") == len(UNWELL)
