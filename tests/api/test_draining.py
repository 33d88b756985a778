"""What a stopping server does with what runs: streams end well, jobs go back to the queue."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from purvey.app.application import build
from purvey.testing import scripted_jobs
from purvey.testing.scripted_engine import ScriptedLauncher
from purvey.testing.scripted_jobs import ScriptedJobLauncher

if TYPE_CHECKING:
    from tests.conftest import RunningServer


@pytest.fixture
def call(server: "RunningServer") -> Callable[..., httpx2.Response]:
    headers = {"authorization": f"Bearer {server.admin_key}"}

    def request(method: str, path: str, **options: object) -> httpx2.Response:
        return httpx2.request(method, server.base_url + path, headers=headers, **options)  # type: ignore[arg-type]  # passed on as it is

    return request


def test_a_stream_under_way_is_told_to_its_end(
    server: "RunningServer",
    call: Callable[..., httpx2.Response],
    model_root: Path,
    write_model_folder: Callable[[Path], Path],
) -> None:
    folder = write_model_folder(model_root / "tiny")
    assert call("POST", "/v1/models", json={"id": "tiny", "source": str(folder)}).is_success
    with server.openai() as client:
        stream = client.completions.create(model="tiny", prompt="told to its end", stream=True)
        chunks = iter(stream)
        parts = [next(chunks).choices[0].text]
        assert server.engines is not None
        engine = server.engines.engines["tiny"][0]
        engine.gate.close()
        stopping = threading.Thread(target=server.application.stop)
        stopping.start()
        while server.application.is_ready:
            stopping.join(0.01)
        engine.gate.open()
        parts += [chunk.choices[0].text for chunk in chunks if chunk.choices]
    stopping.join(20)
    assert "".join(parts) == "told to its end"
    assert engine.is_closed
    with pytest.raises(httpx2.ConnectError):
        call("GET", "/healthz")


def test_a_running_job_goes_back_to_the_queue_and_on_after_a_restart(
    server: "RunningServer", call: Callable[..., httpx2.Response]
) -> None:
    assert server.jobs is not None
    file = call(
        "POST",
        "/v1/files",
        files={"file": ("rows.csv", b"a,b\n")},
        data={"purpose": "user_data"},
    ).json()
    server.jobs.then(scripted_jobs.until_stopped)
    dataset = call("POST", "/v1/datasets", json={"file_ids": [file["id"]]}).json()
    pause = threading.Event()
    while call("GET", "/v1/server").json()["jobs_running"] == 0:
        pause.wait(0.01)
    server.application.stop()

    again = build(
        server.settings,
        engine_launcher=ScriptedLauncher(),
        job_launcher=ScriptedJobLauncher(),
    )
    again.start()
    try:
        url = f"{again.base_url}/v1/datasets/{dataset['id']}"
        headers = {"authorization": f"Bearer {server.admin_key}"}
        while (now := httpx2.get(url, headers=headers).json())["status"] == "processing":
            pause.wait(0.01)
        assert now["status"] == "ready"
        assert again.first_key is None
    finally:
        again.stop()


def test_a_stream_of_a_jobs_events_does_not_hold_the_server_up(
    server: "RunningServer",
    call: Callable[..., httpx2.Response],
    model_root: Path,
    write_model_folder: Callable[[Path], Path],
) -> None:
    assert server.jobs is not None
    folder = write_model_folder(model_root / "tiny")
    assert call("POST", "/v1/models", json={"id": "tiny", "source": str(folder)}).is_success
    rows = b"".join(
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'
        for _ in range(12)
    )
    upload = {"files": {"file": ("rows.jsonl", rows)}, "data": {"purpose": "fine-tune"}}
    file = call("POST", "/v1/files", **upload).json()["id"]
    server.jobs.then(scripted_jobs.until_stopped)
    job = call("POST", "/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file})
    url = f"{server.base_url}/v1/fine_tuning/jobs/{job.json()['id']}/events?stream=true"
    headers = {"authorization": f"Bearer {server.admin_key}"}
    with httpx2.stream("GET", url, headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: job.event"
        began = time.monotonic()
        stopping = threading.Thread(target=server.application.stop)
        stopping.start()
        rest = list(lines)
    stopping.join(30)
    assert time.monotonic() - began < server.settings.drain_timeout_s / 2
    assert '"code":"shutting_down"' in "".join(rest)
    assert "event: done" not in rest


def test_metrics_of_a_resident_model_do_not_name_it(
    server: "RunningServer",
    call: Callable[..., httpx2.Response],
    model_root: Path,
    write_model_folder: Callable[[Path], Path],
) -> None:
    folder = write_model_folder(model_root / "tiny")
    made = call("POST", "/v1/models", json={"id": "very-private", "source": str(folder)}).json()
    body = {"model": "very-private", "prompt": "x"}
    assert call("POST", "/v1/completions", json=body).is_success
    wanted = f'purvey_engine_blocks{{model="{made["digest"][:12]}"}} 64.0'
    pause = threading.Event()
    while wanted not in (text := httpx2.get(f"{server.base_url}/metrics").text):
        pause.wait(0.01)
    assert "very-private" not in text
