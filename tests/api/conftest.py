"""What the tests of the HTTP surface share: models that answer, keys, the one shape of errors."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import httpx2
import msgspec
import pytest
from openai import OpenAI

from purvey.contracts.model import (
    MANIFEST_NAME,
    ClassifierTask,
    ImageSpec,
    InputSpec,
    ModelManifest,
    NumberSpec,
    TextSpec,
)
from purvey.contracts.records import Scope
from purvey.errors import error_classes
from purvey.testing.model_folder import (
    BERT,
    CLIP,
    CROSS_ENCODER,
    LLAMA,
    TENSOR,
    safetensors_bytes,
    write_plausible_folder,
    write_plausible_seer,
)
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.conftest import RunningServer

IMAGE = ImageSpec(height=8, width=8)
PATIENCE_S = 20.0


class Refusal(Protocol):
    """Assert that an answer is a refusal in the one shape of errors, and return its message."""

    def __call__(
        self, response: httpx2.Response, status: int, code: str, param: str | None = None
    ) -> str: ...


class Until(Protocol):
    """Fetch a resource until its `status` is one of these, and return it."""

    def __call__(self, path: str, *statuses: str) -> dict[str, Any]: ...


@pytest.fixture(scope="module")
def until(http: httpx2.Client) -> Until:
    """The shared wait for what happens beside a request: jobs, datasets, explanations."""

    def wait(path: str, *statuses: str) -> dict[str, Any]:
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
        while True:
            found: dict[str, Any] = http.get(path).raise_for_status().json()
            if found["status"] in statuses:
                return found
            assert time.monotonic() < deadline, f"still {found['status']}, waited for {statuses}"
            pause.wait(0.01)

    return wait


@pytest.fixture(scope="session")
def refused() -> Refusal:
    """The shared assertion about every answer that is not a success."""

    def check(response: httpx2.Response, status: int, code: str, param: str | None = None) -> str:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-request-id"].startswith("req_")
        body = response.json()
        assert set(body) == {"error"}
        error = body["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["code"], error["param"]) == (code, param), error
        assert error["type"] == error_classes()[code].type
        assert error["message"]
        _check_advice(response)
        return str(error["message"])

    return check


def _check_advice(response: httpx2.Response) -> None:
    """The SDK retries these statuses unless it is told not to, so each says which."""
    if response.status_code in {408, 409, 429} or response.status_code >= 500:
        assert response.headers["x-should-retry"] in {"true", "false"}
    if response.headers.get("x-should-retry") == "true" and response.status_code in {429, 503}:
        assert 0 < int(response.headers["retry-after"]) <= 120


@pytest.fixture(scope="module")
def sdk(api: "RunningServer") -> Iterator[OpenAI]:
    """The official client with the administrator's key."""
    with api.openai() as official:
        yield official


@pytest.fixture(scope="module")
def http(api: "RunningServer") -> Iterator[httpx2.Client]:
    """A plain HTTP client with the administrator's key."""
    with _client(api, api.admin_key) as client:
        yield client


def _client(api: "RunningServer", key: str | None) -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx2.Client(base_url=api.base_url, headers=headers, verify=False, timeout=60)


@pytest.fixture(scope="module")
def keyless(api: "RunningServer") -> Iterator[httpx2.Client]:
    """A plain HTTP client without a key."""
    with _client(api, None) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(api: "RunningServer", http: httpx2.Client) -> Iterator[httpx2.Client]:
    """A plain HTTP client with an administrator's key of another project."""
    asked = {"name": "b", "project": "proj_b", "scopes": ["admin"]}
    secret = http.post("/v1/keys", json=asked).json()["key"]
    with _client(api, secret) as client:
        yield client


@pytest.fixture(scope="module")
def key_with(http: httpx2.Client) -> Callable[..., str]:
    """A function that makes a key with the given scopes."""

    def make(*scopes: Scope) -> str:
        answer = http.post("/v1/keys", json={"name": "narrow", "scopes": list(scopes)})
        return str(answer.json()["key"])

    return make


