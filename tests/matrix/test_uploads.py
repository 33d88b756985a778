"""FIL-01, FIL-03, FIL-21: bodies that no client sends, uploads that break off, downloads."""

import os
import random
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psutil
import pytest

from purvey.contracts.limits import LIMITS
from tests.matrix.invariants import reading
from tests.matrix.raw import Answer, connected, head
from tests.matrix.waiting import wait_until

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

URL = "/v1/files"
PURPOSE = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,b\r\n'
END = b"--b--\r\n"
TYPE = "multipart/form-data; boundary=b"


def _part(name: str, value: bytes = b"x", *lines: bytes) -> bytes:
    disposition = b'content-disposition: form-data; name="%s"' % name.encode()
    return b"\r\n".join([b"--b", disposition, *lines, b"", value, b""])


@pytest.fixture(scope="module", autouse=True)
def _grown(_running: "Held") -> None:
    """Let the server's pools of threads grow to their size: that is no leak."""
    files, data = {"file": ("a", bytes(2 * 2**20))}, {"purpose": "user_data"}
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: _running.http.post(URL, files=files, data=data), range(48)))
    for answer in made:
        _running.http.delete(f"{URL}/{answer.json()['id']}").raise_for_status()


@pytest.fixture
def stored(held: "Held") -> Iterator[None]:
    """Assert that a test has left no file, no bytes and no temporary space."""
    before = _traces(held)
    yield
    wait_until(lambda: _traces(held) == before, patience_s=20)


def _traces(held: "Held") -> tuple[object, ...]:
    blobs = held.data_dir / "blobs"
    listed = held.http.get(URL, params={"limit": 100}).json()["data"]
    return ([file["id"] for file in listed], sorted(p.name for p in blobs.iterdir()), _spooled())


def _spooled() -> list[str]:
    """List the unnamed temporary files that this process, the server's too, has open."""
    folder, found = Path("/proc/self/fd"), []
    for entry in folder.iterdir():
        with suppress(OSError):
            found.append(str(entry.readlink()))
    return sorted(t for t in found if t.startswith("/tmp/") and t.endswith("(deleted)"))  # noqa: S108 (where it spools)


def _posted(held: "Held", parts: Iterator[bytes] | list[bytes], *, kind: str = TYPE) -> Answer:
    parts = list(parts)
    length = sum(map(len, parts))
    lines = (f"content-length: {length}", "connection: close")
    with connected(held.server.base_url, timeout_s=60) as wire:
        wire.send(head("POST", URL, *lines, key=held.server.admin_key, kind=kind), *parts)
        return wire.answer()


MIXED = b"content-type: multipart/mixed; boundary=c"
MALFORMED: dict[str, tuple[list[bytes], int]] = {
    "nothing": ([], 400),
    "only its end": ([END], 400),
    "no end": ([PURPOSE, FILE], 400),
    "no end of a part": ([PURPOSE, FILE[:-2]], 400),
    "no purpose": ([FILE, END], 400),
    "an empty purpose": ([_part("purpose", b""), FILE, END], 400),
    "a purpose twice": ([PURPOSE, PURPOSE, FILE, END], 400),
    "a purpose that is a file": (
        [PURPOSE.replace(b'"purpose"', b'"purpose"; filename="p"'), FILE, END], 400
    ),
    "no file": ([PURPOSE, END], 400),
    "a file that is a field": ([PURPOSE, _part("file"), END], 400),
    "two files": ([PURPOSE, FILE, FILE, END], 400),
    "a file and a field of its name": ([PURPOSE, FILE, _part("file"), END], 400),
    "nested": ([PURPOSE, _part("file", b"--c\r\n\r\nx\r\n--c--", MIXED), END], 400),
    "a thousand headers": ([PURPOSE, b"--b\r\n" + b"x: y\r\n" * 1_000, FILE, END], 400),
    "a header of a megabyte": ([PURPOSE, b"--b\r\nx: " + b"y" * 2**20 + b"\r\n", FILE, END], 400),
    "a header's name of a megabyte": ([PURPOSE, b"--b\r\n" + b"y" * 2**20, b": x\r\n", END], 400),
    "a header that never ends": ([PURPOSE, b"--b\r\nx: " + b"y" * 2**20], 400),
    "a field of a megabyte": ([_part("purpose", b"y" * 2**20), FILE, END], 400),
    "a name of a megabyte": ([_part("y" * 2**20), PURPOSE, FILE, END], 400),
    "a file name of 4,000 characters": ([PURPOSE, FILE.replace(b"a.csv", b"n" * 4_000), END], 400),
    "NUL in a name": ([_part("purp\0ose"), FILE, END], 400),
    "no name": ([b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n", FILE, END], 400),
    "ten thousand parts": ([PURPOSE, _part("x") * 10_000, FILE, END], 400),
    "ten thousand files": ([PURPOSE, FILE * 10_000, END], 400),
    "line feeds alone": ([PURPOSE.replace(b"\r\n", b"\n"), FILE, END], 400),
}  # fmt: skip


@pytest.mark.row("FIL-01")
@pytest.mark.parametrize("what", MALFORMED)
def test_a_body_that_is_malformed_is_one_refusal(held: "Held", stored: None, what: str) -> None:
    parts, status = MALFORMED[what]
    answer = _posted(held, parts)
    assert (answer.status, answer.error["code"]) == (status, "invalid_value")
    assert len(answer.body) < 1_000


@pytest.mark.row("FIL-01")
def test_so_it_is_in_pieces(held: "Held", stored: None) -> None:
    """Each piece is parsed alone: what is kept between two must not be copied with every one."""
    for what, (parts, status) in MALFORMED.items():
        body = b"".join(parts)
        step = max(1, len(body) // 200)
        answer = _posted(held, [body[i : i + step] for i in range(0, len(body), step)])
        assert (answer.status, answer.error["code"]) == (status, "invalid_value"), what


@pytest.mark.row("FIL-01")
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "b" * 10_240, 400),
        ('multipart/form-data; boundary="b\\"', 400),
        ("multipart/form-data; boundary=ä", 400),
        ("multipart/form-data; boundary=c", 400),
        ("multipart/mixed; boundary=b", 415),
        ("application/x-www-form-urlencoded", 415),
    ],
    ids=lambda given: str(given)[:40],
)
def test_a_boundary_is_one_that_there_is(
    held: "Held", stored: None, kind: str, status: int
) -> None:
    answer = _posted(held, [PURPOSE, FILE, END], kind=kind)
    assert answer.status == status
    assert answer.error["code"] in {"invalid_value", "unsupported_media_type"}


