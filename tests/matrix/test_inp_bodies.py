"""Bodies over their cap, lying about their length, or encoded: refused early, memory bounded."""

import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import APIStatusError
from openai.types.chat import ChatCompletionUserMessageParam

from purvey.contracts.limits import LIMITS
from purvey.server import uploads
from tests.conftest import FIRST_KEY
from tests.matrix.memory import peak_growth
from tests.matrix.raw import Answer, Wire, chunk, connected, head
from tests.matrix.routes import JSON_ROUTES, UPLOAD_ROUTES
from tests.matrix.served import Served, serving

CAP = LIMITS.json_body_bytes
SLACK = 12 * 2**20
"""What the allocator and the interpreter may add to the bytes that a cap allows."""
FORM = "multipart/form-data; boundary=b"
CHUNKED = "transfer-encoding: chunked"
MIB = b" " * 2**20
ROUTES = [
    *((method, path, "application/json", CAP) for method, path in JSON_ROUTES),
    *(
        (method, path, FORM, num_bytes + uploads.FIELDS_BYTES)
        for method, path, num_bytes in UPLOAD_ROUTES
    ),
]
LENGTHS = {
    "negative": "-1",
    "an exponent": "1e3",
    "hexadecimal": "0x10",
    "signed": "+1",
    "two": "1, 2",
    "a word": "abc",
    "not ASCII": "\xb2",
    "none": "",
    "64 bits": str(2**64),
    "23 digits": "9" * 23,
}
SMUGGLED = b"GET /v1/keys HTTP/1.1\r\nhost: localhost\r\n\r\n"
FRAMINGS = {
    "a length and chunks": ("content-length: 5", CHUNKED),
    "chunks and a length": (CHUNKED, "content-length: 5"),
    "two lengths": ("content-length: 5", "content-length: 6"),
    "chunks that are not the last": ("transfer-encoding: chunked, gzip",),
    "an unknown transfer": ("transfer-encoding: xchunked",),
    "a folded transfer": ("transfer-encoding:", " chunked"),
    "a space before the colon": ("transfer-encoding : chunked", "content-length: 5"),
    "a vertical tab": ("transfer-encoding:\x0bchunked", "content-length: 5"),
    "another spelling": ("transfer-encoding: Chunke\x00d", "content-length: 5"),
}
CHUNKS = {
    "no number": b"x\r\n",
    "negative": b"-5\r\n",
    "prefixed": b"0x5\r\n{    \r\n0\r\n\r\n",
    "signed": b"+5\r\n{    \r\n0\r\n\r\n",
    "64 bits": b"1" + b"0" * 16 + b"\r\n",
    "a thousand digits": b"0" * 1_000 + b"f" * 20 + b"\r\n",
    "nothing": b"\r\n\r\n",
    "more than it says": b"2\r\n{  }\r\n0\r\n\r\n",
    "a bare line feed": b"5\n{    \n0\n\n",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("bodies")) as running:
        yield running


@pytest.fixture(autouse=True)
def _goes_on(served: Served) -> Iterator[None]:
    """After every attack the same server answers as before."""
    yield
    with connected(served.base_url) as wire:
        wire.send(head("POST", "/v1/recipes/validate", "content-length: 2", key=FIRST_KEY), b"{}")
        assert wire.answer().error["param"] == "recipe"


def _posted(wire: Wire, target: str, *lines: str, kind: str = "application/json") -> bytes:
    return head("POST", target, *lines, key=FIRST_KEY, kind=kind)


def _endless() -> Iterator[bytes]:
    return itertools.repeat(chunk(MIB))


@pytest.mark.row("INP-01")
@pytest.mark.parametrize(("method", "path", "kind", "cap"), ROUTES)
def test_what_announces_too_much_is_refused_before_it_is_sent(
    served: Served, method: str, path: str, kind: str, cap: int
) -> None:
    lines = f"content-length: {cap + 1}", "expect: 100-continue"
    with peak_growth(served.process.pid) as growth, connected(served.base_url) as wire:
        wire.send(head(method, path, *lines, key=FIRST_KEY, kind=kind))
        answer = wire.answer()  # no 100 before it: nothing is wanted
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert answer.is_last
        assert wire.is_closed()
        assert growth() < 2 * 2**20


