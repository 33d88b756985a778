"""Streams that go wrong: the engine dies, the client leaves; both are cleaned up and metered."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import APIError, OpenAI

from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.conftest import RunningServer

HELLO: Any = [{"role": "user", "content": "hello"}]  # the SDK's union of message types


def wait_until(holds: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait for a condition that another thread brings about."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        pause.wait(0.005)


@pytest.fixture
def engine(
    http: httpx2.Client, echo: str, engine_of: Callable[[str], ScriptedEngine]
) -> Iterator[ScriptedEngine]:
    """The engine of `echo`, loaded and alive."""
    http.post("/v1/chat/completions", json={"model": echo, "messages": HELLO}).raise_for_status()
    engine = engine_of(echo)
    yield engine
    engine.gate.open()


def test_an_error_in_mid_stream_is_one_event_and_no_done(
    http: httpx2.Client, echo: str, engine: ScriptedEngine
) -> None:
    engine.crash_after_tokens = 3
    body = {"model": echo, "messages": HELLO, "stream": True}
    text = http.post("/v1/chat/completions", json=body).text
    *_, last, rest = text.split("\n\n")
    assert rest == ""
    assert "[DONE]" not in text
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("worker_crashed", "service_unavailable_error")
    assert text.count('"error"') == 1


@pytest.mark.row("CRA-17")
@pytest.mark.parametrize("stream", [True, False])
def test_a_request_whose_turn_had_not_come_is_answered_by_the_next_engine(
    sdk: OpenAI, echo: str, engine: ScriptedEngine, stream: bool
) -> None:
    engine.crash_after_tokens = 0
    answer: Any = sdk.chat.completions.create(model=echo, messages=HELLO, stream=stream)  # either
    texts = (
        [chunk.choices[0].delta.content or "" for chunk in answer]
        if stream
        else [answer.choices[0].message.content]
    )
    assert "".join(texts) == "hello"
    assert not engine.is_alive


def test_the_sdk_raises_what_a_stream_reports(
    sdk: OpenAI, echo: str, engine: ScriptedEngine
) -> None:
    engine.crash_after_tokens = 3
    chunks = sdk.chat.completions.create(model=echo, messages=HELLO, stream=True)
    seen: list[str] = []
    with pytest.raises(APIError, match="process died"):
        seen.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(seen) == "he"


def test_tokens_before_a_failure_are_metered(
    http: httpx2.Client,
    echo: str,
    engine: ScriptedEngine,
    usage_by_kind: Callable[[], dict[str, dict[str, Any]]],
) -> None:
    before = usage_by_kind()["chat"]
    engine.crash_after_tokens = 3
    http.post("/v1/chat/completions", json={"model": echo, "messages": HELLO, "stream": True})
    after = usage_by_kind()["chat"]
    assert after["output_tokens"] - before["output_tokens"] == 2
    assert after["requests"] - before["requests"] == 1


@contextmanager
def _request(
    api: "RunningServer", body: dict[str, object], path: str = "/v1/chat/completions"
) -> Iterator[socket.socket]:
    host, port = api.base_url.removeprefix("http://").split(":")
    raw = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
            % (path.encode(), host.encode(), api.admin_key.encode(), len(raw), raw)
        )
        yield connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_request_and_is_metered(
    api: "RunningServer",
    echo: str,
    engine: ScriptedEngine,
    usage_by_kind: Callable[[], dict[str, dict[str, Any]]],
    stream: bool,
) -> None:
    before, cancelled = usage_by_kind()["chat"]["requests"], len(engine.cancelled)
    engine.gate.close()
    with _request(api, {"model": echo, "messages": HELLO, "stream": stream}):
        wait_until(lambda: engine.stats.running == 1)
    wait_until(lambda: engine.stats.running == 0)
    assert len(engine.cancelled) == cancelled + 1
    wait_until(lambda: usage_by_kind()["chat"]["requests"] == before + 1)


QUESTION = {"type": "choice", "instructions": "?", "choices": [{"value": "spam"}, {"value": "ham"}]}


@pytest.mark.parametrize(
    ("path", "kind", "asked"),
    [
        ("/v1/classify", "classify", {"input": "spam"}),
        ("/v1/decisions", "decision", {"input": "spam", "questions": [QUESTION]}),
    ],
)
def test_a_client_that_leaves_before_an_answer_frees_the_engine_and_is_metered(
    api: "RunningServer",
    http: httpx2.Client,
    spam: str,
    engine_of: Callable[[str], ScriptedEngine],
    usage_by_kind: Callable[[], dict[str, dict[str, Any]]],
    path: str,
    kind: str,
    asked: dict[str, object],
) -> None:
    body = {"model": spam} | asked
    http.post(path, json=body).raise_for_status()
    engine, before = engine_of(spam), usage_by_kind()[kind]["requests"]
    cancelled = len(engine.cancelled)
    engine.gate.close()
    try:
        with _request(api, body, path):
            wait_until(lambda: engine.stats.running == 1)
        wait_until(lambda: engine.stats.running == 0)
    finally:
        engine.gate.open()
    assert len(engine.cancelled) == cancelled + 1
    wait_until(lambda: usage_by_kind()[kind]["requests"] == before + 1)


def test_a_client_that_leaves_in_mid_stream_frees_the_engine(
    api: "RunningServer", echo: str, engine: ScriptedEngine
) -> None:
    cancelled = len(engine.cancelled)
    long = [{"role": "user", "content": "x" * 500}]
    body = {"model": echo, "messages": long, "stream": True, "max_tokens": 400}
    engine.gate.close()
    with _request(api, body) as connection:
        wait_until(lambda: engine.gate.num_waiting == 1)
        engine.gate.open()
        engine.gate.close()  # the step that waited begins the answer; the next one waits
        assert connection.recv(64).startswith(b"HTTP/1.1 200")
    wait_until(lambda: engine.stats.running == 0)
    assert len(engine.cancelled) == cancelled + 1


def test_streams_side_by_side_do_not_mix(api: "RunningServer", echo: str) -> None:
    from openai import AsyncOpenAI

    async def one(client: AsyncOpenAI, text: str) -> str:
        messages: Any = [{"role": "user", "content": text}]
        stream = await client.chat.completions.create(model=echo, messages=messages, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(
            base_url=f"{api.base_url}/v1", api_key=api.admin_key, max_retries=0
        ) as client:
            return await asyncio.gather(*(one(client, f"text {i}") for i in range(20)))

    assert asyncio.run(all_of_them()) == [f"text {i}" for i in range(20)]


def test_a_stream_that_ends_is_counted_as_answered(http: httpx2.Client, echo: str) -> None:
    def counted() -> dict[str, float]:
        begin = 'purvey_http_requests_total{method="POST",route="/v1/chat/completions",status="'
        lines = http.get("/metrics").text.splitlines()
        told = [line.removeprefix(begin) for line in lines if line.startswith(begin)]
        return {line[:3]: float(line.rpartition(" ")[2]) for line in told}

    before = counted()
    body = {"model": echo, "messages": HELLO, "stream": True}
    for _ in range(20):
        assert http.post("/v1/chat/completions", json=body).text.endswith("data: [DONE]\n\n")
    wait_until(lambda: sum(counted().values()) == sum(before.values()) + 20)
    assert counted() == before | {"200": before.get("200", 0) + 20}
