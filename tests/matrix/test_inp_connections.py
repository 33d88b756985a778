"""What a connection may do between, behind and instead of requests."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from purvey.server import protocol, request_body, uploads
from purvey.server.protocol import HEAD_BYTES, HEADERS, PIPELINED_REQUESTS
from tests.conftest import FIRST_KEY
from tests.matrix.memory import peak_growth
from tests.matrix.raw import Answer, Wire, chunk, connected, head
from tests.matrix.served import Served, serving

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

CHUNKED = "transfer-encoding: chunked"
VALIDATE = "/v1/recipes/validate"
HEALTH = head("GET", "/healthz", kind="")
MODELS = head("GET", "/v1/models", key=FIRST_KEY, kind="")
MIB = 2**20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("heads")) as running:
        yield running


HEADS: dict[str, bytes] = {
    "one header of 10 MB": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 10 * MIB,
    "a header's name of 10 MB": b"GET /healthz HTTP/1.1\r\n" + b"y" * 10 * MIB,
    "10,000 headers": b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    "headers without end": b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 2 * MIB,
    "a NUL in a value": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
    "a NUL in a name": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx\0y: a\r\n\r\n",
    "a carriage return in a value": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: a\rb: c\r\n\r\n",
    "a line feed alone": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: a\nb c\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx\r\n\r\n",
    "an empty name": b"GET /healthz HTTP/1.1\r\nhost: a\r\n: a\r\n\r\n",
    "an address of 64 KiB": b"GET /" + b"y" * HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "a query of 64 KiB": b"GET /v1/files?" + b"y" * HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "an address of 10 MB": b"GET /" + b"y" * 10 * MIB,
    "bytes beyond ASCII in the address": b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    "a control character in the address": b"GET /a\x01b HTTP/1.1\r\nhost: a\r\n\r\n",
    "no address": b"GET HTTP/1.1\r\nhost: a\r\n\r\n",
    "an address and a half": b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    "an authority": b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
    "HTTP 0.9": b"GET /healthz\r\n\r\n",
    "HTTP 3": b"GET /healthz HTTP/3.0\r\nhost: a\r\n\r\n",
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
    "nothing but lines": b"\r\n" * MIB,
}  # fmt: skip


@pytest.mark.row("INP-03")
@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_none_is_refused_and_costs_no_memory(served: Served, name: str) -> None:
    with peak_growth(served.process.pid) as growth, connected(served.base_url) as wire:
        wire.send(HEADS[name])
        answer = wire.answer()
        assert answer.status in {400, 404, 414, 431}, answer
        assert answer.error["code"] in {"invalid_value", "not_found"}
        assert answer.is_last
        assert wire.is_closed()
        assert growth() < 2 * MIB


@pytest.mark.row("INP-03")
@pytest.mark.parametrize(("num_headers", "status"), [(HEADERS, 200), (HEADERS + 1, 400)])
def test_headers_are_counted_to_the_limit(served: Served, num_headers: int, status: int) -> None:
    with connected(served.base_url) as wire:
        wire.send(
            b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
            + b"x: y\r\n" * (num_headers - 1)
            + b"\r\n"
        )
        assert wire.answer().status == status


@pytest.mark.row("INP-03")
@pytest.mark.parametrize(
    ("target", "status"), [("*", 404), ("http://localhost/healthz", 200), ("//healthz", 404)]
)
def test_other_forms_of_an_address_are_answered(served: Served, target: str, status: int) -> None:
    with connected(served.base_url) as wire:
        wire.send(head("GET", target))
        assert wire.answer().status == status


def _pairs(wire: Wire, num_answers: int) -> list[Answer]:
    return [wire.answer() for _ in range(num_answers)]


@pytest.mark.row("INP-23")
def test_pipelined_requests_are_answered_in_order_each_with_its_id(held: "Held") -> None:
    """Each answer is its own request's; a slow one is not overtaken."""
    num_requests = PIPELINED_REQUESTS
    texts = [f"text {i}" for i in range(num_requests)]
    with connected(held.server.base_url) as wire:
        for text in texts:
            body = b'{"model":"%s","prompt":"%s"}' % (held.model.encode(), text.encode())
            line = f"content-length: {len(body)}"
            wire.send(head("POST", "/v1/completions", line, key=FIRST_KEY), body)
        answers = _pairs(wire, num_requests)
    for text, answer in zip(texts, answers, strict=True):
        assert f'"text":"{text}"'.encode() in answer.body
    assert len({answer.request_id for answer in answers}) == num_requests