@pytest.fixture(scope="module")
def register(http: httpx2.Client, api: "RunningServer") -> Callable[..., str]:
    """A function that registers a model whose engine is scripted, and returns its name."""

    def make(
        name: str,
        *,
        labels: tuple[str, ...] = (),
        inputs: Mapping[str, InputSpec] | None = None,
        task: ClassifierTask | Literal["regression"] | None = None,
        config: Mapping[str, object] = LLAMA,
    ) -> str:
        folder = api.data_dir.parent / "models" / name
        if labels or task:
            _write_classifier(folder, labels, dict(inputs or {"input": TextSpec()}), task)
        else:
            write_plausible_folder(folder, config)
        answer = http.post("/v1/models", json={"id": name, "source": str(folder)})
        assert answer.status_code == 200, answer.text
        return name

    return make


def _write_classifier(
    folder: Path,
    labels: tuple[str, ...],
    inputs: dict[str, InputSpec],
    task: ClassifierTask | Literal["regression"] | None,
) -> None:
    folder.mkdir()
    spec = next(iter(inputs.values()))
    is_image, is_mixed = isinstance(spec, ImageSpec), len(inputs) > 1
    usual: ClassifierTask = "image-classification" if is_image else "text-classification"
    manifest = ModelManifest(
        family="text-ngrams",
        task=task or ("classification" if is_mixed or isinstance(spec, NumberSpec) else usual),
        labels=labels,
        inputs=inputs,
        is_calibrated=True,
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"weight": TENSOR}))


@pytest.fixture(scope="module")
def echo(register: Callable[..., str]) -> str:
    """A registered language model that says the last turn again, one character a token."""
    return register("echo")


@pytest.fixture(scope="module")
def seer(http: httpx2.Client, api: "RunningServer") -> str:
    """A registered model that sees, and says the last turn again."""
    folder = write_plausible_seer(api.data_dir.parent / "models" / "seer")
    answer = http.post("/v1/models", json={"id": "seer", "source": str(folder)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["task"] == "image-text-to-text"
    return "seer"


@pytest.fixture(scope="module")
def spam(register: Callable[..., str]) -> str:
    """A registered text classifier; it gives 0.9 to the label that the text names."""
    return register("spam", labels=("ham", "spam"))


@pytest.fixture(scope="module")
def minilm(register: Callable[..., str]) -> str:
    """A registered model for embedding; one character is one token, 4096 at most."""
    return register("minilm", config=BERT)


@pytest.fixture(scope="module")
def clip(register: Callable[..., str]) -> str:
    """A registered model that embeds images beside texts."""
    return register("clip", config=CLIP)


@pytest.fixture(scope="module")
def ranker(register: Callable[..., str]) -> str:
    """A registered cross-encoder; it scores the share of the query's words that a text holds."""
    return register("ranker", config=CROSS_ENCODER)


@pytest.fixture(scope="module")
def engine_of(api: "RunningServer") -> Callable[[str], ScriptedEngine]:
    """A function that returns the newest engine of a model."""

    def find(name: str) -> ScriptedEngine:
        assert api.engines is not None
        return api.engines.engines[name][-1]

    return find


@pytest.fixture(scope="module")
def chat_rows() -> bytes:
    """A training file of twelve good rows."""
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"What is {i}?"},
                {"role": "assistant", "content": f"It is {i}."},
            ]
        }
        for i in range(12)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def training_file(sdk: OpenAI, chat_rows: bytes) -> str:
    """The id of that file, uploaded."""
    return sdk.files.create(file=("rows.jsonl", chat_rows), purpose="fine-tune").id


@pytest.fixture
def usage_by_kind(http: httpx2.Client) -> Callable[[], dict[str, dict[str, Any]]]:
    """A function that reads the ledger's sums by kind."""

    def read() -> dict[str, dict[str, Any]]:
        data = http.get("/v1/usage", params={"by": "kind"}).json()["data"]
        return {total["group"]: total for total in data}

    return read
