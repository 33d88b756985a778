"""Fetching: pinned to checked addresses, each redirect checked again, bounded, echoing nothing."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    PurveyError,
    RequestTooLargeError,
    UpstreamNotAllowedError,
    UrlNotAllowedError,
)
from purvey.network import resolving
from purvey.network.outbound import BrokenOffError, Outbound
from purvey.testing.certificate import make_certificate
from purvey.testing.https_double import Answer, HttpsDouble, Listener, answer_of
from tests.unit.network.conftest import HOST, Names
from tests.unit.network.test_addresses import INTERNAL

Serve = Callable[..., HttpsDouble]
URL = f"https://{HOST}/a.png"
SECRET = b"an internal page"


def always(*pieces: bytes) -> Answer:
    return lambda _path: pieces


async def fetch(outbound: Outbound, url: str = URL, *, max_bytes: int = 1_000) -> bytes:
    return await outbound.fetch(url, param="input.image", max_bytes=max_bytes)


async def refused(
    outbound: Outbound, error: type[PurveyError], url: str = URL, *, max_bytes: int = 1_000
) -> str:
    with pytest.raises(error) as refusal:
        await fetch(outbound, url, max_bytes=max_bytes)
    assert type(refusal.value) is error
    assert refusal.value.param == "input.image"
    assert "internal" not in refusal.value.text
    assert "127." not in refusal.value.text
    return refusal.value.text


async def test_what_an_allowed_host_serves_is_returned_byte_by_byte(
    outbound: Outbound, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    double = serve(always(answer_of(200, b"\x89PNG\x00", set_cookie="a=1; Path=/")))
    assert await fetch(outbound, f"https://{HOST}/a%20b?c=d#e") == b"\x89PNG\x00"
    assert await fetch(outbound) == b"\x89PNG\x00"
    first, second = (head.lower() for head in double.heads)
    assert first.startswith("get /a%20b?c=d http/1.1\r\n")
    assert f"\r\nhost: {HOST}\r\n" in first
    assert "\r\naccept-encoding: identity\r\n" in first
    assert "cookie" not in second
    assert "authorization" not in first


async def test_the_name_of_the_host_is_what_its_certificate_is_checked_for(
    names: Names, outbound: Outbound, serve: Serve
) -> None:
    """The certificate is for other names, or nobody vouches for it."""
    double = serve(always(answer_of(200, SECRET)), "evil.example")
    assert "certificate" in await refused(
        outbound, UpstreamNotAllowedError, "https://evil.example/a"
    )
    unknown = serve(always(answer_of(200, SECRET)), shown=make_certificate(HOST))
    await refused(outbound, UpstreamNotAllowedError)
    assert (double.heads, unknown.heads) == ([], [])
    assert (double.num_connections, unknown.num_connections) == (1, 1)


async def test_plain_http_behind_the_port_is_no_answer(
    names: Names, outbound: Outbound, canary: Listener
) -> None:
    names.put(HOST, "127.0.0.1", port=canary.port)
    await refused(outbound, UpstreamNotAllowedError)
    assert canary.num_connections == 1


async def test_the_canary_sees_who_reaches_it(names: Names, canary: Listener) -> None:
    """Without the policy the same fetch gets there; else the canaries below prove nothing."""
    careless = Outbound((HOST,), resolver=names, may_connect=lambda _address: True)
    for number, address in enumerate(("127.0.0.1", "127.0.0.2", "0.0.0.0"), start=1):
        names.put(HOST, address, port=canary.port)
        await refused(careless, UpstreamNotAllowedError)
        assert canary.num_connections == number


@pytest.mark.row("NET-01")
@pytest.mark.parametrize("address", [a for a in INTERNAL if a != "127.0.0.1"])
async def test_a_name_that_leads_inside_is_not_connected_to(
    outbound: Outbound, names: Names, canary: Listener, address: str
) -> None:
    names.put(HOST, address, port=canary.port)
    assert "not public" in await refused(outbound, UrlNotAllowedError)
    names.put(HOST, "1.1.1.1", address, port=canary.port)
    await refused(outbound, UrlNotAllowedError)
    assert canary.num_connections == 0


@pytest.mark.row("NET-01")
async def test_loopback_is_refused_by_the_policy_that_is_the_default(
    names: Names, canary: Listener
) -> None:
    names.put(HOST, "127.0.0.1", port=canary.port)
    await refused(Outbound((HOST,), resolver=names), UrlNotAllowedError)
    assert canary.num_connections == 0


@pytest.mark.row("NET-01")
async def test_a_name_is_looked_up_once_for_a_connection(
    outbound: Outbound, names: Names, serve: Serve, canary: Listener
) -> None:
    """DNS rebinding: the second look-up would lead inside, and is never made."""
    serve(always(answer_of(200, b"fine")))
    resolve = names.__call__

    async def rebinding(host: str, port: int) -> object:
        found = await resolve(host, port)
        names.put(host, "127.0.0.2", port=canary.port)
        return found

    outbound._resolve = rebinding  # type: ignore[assignment]  # the same, and then another
    assert await fetch(outbound) == b"fine"
    assert names.asked == [HOST]
    await refused(outbound, UrlNotAllowedError)
    assert canary.num_connections == 0


async def test_a_host_that_is_not_allowed_is_not_even_looked_up(
    outbound: Outbound, names: Names
) -> None:
    await refused(outbound, UrlNotAllowedError, "https://elsewhere.example/")
    await refused(Outbound(resolver=names), UrlNotAllowedError)
    assert names.asked == []


async def test_the_next_address_is_tried_when_one_does_not_accept(
    outbound: Outbound, names: Names, serve: Serve
) -> None:
    double = serve(always(answer_of(200, b"fine")))
    with Listener() as gone:
        nobody = gone.port
    names.known[HOST] = [
        resolving.Endpoint(address=names.known[HOST][0].address, port=nobody),
        *names.known[HOST],
    ]
    assert await fetch(outbound) == b"fine"
    assert double.num_connections == 1


async def test_a_name_without_an_address_is_a_failure_of_the_outside(outbound: Outbound) -> None:
    await refused(outbound, UpstreamNotAllowedError)


@pytest.mark.row("NET-03")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        *("https://127.0.0.2/", "https://127.0.0.1/", "https://localhost/", "https://[::1]/"),
        *("https://2130706433/", "https://inside.images.example/", "//127.0.0.2/"),
        *("https://elsewhere.example/", "http://images.example/", "http://127.0.0.2/"),
        *("file:///etc/passwd", "gopher://127.0.0.2/", "data:text/plain,a", "ftp://images.example"),
        *("https://images.example@127.0.0.2/", "https://[::1", "\\\\127.0.0.2\\", ""),
    ],
)
async def test_a_redirect_to_what_is_not_allowed_ends_there(
    outbound: Outbound,
    names: Names,
    serve: Serve,
    canary: Listener,
    status: int,
    location: str,
) -> None:
    double = serve(always(answer_of(status, SECRET, location=location)))
    names.put("inside.images.example", "127.0.0.2", port=canary.port)
    await refused(outbound, UpstreamNotAllowedError)
    assert canary.num_connections == 0
    assert double.num_connections == 1


@pytest.mark.row("NET-03")
async def test_three_redirects_are_followed_and_a_fourth_is_not(
    outbound: Outbound, serve: Serve
) -> None:
    """Absolute, without a scheme, absolute path, and relative."""
    places = {
        "/a.png": "https://cdn.images.example/1",
        "/1": "//cdn.images.example/2/3",
        "/2/3": "../4",
        "/4": "5",
        "/5": "6",
    }

    def answer(path: str) -> Iterable[bytes]:
        if path in places and path not in end:
            return [answer_of(302, SECRET, location=places[path])]
        return [answer_of(200, path.encode())]

    end = {"/4"}
    double = serve(answer)
    serve(answer, "cdn.images.example")
    assert await fetch(outbound) == b"/4"
    end = set()
    assert "3 times" in await refused(outbound, UpstreamNotAllowedError)
    assert double.num_connections == 2


@pytest.mark.row("NET-03")
async def test_a_loop_is_left_after_three_redirects(outbound: Outbound, serve: Serve) -> None:
    double = serve(always(answer_of(302, location="/a.png")))
    await refused(outbound, UpstreamNotAllowedError)
    assert double.num_connections == LIMITS.redirects + 1


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 401, 403, 404, 500, 503])
async def test_any_other_answer_is_no_content_and_is_not_echoed(
    outbound: Outbound, serve: Serve, status: int
) -> None:
    serve(always(answer_of(status, b"" if status in {204, 304} else SECRET)))
    assert str(status) in await refused(outbound, UpstreamNotAllowedError)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
async def test_an_encoded_answer_is_not_decoded(
    outbound: Outbound, serve: Serve, encoding: str
) -> None:
    serve(always(answer_of(200, SECRET, content_encoding=encoding)))
    await refused(outbound, UpstreamNotAllowedError)


@pytest.mark.parametrize(("size", "is_taken"), [(999, True), (1_000, True), (1_001, False)])
@pytest.mark.parametrize("is_chunked", [True, False])
async def test_content_may_have_the_limit_and_no_more(
    outbound: Outbound, serve: Serve, size: int, *, is_taken: bool, is_chunked: bool
) -> None:
    body = b"a" * size
    chunked = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    serve(always(chunked % (size, body) if is_chunked else answer_of(200, body)))
    if is_taken:
        assert await fetch(outbound) == body
    else:
        await refused(outbound, RequestTooLargeError)


async def test_content_without_end_is_left_at_the_limit(outbound: Outbound, serve: Serve) -> None:
    num_sent = 0

    def endless(_path: str) -> Iterator[bytes]:
        nonlocal num_sent
        yield b"HTTP/1.1 200 X\r\n\r\n"
        while True:
            num_sent += 1
            yield bytes(2**16)

    serve(endless)
    await refused(outbound, RequestTooLargeError, max_bytes=2**20)
    assert num_sent < 1_000, "what the sockets buffer, not what it would send"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff garbage",
        b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 X\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 X\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 X\r\nbroken\r\n\r\n",
        b"HTTP/1.1 99999 X\r\n\r\n",
        b"HTTP/1.1 200 X\r\n" + b"a: " + b"b" * 200_000,
    ],
)
async def test_an_answer_that_is_none_is_a_failure_of_the_outside(
    outbound: Outbound, serve: Serve, raw: bytes
) -> None:
    serve(always(raw))
    await refused(outbound, BrokenOffError)


async def test_an_answer_that_drips_ends_at_the_deadline(outbound: Outbound, serve: Serve) -> None:
    pause = threading.Event()

    def drip(_path: str) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 X\r\n\r\n"
        while True:
            pause.wait(0.02)
            yield b"a"

    serve(drip)
    outbound._deadline_s = 0.3
    assert "0.3 s" in await refused(outbound, UpstreamNotAllowedError, max_bytes=2**30)


async def test_as_many_fetches_run_as_may_and_leave_their_places(
    outbound: Outbound, serve: Serve
) -> None:
    may_go_on = threading.Event()

    def wait(_path: str) -> Iterator[bytes]:
        may_go_on.wait(10)
        yield answer_of(200, b"late")

    double = serve(wait)
    running = [asyncio.create_task(fetch(outbound)) for _ in range(LIMITS.running_fetches)]
    while len(double.heads) < LIMITS.running_fetches:  # noqa: ASYNC110 (of another thread)
        await asyncio.sleep(0.01)
    with pytest.raises(CapacityError):
        await fetch(outbound)
    running.pop().cancel()
    await asyncio.sleep(0)
    may_go_on.set()
    assert await asyncio.gather(*running) == [b"late"] * (LIMITS.running_fetches - 1)
    assert outbound._num_running == 0
    assert await fetch(outbound) == b"late"


async def test_the_machines_resolver_answers_with_what_can_be_checked() -> None:
    found = await resolving.resolve("localhost", 443)
    assert {str(endpoint.address) for endpoint in found} <= {"127.0.0.1", "::1"}
    assert {endpoint.port for endpoint in found} == {443}
    with pytest.raises(UrlNotAllowedError):
        await fetch(Outbound(("localhost",)), "https://localhost/")


async def test_the_machines_authorities_are_believed_unless_others_are_given(
    names: Names, serve: Serve
) -> None:
    """They do not vouch for the double: without a context of its own the client refuses it."""
    double = serve(always(answer_of(200, SECRET)))
    usual = Outbound((HOST,), resolver=names, may_connect=lambda _address: True)
    await refused(usual, UpstreamNotAllowedError)
    assert isinstance(usual._tls, ssl.SSLContext)
    assert (usual._tls.verify_mode, usual._tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (double.num_connections, double.heads) == (1, [])