@pytest.mark.row("INP-23")
def test_what_is_pipelined_behind_a_refusal_is_answered_too(served: Served) -> None:
    sent = [
        head("GET", "/v1/nothing", key=FIRST_KEY),
        head("POST", VALIDATE, "content-length: 2", key=FIRST_KEY) + b"[]",
        HEALTH,
        head("HEAD", "/v1/models", key=FIRST_KEY),
        HEALTH,
    ]
    with connected(served.base_url) as wire:
        wire.send(b"".join(sent))
        answers = [wire.answer(has_body=b"HEAD" not in one[:4]) for one in sent]
    assert [answer.status for answer in answers] == [404, 400, 200, 200, 200]


@pytest.mark.row("INP-23")
@pytest.mark.parametrize("kind", ["", "text/plain"])
def test_a_refusal_before_the_body_is_read_ends_the_connection(served: Served, kind: str) -> None:
    """Else the body could be taken for the next request."""
    smuggled = head("DELETE", "/v1/keys/none", key=FIRST_KEY)
    with connected(served.base_url) as wire:
        line = f"content-length: {len(smuggled)}"
        wire.send(head("POST", VALIDATE, line, key=FIRST_KEY if kind else "", kind=kind) + smuggled)
        answer = wire.answer()
        assert answer.status == (415 if kind else 401)
        assert answer.is_last
        assert wire.is_closed()


@pytest.mark.row("INP-23")
@pytest.mark.parametrize(
    "sent",
    [
        head("POST", VALIDATE, "content-length: 2", key=FIRST_KEY) + b"{}",
        head("POST", VALIDATE, "content-length: 1", key=FIRST_KEY) + b"{",
        head("GET", "/v1/nothing", key=FIRST_KEY),
        head("GET", "/v1/models?limit=x", key=FIRST_KEY),
        head("POST", "/v1/responses", "content-length: 9", key=FIRST_KEY) + b"123456789",
        head("POST", "/v1/files/none/content", CHUNKED, key=FIRST_KEY)
        + chunk(b"GET / HTTP/1.1\r\n\r\n")
        + b"0\r\n\r\n",
    ],
)
def test_a_connection_goes_on_after_a_refusal(served: Served, sent: bytes) -> None:
    with connected(served.base_url) as wire:
        for _ in range(3):
            wire.send(sent)
            answer = wire.answer()
            assert 400 <= answer.status < 600
            if answer.is_last:
                assert wire.is_closed()
                return
            wire.send(HEALTH)
            assert wire.answer().status == 200


@pytest.mark.row("INP-23")
@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_where_none_is_due_is_skipped(served: Served, method: str, is_chunked: bool) -> None:
    """It is neither read as JSON nor as a request."""
    inner = head("GET", "/v1/usage", kind="")
    line = CHUNKED if is_chunked else f"content-length: {len(inner)}"
    body = chunk(inner) + b"0\r\n\r\n" if is_chunked else inner
    with connected(served.base_url) as wire:
        wire.send(head(method, "/v1/files/none", line, key=FIRST_KEY) + body + HEALTH)
        first = wire.answer(has_body=method != "HEAD")
        assert first.status in {404, 405}
        if first.is_last:
            assert wire.is_closed()
        else:
            assert wire.answer().body == b'{"status":"ok"}'


@pytest.mark.row("INP-23")
def test_the_body_is_asked_for_only_when_it_is_wanted(served: Served) -> None:
    body = b'{"recipe": {}}'
    lines = f"content-length: {len(body)}", "expect: 100-continue"
    with connected(served.base_url) as wire:
        wire.send(head("POST", VALIDATE, *lines, key=FIRST_KEY))
        assert wire.answer(has_body=False).status == 100
        wire.send(body)
        assert wire.answer().error["param"] == "recipe.task"
        wire.send(head("POST", VALIDATE, *lines))
        assert wire.answer().status == 401, "nobody has asked for the body"
        assert wire.is_closed()


