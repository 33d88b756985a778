"""The shared fixtures are a whole server: the official client can talk to it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from openai import OpenAI

    from tests.conftest import RunningServer


def test_a_registered_model_answers_the_official_client(
    server: "RunningServer",
    client: "OpenAI",
    model_root: Path,
    write_model_folder: Callable[[Path], Path],
) -> None:
    write_model_folder(model_root / "tiny")
    headers = {"authorization": f"Bearer {server.admin_key}"}
    body = {"id": "tiny", "source": str(model_root / "tiny")}
    made = httpx2.post(f"{server.base_url}/v1/models", json=body, headers=headers)
    assert made.status_code == 200, made.text
    assert [model.id for model in client.models.list()] == ["tiny"]
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "echo this"}]
    )
    assert answer.choices[0].message.content == "echo this"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len("echo this")


def test_the_document_describes_every_refusal(server: "RunningServer") -> None:
    document = httpx2.get(f"{server.base_url}/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"ErrorEnvelope", "ErrorBody"} <= schemas.keys()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    for status in ("400", "401", "404", "503", "default"):
        shape = chat["responses"][status]["content"]["application/json"]["schema"]
        assert shape == {"$ref": "#/components/schemas/ErrorEnvelope"}
    text = httpx2.get(f"{server.base_url}/openapi.json").text
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= schemas.keys()


def test_threads_of_a_stopped_server_are_gone(server: "RunningServer") -> None:
    before = _server_threads()
    server.application.stop()
    assert len(before - _server_threads()) == 1  # another test's server may run beside it


def _server_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "purvey-server"}