@pytest.mark.row("INP-01")
@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
def test_an_endless_body_is_cut_off_at_its_cap(served: Served, method: str, path: str) -> None:
    with peak_growth(served.process.pid) as growth, connected(served.base_url) as wire:
        wire.send(head(method, path, CHUNKED, key=FIRST_KEY))
        assert not wire.send_all(itertools.islice(_endless(), 4 * CAP // 2**20))
        answer = wire.answer()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert answer.is_last
        assert wire.num_sent < 2 * CAP
        assert growth() < CAP + SLACK


@pytest.mark.row("INP-01")
@pytest.mark.faults
@pytest.mark.parametrize(("method", "path", "num_bytes"), UPLOAD_ROUTES)
def test_an_endless_upload_is_cut_off_at_its_cap(
    served: Served, tmp_path: Path, method: str, path: str, num_bytes: int
) -> None:
    opening = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with peak_growth(served.process.pid) as growth, connected(served.base_url) as wire:
        wire.send(head(method, path, CHUNKED, key=FIRST_KEY, kind=FORM), chunk(opening))
        assert not wire.send_all(itertools.islice(_endless(), num_bytes // 2**20 + 200))
        assert wire.answer().error["code"] == "request_too_large"
        assert growth() < 2 * SLACK, "an upload goes to the disk"
    assert list((served.data_dir / "blobs").iterdir()) == []


@pytest.mark.row("INP-01")
@pytest.mark.parametrize("name", LENGTHS)
def test_a_length_that_is_none_is_refused(served: Served, name: str) -> None:
    with connected(served.base_url) as wire:
        lines = (f"content-length: {LENGTHS[name]}",)
        wire.send(head("POST", "/v1/keys", *lines, key=FIRST_KEY), b"{}" + SMUGGLED)
        answer = wire.answer()
        assert answer.status in {400, 413}, answer
        assert answer.error["code"] in {"invalid_value", "request_too_large"}
        assert answer.is_last
        assert wire.is_closed(), "what follows must not be read as a request"


@pytest.mark.row("INP-01")
@pytest.mark.parametrize("name", FRAMINGS)
def test_a_body_that_two_parsers_could_delimit_differently_is_refused(
    served: Served, name: str
) -> None:
    with connected(served.base_url) as wire:
        body = b"0\r\n\r\n" + SMUGGLED
        wire.send(head("POST", "/v1/keys", *FRAMINGS[name], key=FIRST_KEY), body)
        assert wire.answer().error["code"] == "invalid_value"
        assert wire.is_closed(), "what follows must not be read as a request"


@pytest.mark.row("INP-01")
@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_that_is_malformed_is_refused(served: Served, name: str) -> None:
    with connected(served.base_url) as wire:
        wire.send(head("POST", "/v1/keys", CHUNKED, key=FIRST_KEY), CHUNKS[name])
        assert wire.answer().error["code"] == "invalid_value"
        assert wire.is_closed()


TRAILERS = {
    "a value without end": b"x: " + b"y" * 64 * 2**20,
    "a name without end": b"y" * 64 * 2**20,
    "headers without end": b"x: y\r\n" * 2**22,
    "a chunk's extension": b"1;x=" + b"y" * 64 * 2**20,
}


@pytest.mark.row("INP-01", "INP-03")
@pytest.mark.parametrize("name", TRAILERS)
def test_what_comes_as_a_body_and_is_none_is_bounded_too(served: Served, name: str) -> None:
    opening = b"" if "chunk" in name else b"0\r\n"
    with peak_growth(served.process.pid) as growth, connected(served.base_url) as wire:
        wire.send(head("POST", "/v1/keys", CHUNKED, key=FIRST_KEY), chunk(b"{"), opening)
        assert not wire.send(TRAILERS[name])
        assert wire.answer().error["code"] == "invalid_value"
        assert growth() < 2 * 2**20


@pytest.mark.row("INP-01", "INP-03")
def test_what_comes_behind_a_body_is_no_header(served: Served) -> None:
    body = b'{"recipe": {}}'
    trailer = b"0\r\nauthorization: Bearer %s\r\n\r\n" % FIRST_KEY.encode()
    with connected(served.base_url) as wire:
        wire.send(head("POST", "/v1/recipes/validate", CHUNKED) + chunk(body) + trailer)
        assert wire.answer().status == 401
    with connected(served.base_url) as wire:
        sent = head("POST", "/v1/recipes/validate", CHUNKED, key=FIRST_KEY)
        wire.send(sent + chunk(body) + trailer)
        assert wire.answer().error["param"] == "recipe.task"


@pytest.mark.row("INP-01")
def test_a_body_that_is_shorter_than_it_says_is_not_acted_on(served: Served) -> None:
    with connected(served.base_url) as wire:
        body = b'{"name": "short"}'
        wire.send(head("POST", "/v1/keys", f"content-length: {len(body) + 1}", key=FIRST_KEY), body)
        wire.finish()
        assert wire.is_closed()
    with served.witness.client() as http:
        assert "short" not in [key["name"] for key in http.get("/v1/keys").json()["data"]]


@pytest.mark.row("INP-01")
def test_a_body_that_is_longer_than_it_says_ends_where_it_said(served: Served) -> None:
    body = b'{"recipe": {}}'
    sent = head("POST", "/v1/recipes/validate", f"content-length: {len(body)}", key=FIRST_KEY)
    with connected(served.base_url) as wire:
        wire.send(sent + body)
        assert wire.answer().error["param"] == "recipe.task"
        wire.send(b"x" * 100)
        assert wire.answer().error["code"] == "invalid_value", "the rest is no request"
        assert wire.is_closed()
    with connected(served.base_url) as wire:
        wire.send(sent + body + b"x" * 100)
        assert wire.is_closed(), "an answer under way is cut off, not followed by another's"


@pytest.mark.row("INP-01")
def test_the_official_client_is_told_that_a_body_is_too_large(served: Served) -> None:
    messages = [ChatCompletionUserMessageParam(role="user", content="x" * (CAP + 1))]
    with served.openai(max_retries=0) as sdk, pytest.raises(APIStatusError) as raised:
        sdk.chat.completions.create(model="none", messages=messages)
    assert raised.value.status_code == 413


BOMB_BYTES = 64 * 2**20


def _bomb(encoding: str) -> bytes:
    plain = b" " * BOMB_BYTES
    return gzip.compress(plain) if "gzip" in encoding else zlib.compress(plain)


@pytest.mark.row("INP-09")
@pytest.mark.parametrize(
    "encoding", ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, gzip", "identity, gzip", "GZIP"]
)
def test_an_encoded_body_is_refused_and_never_inflated(served: Served, encoding: str) -> None:
    body = _bomb(encoding)
    lines = f"content-encoding: {encoding}", f"content-length: {len(body)}"
    with peak_growth(served.process.pid) as growth:
        for method, path, kind, _ in ROUTES:
            with connected(served.base_url) as wire:
                wire.send(head(method, path, *lines, key=FIRST_KEY, kind=kind), body)
                assert _415(wire.answer())
        assert growth() < SLACK


@pytest.mark.row("INP-09")
@pytest.mark.parametrize(
    "lines",
    [
        ("content-encoding: identity", "content-encoding: gzip"),
        ("content-encoding: gzip", "content-encoding: gzip"),
    ],
)
def test_encodings_of_several_headers_are_all_seen(served: Served, lines: tuple[str, ...]) -> None:
    for method, path, kind, _ in ROUTES:
        with connected(served.base_url) as wire:
            wire.send(
                head(method, path, *lines, "content-length: 2", key=FIRST_KEY, kind=kind), b"{}"
            )
            assert _415(wire.answer())


@pytest.mark.row("INP-09")
@pytest.mark.parametrize("encoding", ["gzip, chunked", "deflate, chunked", "chunked, chunked"])
def test_a_coded_transfer_is_refused(served: Served, encoding: str) -> None:
    with connected(served.base_url) as wire:
        body = chunk(gzip.compress(b'{"recipe": {}}')) + b"0\r\n\r\n"
        wire.send(
            head("POST", "/v1/recipes/validate", f"transfer-encoding: {encoding}", key=FIRST_KEY),
            body,
        )
        answer = wire.answer()
        assert answer.status in {400, 415}, answer
        assert answer.is_last


KINDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "text": ("text/plain",),
    "nearly": ("application/jsonp",),
    "a pattern": ("*/*",),
    "two": ("application/json", "text/plain"),
    "the same twice": ("application/json", "application/json"),
    "two in one": ("application/json, text/plain",),
    "a form": ("application/x-www-form-urlencoded",),
    "multipart": (FORM,),
    "empty": ("",),
}


@pytest.mark.row("INP-09")
@pytest.mark.parametrize("name", KINDS)
def test_another_content_type_than_the_routes_own_is_refused(served: Served, name: str) -> None:
    lines = [f"content-type: {kind}" for kind in KINDS[name]]
    for method, path, kind, _ in ROUTES:
        if kind in KINDS[name] and len(lines) == 1:
            continue
        with connected(served.base_url) as wire:
            sent = head(method, path, *lines, "content-length: 2", key=FIRST_KEY, kind="")
            wire.send(sent, b"{}")
            assert _415(wire.answer()), path


def _415(answer: Answer) -> bool:
    assert answer.status == 415, answer
    return bool(answer.error["code"] == "unsupported_media_type")