@pytest.mark.row("INP-23")
@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "x"])
def test_an_upgrade_is_not_taken(served: Served, protocol: str) -> None:
    lines = f"upgrade: {protocol}", "connection: upgrade", "http2-settings: AAMAAABk"
    with connected(served.base_url) as wire:
        wire.send(head("GET", "/healthz", *lines))
        answer = wire.answer()
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
        assert answer.is_last, "what follows is of no protocol that both sides know"
        assert wire.is_closed()


@pytest.mark.row("INP-23")
def test_a_request_after_the_last_one_is_not_answered(served: Served) -> None:
    with connected(served.base_url) as wire:
        wire.send(head("GET", "/healthz", "connection: close") + HEALTH)
        assert wire.answer().is_last
        assert wire.is_closed()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(protocol, "REST_TIMEOUT_S", 0.2)
    monkeypatch.setattr(request_body, "BODY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(uploads, "IDLE_TIMEOUT_S", 0.2)


FORM = "multipart/form-data; boundary=b"
SLOW = {
    "nothing": b"",
    "half of a head": b"GET /healthz HTTP/1.1\r\nhost: ",
    "lines before a request": b"\r\n\r\n",
    "half of a JSON body": head("POST", VALIDATE, "content-length: 9", key=FIRST_KEY) + b"{",
    "half of a chunked body": head("POST", VALIDATE, CHUNKED, key=FIRST_KEY) + chunk(b"{"),
    "half of an upload": head(
        "POST", "/v1/files", "content-length: 999", key=FIRST_KEY, kind=FORM
    ) + b"--b\r\n",
}  # fmt: skip


@pytest.mark.row("INP-23")
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", SLOW)
def test_what_does_not_arrive_is_given_up(held: "Held", name: str) -> None:
    with connected(held.server.base_url) as wire:
        wire.send(SLOW[name])
        answer = wire.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_read_timeout")
        assert answer.is_last
        assert wire.is_closed()


@pytest.mark.row("INP-23")
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", [name for name in SLOW if "upload" not in name])
def test_a_trickle_does_not_put_the_deadline_off(held: "Held", name: str) -> None:
    """One byte at a time keeps a connection alive until the deadline of the whole, not longer."""
    with connected(held.server.base_url, timeout_s=0.02) as wire:
        wire.send(SLOW[name])
        assert wire.trickle(b" ", until_s=10), "it is still open"


UNREAD = {
    "a path that is not there": head("POST", "/v1/nothing", "content-length: 9", key=FIRST_KEY),
    "a path without a body": head("GET", "/healthz", "content-length: 9"),
    "an operation that is absent": head("POST", "/v1/responses", CHUNKED, key=FIRST_KEY),
    "a length that is none": head("POST", VALIDATE, "content-length: 9", kind="x/y", key=FIRST_KEY),
}


@pytest.mark.row("INP-23")
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("trickles", [False, True])
def test_a_body_that_nobody_reads_has_a_deadline_too(
    held: "Held", name: str, trickles: bool
) -> None:
    with connected(held.server.base_url, timeout_s=10) as wire:
        wire.send(UNREAD[name])
        assert wire.answer().status in {200, 404, 415, 501}
        if trickles:
            piece = chunk(b" ") if CHUNKED.encode() in UNREAD[name] else b""
            wire.send(piece)
        assert wire.is_closed()


@pytest.mark.row("INP-23")
def test_a_body_that_nobody_reads_is_bounded_in_bytes(served: Served) -> None:
    with connected(served.base_url) as wire:
        wire.send(head("POST", "/v1/nothing", CHUNKED, key=FIRST_KEY))
        assert wire.answer().status == 404
        piece = chunk(bytes(MIB))
        assert not wire.send_all(piece for _ in range(256)), "all of it was taken"


@pytest.mark.row("INP-23")
def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    """After an answer, and after the rest of a body that came behind its answer."""
    body = b"123456789"
    late = head("POST", "/v1/nothing", f"content-length: {len(body)}", key=FIRST_KEY)
    with serving(tmp_path, settings={"HTTP__KEEP_ALIVE_S": "1"}) as served:
        for first, rest in ((HEALTH, b""), (MODELS, b""), (late, body)):
            with connected(served.base_url) as wire:
                wire.send(first)
                assert not wire.answer().is_last
                wire.send(rest)
                assert wire.is_closed()
