"""`Idempotency-Key`: what is sent twice is created once, by the official client and below it."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import APIStatusError, OpenAI

from purvey.app.application import build
from purvey.client.purvey import Purvey
from purvey.contracts.records import JobRecord
from purvey.errors import MethodUnsupportedError, WorkerCrashedError
from purvey.jobs.bell import Bell
from purvey.server.application import RESOURCES
from purvey.testing.gate import Gate
from purvey.testing.scripted_engine import ScriptedEngine, ScriptedLauncher
from purvey.testing.scripted_jobs import ScriptedJobLauncher

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

Json = dict[str, Any]
HEADER, REPLAYED = "Idempotency-Key", "idempotent-replayed"
VERSIONS = "/v1/datasets/{dataset_id}/versions"
CREATING = {
    "/v1/files", "/v1/fine_tuning/jobs", "/v1/training/jobs", "/v1/datasets", "/v1/explanations",
    "/v1/keys", "/v1/models", "/v1/deployments", "/v1/training/sweeps", "/v1/feedback",
    VERSIONS, "/v1/pulls",
}  # fmt: skip
ELSEWHERE = {"/v1/files", "/v1/keys", "/v1/pulls", VERSIONS}
"""Tried by tests of their own."""
ROWS = b"text,label\nhi,ham\n"
PATIENCE_S = 20.0


def _fresh() -> dict[str, str]:
    return {HEADER: uuid.uuid4().hex}


def _until(is_so: Callable[[], object]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def _ids(http: httpx2.Client, path: str) -> set[str]:
    """List what requests have created; what jobs register as they end is not among it."""
    listed = http.get(path, params={"limit": 100}).json()["data"]
    return {one["id"] for one in listed if not one.get("job_id") or path == "/v1/datasets"}


@pytest.fixture(scope="module")
def table(sdk: OpenAI) -> str:
    return sdk.files.create(file=("rows.csv", ROWS), purpose="user_data").id


@pytest.fixture(scope="module")
def bodies(
    http: httpx2.Client,
    api: "RunningServer",
    echo: str,
    spam: str,
    training_file: str,
    table: str,
) -> dict[str, Json]:
    """A good body of every creating route but the uploads'."""
    made: str = http.post("/v1/datasets", json={"file_ids": [table]}).json()["id"]
    _until(lambda: http.get(f"/v1/datasets/{made}").json()["status"] == "ready")
    source = str(api.data_dir.parent / "models" / echo)
    recipe = {"task": "text-classification", "dataset": made}
    return {
        "/v1/fine_tuning/jobs": {"model": echo, "training_file": training_file},
        "/v1/training/jobs": {"recipe": recipe},
        "/v1/training/sweeps": {
            "recipe": recipe,
            "space": {"seed": {"values": [1, 2]}},
            "max_trials": 2,
        },
        "/v1/datasets": {"file_ids": [table], "name": "rows"},
        "/v1/explanations": {"model": spam, "input": {"text": "win the spam prize"}},
        "/v1/feedback": {"model": spam, "input": "win the spam prize", "rating": "good"},
        "/v1/models": {"id": "again", "source": source},
        "/v1/deployments": {"id": "front", "model": echo, "profiles": {}},
    }


