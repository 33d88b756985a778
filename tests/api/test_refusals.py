"""Requests that no resource ever sees: each gets its documented answer, and the server goes on."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import httpx2
import pytest

from purvey.contracts.limits import LIMITS
from purvey.server import protocol

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _goes_on(http: httpx2.Client, echo: str) -> Iterator[None]:
    """After every refusal the server answers as before."""
    yield
    body = {"model": echo, "messages": [{"role": "user", "content": "hello"}]}
    answer = http.post(CHAT, json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


BROKEN: dict[str, bytes] = {
    "not JSON": b'{"model": ',
    "empty": b"",
    "two values": b'{"a": 1} {"b": 2}',
    "not UTF-8": b'{"model": "\xff"}',
    "a byte-order mark": b'\xef\xbb\xbf{"model": "x"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "NaN": b'{"model": "x", "temperature": NaN}',
    "minus Infinity": b'{"temperature": -Infinity}',
    "a float that overflows": b'{"temperature": 1e999}',
    "a number of 401 digits": b'{"seed": 1' + b"0" * 400 + b"}",
    "half of a surrogate pair": b'{"model": "\\ud800"}',
    "such a half as a key": b'{"\\udc00": 1}',
    "65 levels": b"[" * 65 + b"]" * 65,
    "990 levels": b'{"a":' * 990 + b"1" + b"}" * 990,
    "100,000 levels": b"[" * 100_000 + b"]" * 100_000,
    "1,000,000 levels, never closed": b"[" * 1_000_000,
    "a raw control character": b'{"model": "a\nb"}',
    "single quotes": b"{'model': 'x'}",
}


@pytest.mark.row("INP-05")
@pytest.mark.parametrize("name", BROKEN)
def test_json_that_is_not_accepted(http: httpx2.Client, refused: "Refusal", name: str) -> None:
    answer = http.post(CHAT, content=BROKEN[name], headers=JSON)
    refused(answer, 400, "invalid_json")


@pytest.mark.row("INP-07")
@pytest.mark.parametrize("field", ["model", "max_tokens", "stream"])
def test_a_key_that_occurs_twice_is_named(
    http: httpx2.Client, refused: "Refusal", field: str
) -> None:
    body = b'{"%s": 1, "messages": [], "%s": 2}' % (field.encode(), field.encode())
    refused(http.post(CHAT, content=body, headers=JSON), 400, "invalid_json", field)


@pytest.mark.row("INP-07")
def test_a_key_that_occurs_twice_deep_inside_is_named(
    http: httpx2.Client, refused: "Refusal"
) -> None:
    body = b'{"messages": [{"role": "user", "role": "system"}]}'
    refused(http.post(CHAT, content=body, headers=JSON), 400, "invalid_json", "role")


def test_64_levels_are_json_but_no_chat(http: httpx2.Client, refused: "Refusal") -> None:
    body = b"[" * 64 + b"]" * 64
    refused(http.post(CHAT, content=body, headers=JSON), 400, "invalid_value")


@pytest.mark.parametrize("body", ["[]", '"x"', "1", "null", "true"])
def test_json_that_is_no_object(http: httpx2.Client, refused: "Refusal", body: str) -> None:
    refused(http.post(CHAT, content=body, headers=JSON), 400, "invalid_value")


@pytest.mark.row("INP-09")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_an_encoded_body_is_refused_and_not_decoded(
    http: httpx2.Client, refused: "Refusal", encoding: str
) -> None:
    headers = JSON | {"content-encoding": encoding}
    answer = http.post(CHAT, content=b"\x1f\x8b\x08" + bytes(1_000), headers=headers)
    refused(answer, 415, "unsupported_media_type")


@pytest.mark.row("INP-09")
@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/jsonp", ""])
def test_another_content_type_is_refused(
    http: httpx2.Client, refused: "Refusal", kind: str
) -> None:
    answer = http.post(CHAT, content=b"{}", headers={"content-type": kind})
    refused(answer, 415, "unsupported_media_type")


def test_no_content_type_or_two_are_refused(http: httpx2.Client, refused: "Refusal") -> None:
    refused(http.post(CHAT, content=b"{}"), 415, "unsupported_media_type")
    twice = [("content-type", "application/json"), ("content-type", "text/plain")]
    refused(http.post(CHAT, content=b"{}", headers=twice), 415, "unsupported_media_type")


def test_multipart_does_not_reach_a_json_route(http: httpx2.Client, refused: "Refusal") -> None:
    refused(http.post(CHAT, files={"file": b"{}"}), 415, "unsupported_media_type")


def test_a_charset_beside_the_type_is_fine(http: httpx2.Client, echo: str) -> None:
    body = json.dumps({"model": echo, "messages": [{"role": "user", "content": "é"}]})
    headers = {"content-type": "application/json; charset=utf-8"}
    assert http.post(CHAT, content=body.encode(), headers=headers).status_code == 200


@pytest.mark.row("INP-01")
def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(
    api: "RunningServer",
) -> None:
    connection = HTTPConnection(api.base_url.removeprefix("http://"), timeout=10)
    with closing(connection):
        connection.putrequest("POST", CHAT)
        connection.putheader("authorization", f"Bearer {api.admin_key}")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(LIMITS.json_body_bytes + 1))
        connection.endheaders()
        answer = connection.getresponse()
        body = json.loads(answer.read())
    assert (answer.status, body["error"]["code"]) == (413, "request_too_large")
    assert answer.getheader("connection") == "close"


@pytest.mark.row("INP-01")
def test_an_endless_body_is_cut_off_at_the_limit(http: httpx2.Client, refused: "Refusal") -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 2 * LIMITS.json_body_bytes:
            sent += 2**20
            yield b" " * 2**20

    # The server may close the connection while we are still sending.
    with suppress(httpx2.WriteError):
        refused(http.post(CHAT, content=endless(), headers=JSON), 413, "request_too_large")
    assert sent < 2 * LIMITS.json_body_bytes


@pytest.mark.row("INP-01")
@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "0x10", "99999999999999999999999"])
def test_a_length_that_lies_gets_an_answer(api: "RunningServer", length: str) -> None:
    host, port = api.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {api.admin_key}\r\ncontent-length: {length}\r\n\r\n".encode()
        )
        head = connection.recv(4_096)
    status = int(head.split()[1])
    assert status in {400, 413}
    assert b'{"error":{' in head


def _answer_to(api: "RunningServer", sent: bytes) -> bytes:
    host, port = api.base_url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection, suppress(OSError):
        connection.sendall(sent)
        while chunk := connection.recv(65_536):
            received += chunk
    return received


HEADS = {
    "no HTTP": b"hello\r\n\r\n",
    "two lengths": b"POST /v1/files HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    "length and chunks": b"POST /v1/files HTTP/1.1\r\ncontent-length: 1\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
    "300 headers": b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 300 + b"\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000,
    "a path without end": b"GET /" + b"y" * 70_000,
}


@pytest.mark.row("INP-03")
@pytest.mark.parametrize("name", HEADS)
def test_what_is_no_request_is_refused_in_the_same_shape(api: "RunningServer", name: str) -> None:
    head, _, body = _answer_to(api, HEADS[name]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"]["code"] == "invalid_value"


@pytest.mark.row("INP-23")
def test_a_head_that_never_ends_is_given_up(
    api: "RunningServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.05)
    answer = _answer_to(api, b"GET /healthz HTTP/1.1\r\nhost: ")
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"request_read_timeout" in answer


def test_an_unknown_path_is_not_found(http: httpx2.Client, refused: "Refusal") -> None:
    for path in ("/", "/v1", "/v2/models", "/v1/chat", "/v1/chat/completions/", "/admin.php"):
        answer = http.get(path)
        if path == "/v1/chat/completions/":
            refused(answer, 501, "not_implemented")
        else:
            refused(answer, 404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "OPTIONS", "BREW"])
def test_another_method_is_refused_with_those_there_are(
    http: httpx2.Client, refused: "Refusal", method: str
) -> None:
    answer = http.request(method, "/v1/files")
    if method == "BREW":
        assert answer.status_code in {400, 405}
        return
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/models/no-such"])
def test_head_is_get_without_its_body(http: httpx2.Client, path: str) -> None:
    whole, head = http.get(path), http.head(path)
    assert head.status_code == whole.status_code
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert head.content == b""


PATHS = [
    "//v1/models", "/v1//models", "/v1/./models", "/v1/../v1/models", "/v1/%2e%2e/v1/models",
    "/v1/models;x", "/V1/models", "/v1/models%00", "/v1/models.", "/v1%2Fmodels", "/v1/keys/..",
    "/v1/models/%2e%2e/keys", "/v1/%c0%ae/models", "/v1/%252e%252e/keys", "/%2e/healthz/../v1/keys",
]  # fmt: skip


@pytest.mark.row("AUT-03")
@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_goes_around_its_policy(api: "RunningServer", path: str) -> None:
    # The raw target, as no client library would send it.
    connection = HTTPConnection(api.base_url.removeprefix("http://"), timeout=10)
    with closing(connection):
        connection.putrequest("GET", path, skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        body = json.loads(answer.read())
    assert answer.status in {400, 401, 404}
    assert set(body) == {"error"}


def test_a_host_that_is_not_ours_is_refused(http: httpx2.Client, refused: "Refusal") -> None:
    answer = http.get("/healthz", headers={"host": "evil.example"})
    refused(answer, 400, "invalid_value")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("limit=1&limit=2", "limit"),
        ("limits=1", "limits"),
        ("after=file-none", "after"),
        ("after=", "after"),
    ],
)
def test_a_query_is_checked_like_a_body(
    http: httpx2.Client, refused: "Refusal", query: str, param: str
) -> None:
    refused(http.get(f"/v1/files?{query}"), 400, "invalid_value", param)


def test_every_answer_says_that_it_is_not_to_be_sniffed_or_kept(http: httpx2.Client) -> None:
    for path in ("/healthz", "/v1/models", "/no-such"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_request_ids_are_never_the_same(http: httpx2.Client) -> None:
    ids = {http.get("/healthz").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20
