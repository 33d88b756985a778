"""A model of the hub by one call: fetched, registered, answering; and `purvey pull` around it."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from purvey.cli.main import run
from purvey.testing.hub_double import COMMIT, SOURCE, HubDouble
from purvey.testing.model_folder import (
    ADAPTABLE,
    write_plausible_adapter,
    write_plausible_folder,
)
from tests.api.conftest import Refusal
from tests.api.hub_server import server_of_hub
from tests.conftest import RunningServer, scripted_server
from tests.unit.registry.test_pulls import FILES

Pulls = list[dict[str, Any]]  # JSON values


class Held(HubDouble):
    """Holds weights back until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(dict(FILES))
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, path: str) -> Iterator[bytes]:
        """Send half of the weights, wait, send the rest."""
        for answer in super().__call__(path):
            half = len(answer) * 9 // 10
            yield answer[:half]
            if path.startswith("/stored/"):
                self.may_go_on.wait(20)
            yield answer[half:]


@pytest.fixture(scope="module")
def hub() -> Held:
    return Held()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, hub: Held) -> Iterator[RunningServer]:
    with server_of_hub(hub, tmp_path_factory.mktemp("pulls")) as running:
        yield running


def test_a_model_of_the_hub_answers_by_name(
    api: RunningServer, http: httpx2.Client, sdk: OpenAI, hub: Held
) -> None:
    answer = http.post("/v1/models", json={"id": "stories", "source": SOURCE, "revision": "main"})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["id"], made["task"], made["family"]) == ("stories", "text-generation", "decoder")
    assert sdk.completions.create(model="stories", prompt="x").choices[0].text == "x"
    assert (api.data_dir.parent / "models" / SOURCE / COMMIT / "model.safetensors").is_file()
    again = {"id": "stories", "source": SOURCE, "revision": COMMIT}
    assert http.post("/v1/models", json=again).json()["digest"] == made["digest"]
    assert http.get("/v1/pulls").json() == {"object": "list", "data": []}


def test_the_command_pulls_and_prints_the_model(
    api: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PURVEY_BASE_URL", api.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", api.admin_key)
    with pytest.raises(SystemExit) as ended:
        run(["pull", f"{SOURCE}@v1", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["id"] == SOURCE
    with pytest.raises(SystemExit):
        run(["pull", SOURCE, "--as", "named"])
    assert "named" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run(["pull", f"{SOURCE}@"])
    assert ended.value.code == 2
    assert "OWNER/NAME@REVISION" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["/srv/models/x", "stories"])
def test_a_folder_has_no_revision(http: httpx2.Client, refused: Refusal, source: str) -> None:
    answer = http.post("/v1/models", json={"id": "x", "source": source, "revision": "main"})
    refused(answer, 400, "invalid_value", "revision")


def test_a_model_that_is_not_there_is_refused(http: httpx2.Client, refused: Refusal) -> None:
    answer = http.post("/v1/models", json={"id": "x", "source": "acme/none"})
    refused(answer, 400, "invalid_value", "source")


@pytest.mark.parametrize("revision", ["../x", "a b", ""])
def test_a_revision_that_is_none_is_refused(
    http: httpx2.Client, refused: Refusal, revision: str
) -> None:
    body = {"id": "x", "source": SOURCE, "revision": revision}
    refused(http.post("/v1/models", json=body), 400, "invalid_value", "revision")


def test_a_pull_is_seen_while_it_runs_and_a_client_that_leaves_ends_it(
    api: RunningServer, http: httpx2.Client, hub: Held
) -> None:
    folder = api.data_dir.parent / "models" / SOURCE / COMMIT
    shutil.rmtree(folder)
    hub.may_go_on.clear()
    body = {"id": "left", "source": SOURCE, "revision": "seen"}
    request = http.build_request("POST", "/v1/models", json=body)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(["POST /v1/models HTTP/1.1", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", request.url.port or 0)) as leaving:
        leaving.sendall(head.encode() + request.content)
        (seen,) = _until(http, lambda data: bool(data) and data[0]["fetched_bytes"] != 0)
    assert (seen["source"], seen["revision"], seen["commit"]) == (SOURCE, "seen", COMMIT)
    assert seen["bytes"] == sum(
        len(FILES[name]) for name in ("config.json", "tokenizer.json", "model.safetensors")
    )
    assert _until(http, lambda data: not data) == []
    hub.may_go_on.set()
    assert http.post("/v1/models", json=body).json()["id"] == "left"
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def _until(http: httpx2.Client, is_it: Callable[[Pulls], bool]) -> Pulls:
    for _ in range(500):
        data: Pulls = http.get("/v1/pulls").json()["data"]
        if is_it(data):
            return data
        threading.Event().wait(0.02)
    raise AssertionError("the pulls never were as expected")


def test_a_server_that_may_fetch_from_nowhere_names_the_setting(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with scripted_server(tmp_path_factory.mktemp("denied")) as server:
        headers = {"authorization": f"Bearer {server.admin_key}"}
        answer = httpx2.post(
            f"{server.base_url}/v1/models", json={"id": "x", "source": SOURCE}, headers=headers
        )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("url_not_allowed", "source")
    assert "outbound_hosts" in error["message"]


def test_an_adapter_is_pulled_onto_its_base(
    api: RunningServer,
    http: httpx2.Client,
    hub: Held,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = api.data_dir.parent / "models"
    stem = write_plausible_folder(models / "stem", shapes=ADAPTABLE)
    http.post("/v1/models", json={"id": "stem", "source": str(stem)}).raise_for_status()
    written = write_plausible_adapter(models / "written", base="elsewhere")
    files = {file.name: file.read_bytes() for file in written.iterdir()}
    shutil.rmtree(models / SOURCE / COMMIT)
    monkeypatch.setattr(hub, "files", files)
    monkeypatch.setenv("PURVEY_BASE_URL", api.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", api.admin_key)
    with pytest.raises(SystemExit) as ended:
        run(["pull", SOURCE, "--as", "leaf", "--base", "stem", "--json"])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    assert json.loads(told.out)["base_model"] == "stem"