@pytest.fixture
def jobs_gate(api: "RunningServer", monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A closed gate before every job that is created; open again afterwards."""
    gate, create = Gate(), api.application.services.jobs.create

    async def wait(**draft: Any) -> JobRecord:  # as `create`
        await gate.passed()
        return await create(**draft)

    monkeypatch.setattr(api.application.services.jobs, "create", wait)
    gate.close()
    yield gate
    gate.open()


def test_every_route_that_creates_is_known_to() -> None:
    routes = [route for resource in RESOURCES for route in resource]
    assert {route.path for route in routes if route._is_creating} == CREATING
    ends = {path.rsplit("/", 1)[1] for path in CREATING}
    others = {r.path for r in routes if "POST" in (r.methods or ()) and not r._is_creating}
    assert not {path for path in others if path.rsplit("/", 1)[1] in ends}


def test_the_document_has_the_header(keyless: httpx2.Client) -> None:
    paths: Json = keyless.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        taken = [one["name"] for one in operations.get("post", {}).get("parameters", ())]
        assert (HEADER in taken) == (path in CREATING), path


@pytest.mark.parametrize(
    "path", sorted(CREATING - {"/v1/files", "/v1/keys", "/v1/pulls", VERSIONS})
)
def test_what_is_sent_twice_is_created_once(
    http: httpx2.Client, bodies: dict[str, Json], path: str
) -> None:
    once = _fresh()
    first = http.post(path, json=bodies[path], headers=once)
    assert first.status_code == 200, first.text
    assert REPLAYED not in first.headers
    known = _ids(http, path)
    reordered = dict(reversed(bodies[path].items()))  # one canonical form
    again = http.post(path, json=reordered, headers=once)
    assert (again.status_code, again.headers[REPLAYED]) == (200, "true")
    assert (again.content, again.headers["content-type"]) == (first.content, "application/json")
    assert _ids(http, path) == known
    plain = http.post(path, json=bodies[path])  # without a key it is another request
    if path == "/v1/deployments":  # whose name is taken
        assert plain.status_code == 409, plain.text
    else:
        assert plain.json().keys() == first.json().keys()


def test_the_sdk_uploads_once(sdk: OpenAI) -> None:
    once = _fresh()

    def send(name: str = "a.txt", content: bytes = b"once") -> Any:  # the SDK's own
        raw = sdk.files.with_raw_response
        return raw.create(file=(name, content), purpose="user_data", extra_headers=once)

    first, again = send(), send()
    assert first.parse().id == again.parse().id
    assert (REPLAYED in first.headers, again.headers[REPLAYED]) == (False, "true")
    assert sdk.files.content(first.parse().id).read() == b"once"
    others: tuple[Json, ...] = ({"name": "b.txt"}, {"content": b"twice"})
    for other in others:
        with pytest.raises(APIStatusError) as refused:
            send(**other)
        assert (refused.value.status_code, refused.value.code) == (422, "idempotency_key_reused")


@pytest.mark.row("CRA-01")
def test_the_sdk_creates_one_job_though_the_answer_is_lost(
    sdk: OpenAI, bodies: dict[str, Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server fails between the commit and the answer, and the SDK tries again by itself."""
    rings = iter([True])

    def ring(self: Bell, topic: str) -> None:
        if next(rings, False):
            raise RuntimeError("died between effect and answer")

    before = {job.id for job in sdk.fine_tuning.jobs.list(limit=100)}
    patient = sdk.with_options(max_retries=2)  # shares the connections: not to be closed
    with monkeypatch.context() as broken:
        broken.setattr(Bell, "ring", ring)
        made = patient.fine_tuning.jobs.create(
            **bodies["/v1/fine_tuning/jobs"], extra_headers=_fresh()
        )
    assert {job.id for job in sdk.fine_tuning.jobs.list(limit=100)} - before == {made.id}


def test_a_dropped_connection_leaves_one_effect(
    http: httpx2.Client, api: "RunningServer", bodies: dict[str, Json], jobs_gate: Gate
) -> None:
    path, once = "/v1/fine_tuning/jobs", _fresh()
    before = len(http.get(path, params={"limit": 100}).json()["data"])
    request = http.build_request("POST", path, json=bodies[path], headers=once)
    head = f"POST {path} HTTP/1.1\r\n" + "".join(
        f"{k}: {v}\r\n" for k, v in request.headers.items()
    )
    host, port = api.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as dropped:
        dropped.sendall(head.encode() + b"\r\n" + request.content)
        _until(lambda: jobs_gate.num_waiting)
    jobs_gate.open()
    answers = [http.post(path, json=bodies[path], headers=once)]
    while answers[-1].status_code == 409:
        answers.append(http.post(path, json=bodies[path], headers=once))
    assert answers[-1].headers[REPLAYED] == "true"
    assert len(http.get(path, params={"limit": 100}).json()["data"]) == before + 1


def test_a_request_in_flight_holds_its_key(
    http: httpx2.Client, bodies: dict[str, Json], jobs_gate: Gate, refused: "Refusal"
) -> None:
    path, once, answers = "/v1/training/jobs", _fresh(), list[httpx2.Response]()

    def send() -> None:
        answers.append(http.post(path, json=bodies[path], headers=once))

    first = threading.Thread(target=send)
    first.start()
    _until(lambda: jobs_gate.num_waiting)
    meanwhile = http.post(path, json=bodies[path], headers=once)
    refused(meanwhile, 409, "idempotency_key_in_use")
    assert meanwhile.headers["x-should-retry"] == "true"
    jobs_gate.open()
    first.join(PATIENCE_S)
    send()
    assert [one.json()["id"] for one in answers] == [answers[0].json()["id"]] * 2


def test_another_payload_is_refused(
    http: httpx2.Client, bodies: dict[str, Json], refused: "Refusal"
) -> None:
    path, once = "/v1/datasets", _fresh()
    http.post(path, json=bodies[path], headers=once).raise_for_status()
    answer = http.post(path, json=bodies[path] | {"name": "other"}, headers=once)
    refused(answer, 422, "idempotency_key_reused", HEADER)
    assert answer.json()["error"]["type"] == "idempotency_error"


def test_a_key_means_something_for_one_route_of_one_project(
    http: httpx2.Client, stranger: httpx2.Client
) -> None:
    once = _fresh()
    upload: Json = {"files": {"file": ("a.csv", ROWS)}, "data": {"purpose": "user_data"}}
    mine = http.post("/v1/files", headers=once, **upload).json()["id"]
    theirs = stranger.post("/v1/files", headers=once, **upload)
    assert REPLAYED not in theirs.headers
    assert theirs.json()["id"] != mine
    other = http.post("/v1/datasets", json={"file_ids": [mine]}, headers=once)
    assert (other.status_code, REPLAYED in other.headers) == (200, False)


def test_a_refused_request_keeps_nothing(http: httpx2.Client, table: str) -> None:
    once = _fresh()
    refusable: tuple[Json, ...] = (
        {"file_ids": ["file-none"]},
        {"file_ids": []},
        {"file_ids": [table], "x": 1},
    )
    for wrong in refusable:
        assert http.post("/v1/datasets", json=wrong, headers=once).status_code in {400, 404}
    right = http.post("/v1/datasets", json={"file_ids": [table]}, headers=once)
    assert (right.status_code, REPLAYED in right.headers) == (200, False)


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 10_000, "a b", "a\tb", "\u00e9"])
def test_what_is_no_key_is_refused_by_the_headers_name(
    http: httpx2.Client, table: str, refused: "Refusal", key: str
) -> None:
    headers = [(HEADER.encode(), key.encode("latin-1"))]
    answer = http.post("/v1/datasets", json={"file_ids": [table]}, headers=headers)
    assert HEADER in refused(answer, 400, "invalid_value", HEADER)