@pytest.mark.row("FIL-01")
@pytest.mark.parametrize("boundary", ["b" * 70, "'()+_,-./:=?", "=_=b"])
def test_the_order_of_parts_and_any_boundary_are_the_clients(held: "Held", boundary: str) -> None:
    ours = boundary.encode()
    for parts in ([PURPOSE, FILE, END], [FILE, PURPOSE, END], [PURPOSE, FILE, END, b"\r\nbehind"]):
        body = b"".join(parts).replace(b"--b", b"--" + ours)
        answer = _posted(held, [body], kind=f'multipart/form-data; boundary="{boundary}"')
        assert answer.status == 200, answer.body
    for file in held.http.get(URL).json()["data"]:
        held.http.delete(f"{URL}/{file['id']}").raise_for_status()


def _endless(piece: bytes, num_bytes: int) -> Iterator[bytes]:
    for _ in range(num_bytes // len(piece) + 1):
        yield piece


@pytest.mark.row("FIL-01")
@pytest.mark.faults
@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (PURPOSE, _part("x") * 1_000),
        (PURPOSE, FILE * 1_000),
        (PURPOSE + b"--b\r\n", b"x: y\r\n" * 10_000),
        (PURPOSE + b"--b\r\nx: ", b"y" * 2**16),
        (PURPOSE + b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n', b"\r\n--" * 2**14),
    ],
    ids=["parts", "files", "headers", "one header", "a field of near-boundaries"],
)
def test_a_body_without_end_is_given_up_early(
    held: "Held", stored: None, first: bytes, piece: bytes
) -> None:
    """As much as a file may have, of what is no file: refused when the first limit is met."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    length = LIMITS.upload_bytes
    line = f"content-length: {length}"
    with connected(held.server.base_url, timeout_s=120) as wire:
        request = head("POST", URL, line, key=held.server.admin_key, kind=TYPE)
        assert wire.send(request, first)
        with suppress(OSError):
            wire.send_all(_endless(piece, length))
        assert wire.num_sent < length // 4
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1_024 < 128 * 2**20


def _offsets(length: int, count: int, seed: int) -> list[int]:
    chance = random.Random(seed)  # noqa: S311 (where it breaks, not a secret)
    fixed = [0, 1, length // 2, length * 99 // 100, length - 1, length]
    return fixed + [chance.randrange(length) for _ in range(count)]


def _break_off(held: "Held", request: bytes, body: bytes, offset: int) -> None:
    host, _, port = held.server.base_url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        connection.sendall(body[:offset])
        linger = struct.pack("ii", 1, 0)  # closing sends a reset, and drops what waits
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.mark.row("FIL-03")
@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.faults)])
@pytest.mark.parametrize("size", [5_000, 3 * 2**20], ids=["in memory", "on disk"])
def test_an_upload_that_is_reset_leaves_nothing(held: "Held", count: int, size: int) -> None:
    """At the last byte the reset may come too late: the file is then whole, or not there."""
    before = _traces(held)
    content = os.urandom(size)
    body = b"".join([PURPOSE, FILE.replace(b"a,b", content), END])
    line = f"content-length: {len(body)}"
    request = head("POST", URL, line, key=held.server.admin_key, kind=TYPE)
    for offset in _offsets(len(body), count, seed=size):
        if offset < len(body):
            _break_off(held, request, body, offset)
    wait_until(lambda: _traces(held) == before, patience_s=20)
    _wait_in_line(held)
    for _ in range(5):
        _break_off(held, request, body, len(body))
    _wait_in_line(held)
    wait_until(lambda: _is_settled(held, before[2]), patience_s=20)
    for file in held.http.get(URL, params={"limit": 100}).json()["data"]:
        if file["id"] not in before[0]:  # type: ignore[operator]  # a list of ids
            assert held.http.get(f"{URL}/{file['id']}/content").content == content
            held.http.delete(f"{URL}/{file['id']}").raise_for_status()


def _wait_in_line(held: "Held") -> None:
    """Be answered on a new connection: those made before have been accepted by then."""
    for _ in range(3):
        with connected(held.server.base_url) as wire:
            wire.send(head("GET", "/healthz", kind=""))
            assert wire.answer().status == 200


def _is_settled(held: "Held", spooled: object) -> bool:
    """Tell whether for a while nothing is on its way, and every blob has its row."""
    pause = threading.Event()
    for _ in range(20):
        with reading(held.data_dir) as db:
            named = {row[0] for row in db.execute("SELECT sha256 FROM files")}
        present = {path.name for path in (held.data_dir / "blobs").iterdir()}
        if (named, spooled) != (present, _spooled()):
            return False
        pause.wait(0.05)
    return True


@pytest.mark.row("FIL-03")
def test_uploads_that_break_off_hold_no_memory(held: "Held") -> None:
    content = b"x" * 2**20
    body = b"".join([PURPOSE, FILE.replace(b"a,b", content * 2), END])
    request = head(
        "POST", URL, f"content-length: {len(body)}", key=held.server.admin_key, kind=TYPE
    )
    spooled = _spooled()
    for _ in range(10):
        _break_off(held, request, body, len(body) // 2)
    before = psutil.Process().memory_info().rss
    for _ in range(100):
        _break_off(held, request, body, len(body) // 2)
    wait_until(lambda: _spooled() == spooled, patience_s=20)
    assert psutil.Process().memory_info().rss - before < 48 * 2**20


PAGES: dict[str, bytes] = {
    "page.html": b"<!doctype html><script>alert(document.domain)</script>",
    "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "program.js": b"alert(1)",
    "style.css": b"@import url('//evil')",
    "page.xhtml": b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>',
    "a.pdf": b"%PDF-1.7 /JS (app.alert(1))",
    "GIF89a.gif": b"GIF89a/*<script>*/=1;alert(1)",
    "no ending": b"<html><body onload=alert(1)>",
}
NAMES = [
    'a"; filename="b.html',
    "a\r\nset-cookie: a=b",
    "a\nset-cookie: a=b",
    "%0d%0aset-cookie: a=b",
    "naïve 数据 😀.csv",
    "\u202egnp.exe",
    "a;b=c.txt",
    "..",
    " ",
    "a\\b/c",
    "CON.txt",
]


RANGES = ("bytes=0-0", "bytes=5-2", "bytes=0-,0-,0-", "bytes=-1", "x")


@pytest.mark.row("FIL-21")
def test_a_page_comes_back_as_an_attachment(held: "Held") -> None:
    for name, page in PAGES.items():
        with held.server.openai() as sdk:
            made = sdk.files.create(file=(name, page, "text/html"), purpose="user_data")
        path = f"{URL}/{made.id}/content"
        for wanted in ({}, *({"range": given, "if-range": "x"} for given in RANGES)):
            headers = {"accept": "text/html", **wanted}
            answer = held.http.get(path, headers=headers)
            assert (answer.status_code, answer.content) == (200, page)
            _check_safe(answer)
            answer = held.http.head(path, headers=headers)
            assert (answer.status_code, answer.content) == (200, b"")
            _check_safe(answer)
        held.http.delete(f"{URL}/{made.id}").raise_for_status()


def _check_safe(answer: httpx2.Response) -> None:
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith('attachment; filename="')
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["accept-ranges"] == "none"
    assert "content-range" not in answer.headers
    assert "set-cookie" not in answer.headers


@pytest.mark.row("FIL-21")
def test_no_name_reaches_beyond_its_header(held: "Held") -> None:
    for name in NAMES:
        with held.server.openai() as sdk:
            made = sdk.files.create(file=(name, b"x"), purpose="user_data")
            assert sdk.files.content(made.id).content == b"x"
        answer = held.http.get(f"{URL}/{made.id}/content")
        _check_safe(answer)
        disposition = answer.headers["content-disposition"]
        assert disposition.isascii()
        assert disposition.isprintable()
        assert disposition.count('"') == 2
        assert disposition.count(";") <= 3
        assert not set(made.filename) & set("/\\\r\n\0"), name
        held.http.delete(f"{URL}/{made.id}").raise_for_status()
