"""The server as an operator starts and stops it: a real process and real signals."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

KEY = "sk-test-administrator-0123456789abcdef0123456789"
NO_SPARE = {"PURVEY_SPARE_ENGINE": "false"}
"""No engine process that imports for seconds and waits for a model."""
HEAVY = ("torch", "numpy", "transformers", "pyarrow", "tokenizers", "safetensors", "sklearn", "PIL")


@dataclass(kw_only=True)
class Served:
    """A started server, and what it has printed so far."""

    process: "subprocess.Popen[str]"
    base_url: str
    greeting: list[str]
    log: Path

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


def _command(data_dir: Path, *flags: str) -> list[str]:
    return ["-m", "purvey", "serve", "--port", "0", "--data-dir", str(data_dir), *flags]


@contextmanager
def serving(
    data_dir: Path, *, options: tuple[str, ...] = (), key: str | None = KEY
) -> Iterator[Served]:
    """Run `python -m purvey serve` in an empty folder until the block ends."""
    environment = {"PATH": os.defpath, "HOME": str(data_dir.parent), **NO_SPARE}
    if key is not None:
        environment["PURVEY_BOOTSTRAP_KEY"] = key
    log = data_dir.parent / "server.log"
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            [sys.executable, *options, *_command(data_dir)],
            env=environment,
            cwd=data_dir.parent,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        match = re.search(r"http://\S+", first)
        assert match, f"no address: {first!r} {log.read_text()[-3_000:]}"
        try:
            served = Served(process=process, base_url=match.group(), greeting=[first], log=log)
            assert httpx2.get(f"{served.base_url}/readyz").status_code == 200
            yield served
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_is_clean(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "data") as served:
        assert served.stop(number) == 0
    events = served.log.read_text()
    assert events.index("server.started") < events.index("server.draining")
    assert events.index("server.draining") < events.index("server.stopped")


def test_an_upload_under_way_is_finished_before_the_end(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as served:
        answers: list[int] = []
        has_begun, may_end = threading.Event(), threading.Event()

        def body() -> Iterator[bytes]:
            yield (
                b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
                b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
            )
            has_begun.set()
            may_end.wait(20)
            yield b"a,b\r\n--b--\r\n"

        def upload() -> None:
            headers = {
                "authorization": f"Bearer {KEY}",
                "content-type": "multipart/form-data; boundary=b",
            }
            answer = httpx2.post(f"{served.base_url}/v1/files", content=body(), headers=headers)
            answers.append(answer.status_code)

        uploading = threading.Thread(target=upload)
        uploading.start()
        assert has_begun.wait(20)
        served.process.send_signal(signal.SIGTERM)
        _until_refused(served.base_url)
        may_end.set()
        uploading.join(20)
        assert answers == [200]
        assert served.process.wait(timeout=30) == 0
    with serving(tmp_path / "data") as again:
        headers = {"authorization": f"Bearer {KEY}"}
        listed = httpx2.get(f"{again.base_url}/v1/files", headers=headers).json()
        assert [file["filename"] for file in listed["data"]] == ["a.csv"]


def _until_refused(base_url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            httpx2.get(f"{base_url}/healthz")
        except httpx2.ConnectError:
            return
    pytest.fail("the server went on accepting connections")


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as served:
        second = subprocess.run(
            [sys.executable, *_command(tmp_path / "data")],
            env={"PATH": os.defpath, "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 78
        assert "another server" in second.stderr + second.stdout
        assert httpx2.get(f"{served.base_url}/healthz").status_code == 200


def test_a_killed_server_starts_again_with_its_keys(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as served:
        served.process.kill()
    with serving(tmp_path / "data", key=None) as again:
        headers = {"authorization": f"Bearer {KEY}"}
        assert httpx2.get(f"{again.base_url}/v1/models", headers=headers).status_code == 200


def test_the_first_key_is_printed_once(tmp_path: Path) -> None:
    with serving(tmp_path / "data", key=None) as served:
        assert served.process.stdout is not None
        printed = re.search(r"sk-purvey-\S+", served.process.stdout.readline())
        assert printed
        headers = {"authorization": f"Bearer {printed.group()}"}
        assert httpx2.get(f"{served.base_url}/v1/models", headers=headers).status_code == 200
        assert served.stop() == 0
        assert printed.group() not in served.log.read_text()
    with serving(tmp_path / "data", key=None) as again:
        assert again.stop() == 0
        assert again.process.stdout is not None
        assert again.process.stdout.read() == ""


def test_a_started_server_has_loaded_nothing_of_the_data_plane(tmp_path: Path) -> None:
    with serving(tmp_path / "data", options=("-X", "importtime")) as served:
        headers = {"authorization": f"Bearer {KEY}"}
        for path in ("/v1/models", "/v1/fine_tuning/jobs", "/openapi.json", "/metrics"):
            assert httpx2.get(served.base_url + path, headers=headers).status_code == 200
        assert served.stop() == 0
    lines = [line for line in served.log.read_text().splitlines() if line.startswith("import time")]
    packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert {"purvey", "fastapi", "sqlalchemy"} <= packages
    assert packages.isdisjoint(HEAVY)
