"""Clients that vanish, or read nothing: what they asked for ends with them, and not later."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import TYPE_CHECKING

import httpx2
import pytest
from openai import OpenAI

from purvey.server import protocol
from purvey.testing import scripted_jobs

if TYPE_CHECKING:
    from tests.api.conftest import Until
    from tests.conftest import RunningServer

PATIENCE_S = 10.0
EVENTS, CONTENT = "/v1/training/jobs/{job_id}/events", "/v1/files/{file_id}/content"
LARGE = 16 * 2**20
"""More bytes than the kernel takes from the server for a client that does not read."""


@pytest.fixture
def quiet_job(
    api: "RunningServer", http: httpx2.Client, sdk: OpenAI, until: "Until"
) -> Iterator[str]:
    """A running job that has nothing more to tell until it is cancelled."""
    assert api.jobs is not None
    file = sdk.files.create(file=("rows.csv", b"text,label\nhi,ham\n"), purpose="user_data")
    dataset = http.post("/v1/datasets", json={"file_ids": [file.id]}).json()["id"]
    until(f"/v1/datasets/{dataset}", "ready")
    api.jobs.then(scripted_jobs.until_stopped)
    recipe = {"task": "text-classification", "dataset": dataset}
    job_id: str = http.post("/v1/training/jobs", json={"recipe": recipe}).json()["id"]
    until(f"/v1/training/jobs/{job_id}", "running")
    yield job_id
    http.post(f"/v1/training/jobs/{job_id}/cancel").raise_for_status()
    until(f"/v1/training/jobs/{job_id}", "cancelled")


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def finish_sending(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def ask_more_and_close(connection: socket.socket) -> None:
    connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 3)
    connection.close()


def ask_much_more_and_close(connection: socket.socket) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 999999\r\n\r\n"
    )
    connection.sendall(head + b"x" * 300_000)
    connection.close()


@pytest.mark.row("OVL-07")
@pytest.mark.parametrize(
    "leave", [close, reset, finish_sending, ask_more_and_close, ask_much_more_and_close]
)
def test_an_event_stream_ends_when_its_client_has_gone(
    api: "RunningServer",
    http: httpx2.Client,
    quiet_job: str,
    leave: Callable[[socket.socket], None],
) -> None:
    before = _gone(http, EVENTS)
    connection = _stream(api, quiet_job)
    leave(connection)
    _wait_for_gone(http, EVENTS, before + 1)
    connection.close()


@pytest.fixture(scope="module")
def large_file(sdk: OpenAI) -> str:
    return sdk.files.create(file=("large", bytes(LARGE)), purpose="user_data").id


@pytest.mark.row("OVL-15")
def test_a_reader_that_has_stopped_is_cut_off(
    api: "RunningServer",
    http: httpx2.Client,
    large_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.1)
    before = _gone(http, CONTENT)
    with _download(api, large_file) as connection:
        _wait_for_gone(http, CONTENT, before + 1)
        assert _read_all(connection) < LARGE


def test_a_reader_that_goes_on_gets_everything(
    api: "RunningServer", large_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", PATIENCE_S)
    with _download(api, large_file) as connection:
        Event().wait(0.1)  # the server is held back by then
        assert _read_all(connection) > LARGE


def test_a_download_ends_when_its_client_has_gone(
    api: "RunningServer", http: httpx2.Client, large_file: str
) -> None:
    before = _gone(http, CONTENT)
    connection = _download(api, large_file)
    reset(connection)
    _wait_for_gone(http, CONTENT, before + 1)


def _download(api: "RunningServer", file_id: str) -> socket.socket:
    """Ask for a file, and read no more than the beginning of its answer."""
    host, port = api.base_url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(PATIENCE_S)
    connection.connect((host, int(port)))
    connection.sendall(
        b"GET /v1/files/%s/content HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n"
        b"authorization: Bearer %s\r\n\r\n"
        % (file_id.encode(), host.encode(), api.admin_key.encode())
    )
    assert connection.recv(16).startswith(b"HTTP/1.1 200")
    return connection


def _read_all(connection: socket.socket) -> int:
    """Count what comes until the connection ends, in whatever way."""
    count = 0
    try:
        while chunk := connection.recv(2**20):
            count += len(chunk)
    except ConnectionResetError:
        pass
    return count


def _wait_for_gone(http: httpx2.Client, route: str, count: float) -> None:
    deadline, pause = time.monotonic() + PATIENCE_S, Event()
    while _gone(http, route) < count:
        assert time.monotonic() < deadline, "it goes on for nobody"
        pause.wait(0.02)
    assert _gone(http, route) == count


def _stream(api: "RunningServer", job_id: str) -> socket.socket:
    """Open the job's event stream and read what it has to tell by now."""
    host, port = api.base_url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    connection.sendall(
        b"GET /v1/training/jobs/%s/events?stream=true HTTP/1.1\r\nhost: %s\r\n"
        b"authorization: Bearer %s\r\n\r\n"
        % (job_id.encode(), host.encode(), api.admin_key.encode())
    )
    told = b""
    while b"Waiting." not in told:
        told += connection.recv(65_536)
    assert json.dumps("Waiting.").encode() in told
    return connection


def _gone(http: httpx2.Client, route: str) -> float:
    """Count the requests of a route whose client has left, as the metrics have it."""
    labels = f'purvey_http_requests_total{{method="GET",route="{route}",status="499"}} '
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(labels)) for line in lines if line.startswith(labels))