def test_the_longest_key_is_taken_and_two_are_not(
    http: httpx2.Client, table: str, refused: "Refusal"
) -> None:
    longest = (HEADER, "~" * 255)
    for headers, status in (([longest], 200), ([longest, longest], 400)):
        answer = http.post("/v1/datasets", json={"file_ids": [table]}, headers=headers)
        assert answer.status_code == status
    assert http.post("/v1/recipes/validate", json={}, headers=[longest]).status_code == 400


def test_a_secret_is_not_shown_twice(
    http: httpx2.Client, api: "RunningServer", refused: "Refusal"
) -> None:
    once, body = _fresh(), {"name": "twice"}
    made = http.post("/v1/keys", json=body, headers=once).json()
    again = http.post("/v1/keys", json=body, headers=once)
    assert made["id"] in refused(again, 409, "state_conflict")
    assert again.headers["x-should-retry"] == "false"
    assert [key["name"] for key in http.get("/v1/keys").json()["data"]].count("twice") == 1
    stored = b"".join(path.read_bytes() for path in api.data_dir.glob("purvey.db*"))
    assert made["id"].encode() in stored
    assert made["key"].encode() not in stored


def _explain(http: httpx2.Client, body: Json, once: dict[str, str]) -> httpx2.Response:
    return http.post("/v1/explanations", json=body, headers=once)


def test_an_explanation_is_answered_with_what_is_known_by_then(
    http: httpx2.Client,
    bodies: dict[str, Json],
    engine_of: Callable[[str], ScriptedEngine],
) -> None:
    body = bodies["/v1/explanations"]
    _explain(http, body, {})  # loads the engine
    engine, once = engine_of(body["model"]), _fresh()
    engine.gate.close()
    later = body | {"budget": {"max_ms": 1}}
    accepted = [_explain(http, later, once) for _ in range(2)]
    assert [one.status_code for one in accepted] == [202, 202]
    assert accepted[0].content == accepted[1].content
    engine.gate.open()
    url = f"/v1/explanations/{accepted[0].json()['id']}"
    _until(lambda: http.get(url).json()["status"] == "completed")
    done = _explain(http, later, once)
    assert (done.status_code, done.headers[REPLAYED]) == (200, "true")
    assert done.json() == http.get(url).json()
    http.delete(url).raise_for_status()
    assert REPLAYED not in _explain(http, later, once).headers  # its words are gone with it


@pytest.mark.parametrize("error", [MethodUnsupportedError("no."), WorkerCrashedError("gone.")])
def test_an_explanation_that_failed_is_computed_anew(
    http: httpx2.Client,
    bodies: dict[str, Json],
    engine_of: Callable[[str], ScriptedEngine],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body, once = bodies["/v1/explanations"], _fresh()
    _explain(http, body, {})

    async def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(engine_of(body["model"]), "explain", fail)
        assert _explain(http, body, once).status_code >= 400
    again = _explain(http, body, once)
    assert (again.status_code, REPLAYED in again.headers) == (200, False)


def test_an_answer_outlives_the_server(server: "RunningServer", client: OpenAI) -> None:
    once = _fresh()
    upload: Json = {"file": ("a", b"once"), "purpose": "user_data", "extra_headers": once}
    made = client.files.create(**upload)
    server.application.stop()
    again = build(
        server.settings, engine_launcher=ScriptedLauncher(), job_launcher=ScriptedJobLauncher()
    )
    again.start()
    try:
        with OpenAI(base_url=f"{again.base_url}/v1", api_key=server.admin_key) as sdk:
            assert sdk.files.create(**upload).id == made.id
            assert [file.id for file in sdk.files.list()] == [made.id]
    finally:
        again.stop()


@pytest.mark.row("CRA-01")
def test_our_client_creates_once_though_the_answer_is_lost(
    api: "RunningServer", table: str
) -> None:
    class Lossy(httpx2.HTTPTransport):
        """Loses the first answer."""

        is_lost = False

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            response = super().handle_request(request)
            if not self.is_lost:
                self.is_lost = True
                response.close()
                raise httpx2.ReadError("lost", request=request)
            return response

    with Purvey(api.base_url, api.admin_key, longest_pause_s=0.01, http=Lossy()) as client:
        made = client.datasets.create([table], name="created once")
        assert [one.name for one in client.datasets.list()].count("created once") == 1
        assert client.datasets.get(made.id).name == "created once"
