"""The client's HTTP: shapes, errors, streams, idempotency, unreachable servers."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from purvey.client.purvey import Purvey
from purvey.client.transport import Transport
from purvey.errors import (
    CapacityError,
    InternalError,
    InvalidFileError,
    InvalidKeyError,
    InvalidValueError,
    JobFailedError,
    ModelNotFoundError,
    PurveyError,
    UserError,
)

Answer = Callable[[httpx2.Request], httpx2.Response]
JOB = {"id": "job_1", "object": "training.job", "status": "running", "created_at": 1.0}


def client_of(answer: Answer, base_url: str = "http://server:8000/v1") -> Purvey:
    return Purvey(base_url, "sk-key", longest_pause_s=0.001, http=httpx2.MockTransport(answer))


def error(status: int, code: str, message: str, param: str | None = None) -> httpx2.Response:
    body = {"message": message, "type": "invalid_request_error", "code": code, "param": param}
    return httpx2.Response(status, json={"error": body})


@pytest.mark.parametrize(
    "base_url", ["http://s:1", "http://s:1/", "http://s:1/v1", "http://s:1/v1/"]
)
def test_the_address_is_taken_with_and_without_v1(base_url: str) -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={"id": "a/b", "created": 1, "unknown_field": True})

    with client_of(answer, base_url) as client:
        assert client.models.get("a/b").id == "a/b"
    assert seen[0].url.raw_path == b"/v1/models/a%2Fb"
    assert seen[0].headers["authorization"] == "Bearer sk-key"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_api_key", InvalidKeyError),
        (404, "model_not_found", ModelNotFoundError),
        (400, "invalid_value", UserError),
        (503, "server_is_overloaded", CapacityError),
        (418, "a_code_of_the_future", InternalError),
    ],
)
def test_errors_come_back_as_the_class_the_server_meant(
    status: int, code: str, kind: type[PurveyError]
) -> None:
    with (
        client_of(lambda _: error(status, code, "said the server. Do this.", "field")) as client,
        pytest.raises(kind) as caught,
    ):
        client.models.get("m")
    assert caught.value.text == "said the server. Do this."
    assert caught.value.param == "field"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "text"}', b'{"error": {}}'])
def test_an_answer_of_something_else_is_named_as_such(body: bytes) -> None:
    with (
        client_of(lambda _: httpx2.Response(502, content=body)) as client,
        pytest.raises(InternalError, match="502"),
    ):
        client.models.get("m")


def test_an_answer_of_another_shape_is_refused() -> None:
    with (
        client_of(lambda _: httpx2.Response(200, json={"id": 7})) as client,
        pytest.raises(InternalError, match="not what this client knows"),
    ):
        client.models.get("m")


def test_no_server_says_how_to_start_one() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    with client_of(refuse) as client, pytest.raises(CapacityError) as caught:
        client.server.is_ready()
    assert "purvey serve" in caught.value.text


def test_creating_calls_carry_a_fresh_idempotency_key() -> None:
    keys: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers.get("idempotency-key"))
        return httpx2.Response(200, json=JOB)

    with client_of(answer) as client:
        for _ in range(2):
            client.training_jobs.create({"task": "text-classification"})
        client.training_jobs.act("job_1", "pause")
    first, second, acting = keys
    assert first != second
    assert [len(key or "") for key in (first, second)] == [32, 32]
    assert acting is None


Fault = Callable[[httpx2.Request], httpx2.Response]


def _lost(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.RemoteProtocolError("lost", request=request)


def _asked_again(_: httpx2.Request) -> httpx2.Response:
    answer = error(409, "idempotency_key_in_use", "not yet.")
    answer.headers["x-should-retry"] = "true"
    return answer


@pytest.mark.parametrize("fault", [_lost, _asked_again])
def test_a_creating_call_is_repeated_under_its_key(fault: Fault, tmp_path: Path) -> None:
    sent: list[tuple[str, bytes]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        content = request.read().partition(b"the rows")[1]  # the boundary is new each time
        sent.append((request.headers["idempotency-key"], content))
        if len(sent) < 3:
            return fault(request)
        body = {"id": "file-1", "created_at": 1, "filename": "rows.txt", "bytes": 8}
        return httpx2.Response(200, json=body | {"purpose": "user_data"})

    (tmp_path / "rows.txt").write_bytes(b"the rows")
    with client_of(answer) as client:
        assert client.files.upload(tmp_path / "rows.txt").id == "file-1"
    assert sent == [(sent[0][0], b"the rows")] * 3


@pytest.mark.parametrize(("fault", "kind"), [(_lost, CapacityError), (_asked_again, UserError)])
def test_repetition_ends_in_the_last_failure(fault: Fault, kind: type[PurveyError]) -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return fault(request)

    with client_of(answer) as client, pytest.raises(kind):
        client.training_jobs.create({})
    assert len(sent) == 4


def test_a_server_that_lost_an_answer_and_is_away_is_waited_for() -> None:
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers["idempotency-key"])
        if len(sent) == 1:
            return _lost(request)
        if len(sent) < 8:
            raise httpx2.ConnectError("refused", request=request)
        return httpx2.Response(200, json=JOB)

    with client_of(answer) as client:
        assert client.training_jobs.create({}).id == JOB["id"]
    assert sent == [sent[0]] * 8


def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    sent: list[httpx2.Request] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        raise httpx2.ConnectError("refused", request=request)

    with client_of(refuse) as client, pytest.raises(CapacityError):
        client.training_jobs.create({})
    assert len(sent) == 1


def test_what_acts_is_not_repeated() -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return _lost(request)

    with client_of(answer) as client, pytest.raises(CapacityError):
        client.training_jobs.act("job_1", "resume")
    assert len(sent) == 1


def test_listings_are_walked_to_their_end() -> None:
    pages = {None: (["key_1", "key_2"], True), "key_2": (["key_3"], False)}

    def answer(request: httpx2.Request) -> httpx2.Response:
        ids, has_more = pages[request.url.params.get("after")]
        data = [{"id": i, "name": i, "scopes": ["admin"], "created_at": 1} for i in ids]
        return httpx2.Response(200, json={"data": data, "has_more": has_more, "last_id": ids[-1]})

    with client_of(answer) as client:
        assert [key.id for key in client.keys.list()] == ["key_1", "key_2", "key_3"]


def sse(*events: tuple[str, object]) -> httpx2.Response:
    lines = "".join(
        f"event: {name}\ndata: {data if data == '[DONE]' else json.dumps(data)}\n\n"
        for name, data in events
    )
    return httpx2.Response(200, text=lines, headers={"content-type": "text/event-stream"})


def event(number: int) -> dict[str, object]:
    return {"id": f"e{number}", "created_at": number, "level": "info", "message": f"m{number}"}


def test_a_broken_event_stream_is_taken_up_again_without_repeats() -> None:
    streams = [
        sse(("job.event", event(1)), ("job.event", event(2))),  # cut off before `done`
        sse(*(("job.event", event(n)) for n in (1, 2, 3)), ("done", {})),
    ]
    states = ["running", "succeeded"]

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/events"):
            return streams.pop(0)
        return httpx2.Response(200, json=JOB | {"status": states.pop(0)})

    with client_of(answer) as client:
        told = [e.message for e in client.training_jobs.follow("job_1")]
    assert told == ["m1", "m2", "m3"]


def test_waiting_for_a_failed_job_raises_its_message() -> None:
    failed = JOB | {"status": "failed", "error": {"code": "diverged", "message": "not finite"}}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/events"):
            return sse(("done", {}))
        return httpx2.Response(200, json=failed)

    with client_of(answer) as client, pytest.raises(JobFailedError, match="not finite"):
        client.training_jobs.wait("job_1")


def test_a_dataset_is_waited_for() -> None:
    states = ["processing", "processing", "ready"]

    def answer(_: httpx2.Request) -> httpx2.Response:
        body = {"id": "ds_1", "name": "d", "status": states.pop(0), "created_at": 1}
        return httpx2.Response(200, json=body)

    seen: list[str] = []
    with client_of(answer) as client:
        client.datasets.wait("ds_1", on_change=lambda d: seen.append(d.status))
    assert seen == ["processing", "processing", "ready"]


def test_a_failed_dataset_raises_the_error_it_failed_with() -> None:
    problem = {"code": "invalid_file", "message": "row 3 has 2 fields", "param": "file"}
    body = {"id": "ds_1", "name": "d", "status": "failed", "created_at": 1, "error": problem}
    with (
        client_of(lambda _: httpx2.Response(200, json=body)) as client,
        pytest.raises(InvalidFileError, match="row 3"),
    ):
        client.datasets.wait("ds_1")


def test_chat_yields_text_and_raises_what_the_stream_ends_in() -> None:
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("Hel", "lo")]
    usage: dict[str, object] = {"choices": [], "usage": {}}
    problem = {"error": {"code": "worker_crashed", "message": "gone"}}
    good = sse(*(("message", c) for c in [*chunks, usage]), ("message", "[DONE]"))
    bad = sse(("message", chunks[0]), ("error", problem))
    answers = [good, bad]
    with client_of(lambda _: answers.pop(0)) as client:
        assert "".join(client.answers.chat("m", [{"role": "user", "content": "x"}])) == "Hello"
        pieces = client.answers.chat("m", [])
        assert next(pieces) == "Hel"
        with pytest.raises(PurveyError, match="gone"):
            next(pieces)


def test_a_fine_tuning_job_is_found_by_its_prefix() -> None:
    paths: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.path)
        shape = {"object": "fine_tuning.job", "model": "base", "fine_tuned_model": "ft:x"}
        return httpx2.Response(200, json=JOB | shape)

    with client_of(answer) as client:
        assert client.training_jobs.get("ftjob-1").trained_model == "ft:x"
    assert paths == ["/v1/fine_tuning/jobs/ftjob-1"]


def test_an_address_without_a_scheme_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidValueError) as caught:
        Transport(base_url="localhost:8000")
    assert caught.value.param == "base_url"
    assert "http://localhost:8000" in caught.value.hint
