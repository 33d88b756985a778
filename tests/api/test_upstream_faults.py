"""Upstreams that fail, hang, lie and leave: each is an answer, and what was given is counted."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import APIError, OpenAI

from purvey.testing.https_double import Listener
from tests.api.upstream_double import (
    Heard,
    UpstreamDouble,
    chunk,
    completion,
    plain,
    refusal,
    stream_head,
)
from tests.conftest import RunningServer, scripted_server

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

Json = dict[str, Any]
Use = tuple[int, int, int, int]
"""Requests, tokens in, tokens out, and how many of the requests were estimated."""
SAID: list[Any] = [{"role": "user", "content": "x" * 40}]
ESTIMATE = 11
"""Of that conversation: a token for each four characters, and one for the role."""
CHAT = "/v1/chat/completions"
SILENCE_S = 0.3
DONE = b"data: [DONE]\n\n"
PATIENCE_S = 20.0
MODELS = ("double", "silent", "dead", "nameless", "tripping", "few")


@pytest.fixture(scope="module")
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as running:
        yield running


@pytest.fixture(scope="module")
def api(
    double: UpstreamDouble, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    upstreams: list[Json] = [
        {"name": "double", "url": double.url},
        {"name": "silent", "url": double.url, "silence_s": SILENCE_S},
        {"name": "dead", "url": "http://127.0.0.1:9/v1"},
        {"name": "nameless", "url": "http://nobody.invalid/v1"},
        {"name": "tripping", "url": double.url},
        {"name": "few", "url": double.url, "max_connections": 1},
    ]
    root = tmp_path_factory.mktemp("faults")
    with scripted_server(root, upstreams=upstreams) as running:
        headers = {"authorization": f"Bearer {running.admin_key}"}
        with httpx2.Client(base_url=running.base_url, headers=headers) as http:
            for name in MODELS:
                body = {"id": name, "source": "inner", "upstream": name}
                http.post("/v1/models", json=body).raise_for_status()
        yield running


@pytest.fixture(autouse=True)
def _well_again(http: httpx2.Client, double: UpstreamDouble) -> Iterator[None]:
    """End each test with an answer: failures in a row are counted."""
    yield
    double.script = lambda _: [completion()]
    for name in ("double", "silent"):
        assert http.post(CHAT, json={"model": name, "messages": SAID}).status_code == 200


@pytest.fixture
def spent(http: httpx2.Client) -> Callable[[], Use]:
    """A function that says what the ledger has got since it was last asked, after a while."""

    def read() -> Use:
        names = ("requests", "input_tokens", "output_tokens", "estimated_requests")
        data = http.get("/v1/usage", params={"by": "kind"}).json()["data"]
        one, two, three, four = (sum(t[n] for t in data if t["group"] == "chat") for n in names)
        return one, two, three, four

    last = read()

    def since() -> Use:
        nonlocal last
        now, before = read(), last
        deadline = time.monotonic() + PATIENCE_S
        while now[0] == before[0] and time.monotonic() < deadline:
            threading.Event().wait(0.01)
            now = read()
        last = now
        one, two, three, four = (a - b for a, b in zip(now, before, strict=True))
        return one, two, three, four

    return since


def _ask(http: httpx2.Client, model: str = "double", **more: object) -> httpx2.Response:
    return http.post(CHAT, json={"model": model, "messages": SAID} | more)


@pytest.mark.parametrize(
    ("status", "ours", "code"),
    [
        (400, 400, "invalid_value"),
        (413, 413, "request_too_large"),
        (422, 422, "method_unsupported"),
        (301, 502, "upstream_misconfigured"),
        (307, 502, "upstream_misconfigured"),
        (401, 502, "upstream_misconfigured"),
        (403, 502, "upstream_misconfigured"),
        (404, 502, "upstream_misconfigured"),
        (405, 502, "upstream_misconfigured"),
        (501, 502, "upstream_misconfigured"),
        (408, 502, "upstream_failed"),
        (409, 502, "upstream_failed"),
        (418, 502, "upstream_failed"),
        (500, 502, "upstream_failed"),
        (502, 502, "upstream_failed"),
        (204, 502, "upstream_failed"),
        (429, 429, "rate_limit_exceeded"),
        (503, 503, "upstream_unavailable"),
        (529, 503, "upstream_unavailable"),
        (504, 504, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_status_means_what_the_caller_can_do(
    http: httpx2.Client,
    double: UpstreamDouble,
    refused: "Refusal",
    spent: Callable[[], Use],
    status: int,
    ours: int,
    code: str,
    is_stream: bool,
) -> None:
    double.script = lambda _: [refusal(status, "mind the gap", set_cookie="a=b", x_inner="1")]
    answer = _ask(http, stream=is_stream)
    is_callers = status == ours and ours < 429
    message = refused(answer, ours, code, "temperature" if is_callers else None)
    assert ("mind the gap" in message) == is_callers
    assert not {"x-inner", "set-cookie"} & set(answer.headers)
    assert spent() == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("told", "ours"), [("7", "7"), ("0", "1"), ("86400", "120"), ("soon", "1"), ("-3", "1")]
)
def test_a_wait_is_passed_on_within_reason(
    http: httpx2.Client, double: UpstreamDouble, told: str, ours: str
) -> None:
    for status in (429, 503):
        double.script = lambda _, status=status: [refusal(status, retry_after=told)]  # type: ignore[misc]  # bound now
        answer = _ask(http)
        assert (answer.status_code, answer.headers["retry-after"]) == (status, ours)


def test_a_context_that_is_too_long_keeps_its_code(
    http: httpx2.Client, double: UpstreamDouble, refused: "Refusal"
) -> None:
    error = {"message": "too long", "type": "x", "param": "messages", "code": None}
    for code in ("context_length_exceeded", "invalid_api_key", "no_such_code", 400):
        body = json.dumps({"error": error | {"code": code}}).encode()
        double.script = lambda _, body=body: [plain(400, body)]  # type: ignore[misc]  # bound now
        known = code if code == "context_length_exceeded" else "invalid_value"
        assert refused(_ask(http), 400, known, "messages") == "too long"


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"error","message":"why","code":400}',
        b'{"detail":"why"}',
        b'{"error":"why"}',
        b'{"detail":[{"loc":["body"]}]}',
        b"<html>why</html>",
        b"",
        b"\xff",
        b"[" * 50_000,
        b'{"error":{"message":"' + b"w" * 100_000 + b'"}}',
    ],
    ids=str,
)
def test_refusals_of_other_shapes_are_read_as_far_as_they_go(
    http: httpx2.Client, double: UpstreamDouble, refused: "Refusal", body: bytes
) -> None:
    double.script = lambda _: [plain(400, body)]
    message = refused(_ask(http), 400, "invalid_value")
    assert ("why" in message) == (b'"why"' in body)
    assert len(message) <= 1_000


def test_a_redirect_is_not_followed(http: httpx2.Client, double: UpstreamDouble) -> None:
    with Listener() as canary:
        there = f"http://127.0.0.1:{canary.port}/"
        for status in (301, 302, 303, 307, 308):
            double.script = lambda _, status=status: [plain(status, location=there)]  # type: ignore[misc]  # bound now
            assert _ask(http).status_code == 502
    assert canary.num_connections == 0


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (plain(200, b"not json"), "upstream_failed"),
        (plain(200, b""), "upstream_failed"),
        (plain(200, b"[]"), "upstream_failed"),
        (plain(200, b"{}"), "upstream_failed"),
        (plain(200, b'{"choices": NaN}'), "upstream_failed"),
        (plain(200, b'{"choices": [], "model": "\xff"}'), "upstream_failed"),
        (plain(200, b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "upstream_failed"),
        (plain(200, b'{"error": {"message": "down"}}'), "upstream_failed"),
        (plain(200, b"<html>", kind="text/html"), "upstream_misconfigured"),
        (plain(200, b"{}", kind="text/event-stream"), "upstream_misconfigured"),
        (plain(200, b"{}", content_encoding="gzip"), "upstream_misconfigured"),
        (completion()[:-5], "upstream_failed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n", "upstream_failed"),
        (b"SSH-2.0-OpenSSH\r\n", "upstream_failed"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 30_000 + b"\r\n", "upstream_failed"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_what_is_no_answer_is_not_passed_on(
    http: httpx2.Client,
    double: UpstreamDouble,
    refused: "Refusal",
    spent: Callable[[], Use],
    raw: bytes,
    code: str,
) -> None:
    double.script = lambda _: [raw, b""]
    refused(_ask(http), 502, code)
    assert spent() == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (stream_head() + b"data: not json\n\n", "upstream_failed"),
        (stream_head() + b"data: []\n\n", "upstream_failed"),
        (stream_head() + b'data: {"error": {"message": "down"}}\n\n', "upstream_failed"),
        (stream_head() + b": nothing\n\n", "upstream_failed"),
        (stream_head(), "upstream_failed"),
        (stream_head("text/plain") + chunk("x"), "upstream_misconfigured"),
        (completion(), "upstream_misconfigured"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_stream_that_fails_before_it_begins_is_a_plain_refusal(
    http: httpx2.Client,
    double: UpstreamDouble,
    refused: "Refusal",
    spent: Callable[[], Use],
    raw: bytes,
    code: str,
) -> None:
    double.script = lambda _: [raw, b""]
    refused(_ask(http, stream=True), 502, code)
    assert spent() == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"data: {",
        b"data: not json\n\n",
        b'data: {"error": {"message": "down", "code": 500}}\n\n',
        b"data: " + b"x" * (9 * 2**20),
    ],
    ids=["closed", "cut", "garbage", "error", "endless"],
)
def test_a_stream_that_breaks_ends_with_an_error_and_is_charged_for_what_came(
    http: httpx2.Client, double: UpstreamDouble, spent: Callable[[], Use], end: bytes
) -> None:
    double.script = lambda _: [stream_head(), chunk("a"), chunk("b"), chunk("c"), end]
    *events, last = _ask(http, stream=True).text.strip().split("\n\n")
    said = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events]
    assert said == ["a", "b", "c"]
    assert json.loads(last[6:])["error"]["code"] == "upstream_failed"
    assert spent() == (1, ESTIMATE, 3, 1)


def test_the_official_client_sees_a_broken_stream_as_an_error(
    sdk: OpenAI, double: UpstreamDouble
) -> None:
    double.script = lambda _: [stream_head(), chunk("a")]
    stream = sdk.chat.completions.create(model="double", messages=SAID, stream=True)
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(APIError, match="ended its stream before its answer"):
        next(stream)


def test_a_line_of_100_megabytes_is_cut_off(http: httpx2.Client, double: UpstreamDouble) -> None:
    num_sent = 0

    def endless(_: Heard) -> Iterable[bytes]:
        nonlocal num_sent
        yield stream_head() + chunk("a") + b"data: "
        for _i in range(100):
            num_sent += 1
            yield b"x" * 2**20

    double.script = endless
    assert "more than 8388608 bytes" in _ask(http, stream=True).text
    assert num_sent < 40


def test_an_answer_without_end_is_cut_off(
    http: httpx2.Client, double: UpstreamDouble, refused: "Refusal"
) -> None:
    def endless(_: Heard) -> Iterable[bytes]:
        yield stream_head("application/json")
        for _i in range(200):
            yield b" " * 2**20

    double.script = endless
    assert "more than 67108864 bytes" in refused(_ask(http), 502, "upstream_failed")


def _hanging(*pieces: bytes) -> Callable[[Heard], Iterable[bytes]]:
    def answer(_: Heard) -> Iterable[bytes]:
        yield from pieces
        threading.Event().wait(3 * SILENCE_S)

    return answer


def test_one_that_hangs_is_given_up(
    http: httpx2.Client, double: UpstreamDouble, refused: "Refusal", spent: Callable[[], Use]
) -> None:
    double.script = _hanging()
    assert "said nothing for 0.3 s" in refused(_ask(http, "silent"), 502, "upstream_failed")
    double.script = _hanging(completion()[:-5])
    assert "said nothing for 0.3 s" in refused(_ask(http, "silent"), 502, "upstream_failed")
    assert spent()[1:] == (0, 0, 0)
    double.script = _hanging(stream_head(), chunk("a"))
    assert "said nothing for 0.3 s" in _ask(http, "silent", stream=True).text
    assert spent()[1:] == (ESTIMATE, 1, 1)


def test_one_that_stays_open_behind_its_end_is_not_waited_for(
    http: httpx2.Client, double: UpstreamDouble
) -> None:
    double.script = _hanging(stream_head(), chunk("a"), DONE)
    started = time.monotonic()
    assert _ask(http, "double", stream=True).text.endswith("[DONE]\n\n")
    assert time.monotonic() - started < PATIENCE_S


@pytest.mark.parametrize("model", ["dead", "nameless"])
def test_one_that_cannot_be_reached_says_so(
    http: httpx2.Client, refused: "Refusal", model: str
) -> None:
    for is_stream in (False, True):
        message = refused(_ask(http, model, stream=is_stream), 502, "upstream_failed")
        assert "cannot be reached" in message
        assert "127.0.0.1" not in message
        assert "invalid" not in message


def test_a_connection_that_was_dropped_before_an_answer_is_tried_again_once(
    http: httpx2.Client, double: UpstreamDouble, refused: "Refusal"
) -> None:
    answers = [b"", completion("again")]
    double.script = lambda _: [answers.pop(0)]
    assert _ask(http).json()["choices"][0]["message"]["content"] == "again"
    before = len(double.heard)
    double.script = lambda _: [b""]
    message = refused(_ask(http), 502, "upstream_failed")
    assert "closed the connection without an answer" in message
    assert len(double.heard) - before == 2


def test_an_answer_that_began_is_never_asked_for_again(
    http: httpx2.Client, double: UpstreamDouble
) -> None:
    before = len(double.heard)
    double.script = lambda _: [completion()[:-5], b""]
    assert _ask(http).status_code == 502
    assert len(double.heard) - before == 1


def test_failures_in_a_row_open_the_breaker_and_nobody_waits_any_more(
    http: httpx2.Client, double: UpstreamDouble, refused: "Refusal"
) -> None:
    double.script = lambda _: [b""]
    for _ in range(5):
        refused(_ask(http, "tripping"), 502, "upstream_failed")
    before = len(double.heard)
    double.script = lambda _: [completion()]
    for is_stream in (False, True):
        answer = _ask(http, "tripping", stream=is_stream)
        refused(answer, 503, "upstream_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 10
    assert len(double.heard) == before
    shown = http.get("/v1/server").json()["upstreams"]
    states = {one["model"]: one["state"] for one in shown}
    assert (states["tripping"], states["double"]) == ("open", "closed")
    assert _ask(http).status_code == 200


def test_refusals_do_not_open_it(http: httpx2.Client, double: UpstreamDouble) -> None:
    double.script = lambda _: [refusal(500)]
    assert {_ask(http).status_code for _ in range(8)} == {502}
    double.script = lambda _: [completion()]
    assert _ask(http).status_code == 200


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": 5, "completion_tokens": -1},
        {"prompt_tokens": 10**18, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 2**63},
        {"prompt_tokens": 10**400},
        {"prompt_tokens": "5", "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"completion_tokens": 1},
        {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": -1}},
        [],
        "many",
    ],
    ids=lambda usage: str(usage)[:60],
)
def test_counts_that_cannot_be_right_are_replaced_by_marked_estimates(
    http: httpx2.Client, double: UpstreamDouble, spent: Callable[[], Use], usage: object
) -> None:
    double.script = lambda _: [completion("y" * 20, usage=usage)]
    told = _ask(http).json()["usage"]
    assert told["is_estimated"] is True
    assert spent() == (1, told["prompt_tokens"], told["completion_tokens"], 1)
    assert told["prompt_tokens"] == ESTIMATE
    assert 5 <= told["completion_tokens"] <= 12
    pieces = [stream_head(), chunk("a"), chunk("b"), chunk(usage=usage), DONE]
    double.script = lambda _: pieces
    lines = _ask(http, stream=True, stream_options={"include_usage": True}).text.split("\n\n")
    last = json.loads(lines[-3][6:])
    assert (last["choices"], last["usage"]["is_estimated"]) == ([], True)
    assert spent() == (1, ESTIMATE, 2, 1)


def test_no_counts_at_all_are_estimated_too(
    http: httpx2.Client, double: UpstreamDouble, spent: Callable[[], Use]
) -> None:
    double.script = lambda _: [completion()]
    assert _ask(http).json()["usage"]["is_estimated"] is True
    assert spent()[3] == 1
    double.script = lambda _: [stream_head(), chunk("a"), chunk(), DONE]
    assert "usage" not in _ask(http, stream=True).text
    assert spent() == (1, ESTIMATE, 1, 1)


@pytest.mark.parametrize("where", ["with the end", "behind it", "everywhere"])
def test_counts_are_found_wherever_a_stream_tells_them(
    http: httpx2.Client, double: UpstreamDouble, spent: Callable[[], Use], where: str
) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    last = chunk("", usage=usage).replace(b'"choices": [{', b'"choices": [], "_": [{')
    pieces = {
        "with the end": [chunk("a"), chunk(usage=usage)],
        "behind it": [chunk("a", usage=None), chunk(usage=None), last],
        "everywhere": [
            chunk("a", usage=usage | {"completion_tokens": 1}),
            chunk(usage=usage),
            last,
        ],
    }[where]
    double.script = lambda _: [stream_head(), *pieces, DONE]
    text = _ask(http, stream=True).text
    assert '"usage"' not in text
    assert spent() == (1, 7, 2, 0)
    text = _ask(http, stream=True, stream_options={"include_usage": True}).text
    told = [json.loads(line[6:]) for line in text.split("\n\n")[:-2]]
    assert [one["usage"] for one in told if one.get("usage")] == [usage]
    assert told[-1]["choices"] == []


def test_events_are_found_however_they_are_cut(http: httpx2.Client, double: UpstreamDouble) -> None:
    stream = b": hello\r\n\r\nevent: x\r\nid: 1\r\n" + chunk("é\u2028").replace(b"\n", b"\r\n")
    stream += chunk("b").replace(b"data: ", b"data:") + DONE
    for size in (1, 7, 1_000):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        double.script = lambda _, pieces=pieces: [stream_head(), *pieces]  # type: ignore[misc]  # bound now
        *events, done, _ = _ask(http, stream=True).text.split("\n\n")
        said = [json.loads(e[6:])["choices"][0]["delta"]["content"] for e in events]
        assert (said, done) == (["é\u2028", "b"], "data: [DONE]")


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_leaves_ends_the_upstreams_work(
    http: httpx2.Client, double: UpstreamDouble, spent: Callable[[], Use], is_stream: bool
) -> None:
    is_asked, before = threading.Event(), double.num_gone

    def slow(_: Heard) -> Iterable[bytes]:
        yield stream_head("text/event-stream" if is_stream else "application/json")
        is_asked.set()
        while True:
            threading.Event().wait(0.02)
            yield chunk("a") if is_stream else b" "

    double.script = slow
    body = {"model": "double", "messages": SAID, "stream": is_stream}
    if is_stream:
        with http.stream("POST", CHAT, json=body) as answer:
            next(answer.iter_lines())
    else:
        with suppress(httpx2.ReadTimeout):
            http.post(CHAT, json=body, timeout=0.3)
    assert is_asked.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while double.num_gone == before:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    one, tokens_in, tokens_out, estimated = spent()
    assert (one, tokens_in, estimated) == (1, ESTIMATE * is_stream, is_stream)
    assert (tokens_out > 0) == is_stream
    upstreams = http.get("/v1/server").json()["upstreams"]
    assert {one["users"] for one in upstreams} == {0}


def test_more_requests_than_connections_wait_a_little_and_are_refused(
    http: httpx2.Client, double: UpstreamDouble, refused: "Refusal"
) -> None:
    is_asked, may_end = threading.Event(), threading.Event()

    def slow(_: Heard) -> Iterable[bytes]:
        yield stream_head() + chunk("a")
        is_asked.set()
        may_end.wait(PATIENCE_S)
        yield DONE

    double.script = slow
    with http.stream(
        "POST", CHAT, json={"model": "few", "messages": SAID, "stream": True}
    ) as first:
        assert is_asked.wait(PATIENCE_S)
        refused(_ask(http, "few"), 503, "upstream_unavailable")
        may_end.set()
        assert first.read().endswith(DONE)
    double.script = lambda _: [completion()]
    assert _ask(http, "few").status_code == 200
