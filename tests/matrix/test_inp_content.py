"""Content that is not what it seems: objects in disguise, names that are headers."""

import base64
import json
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from tests.conftest import FIRST_KEY
from tests.matrix.raw import chunk, connected, head
from tests.matrix.routes import JSON_ROUTES

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

FORM = "multipart/form-data; boundary=b"
_unpacked: list[str] = []


def _watch(event: str, args: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        _unpacked.append(f"{args!r:.100}")


sys.addaudithook(_watch)  # cannot be taken off again


@pytest.fixture
def unpacked() -> list[str]:
    """What has been looked up for a pickle, by anybody in this process, since the test began."""
    _unpacked.clear()
    return _unpacked


class _Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


EMBEDS = ("prompt_embeds", "image_embeds", "inputs_embeds", "input_embeds", "embeds", "tensors")


def _disguised(canary: Path) -> list[Any]:
    pickled = pickle.dumps(_Canary(canary))
    zipped = b"PK\x03\x04" + bytes(26) + pickled
    values: list[Any] = [
        base64.b64encode(data).decode() for data in (pickled, zipped, b"\x93NUMPY")
    ]
    values += [
        {"dtype": "float32", "shape": [2**62, 2**62], "data": ""},
        {"layout": "sparse_coo", "indices": [[-1], [2**40]], "values": [1.0], "size": [1]},
        [[float(i) for i in range(8)]],
        [[[1.0]]],
        [[-1e308]],
        {"__reduce__": ["os.system", ["true"]]},
    ]
    return values


@pytest.mark.row("INP-19")
def test_tensors_are_no_input_and_nothing_unpacks_them(
    held: "Held", unpacked: list[str], tmp_path: Path
) -> None:
    num_asked, canary = held.num_engine_requests, tmp_path / "canary"
    disguised = _disguised(canary)
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(_Canary(tmp_path / "none" / "canary")))  # noqa: S301 (ours)
    assert unpacked, "the watch sees what is unpacked"
    unpacked.clear()
    for name in EMBEDS:
        for value in disguised:
            for _, path in JSON_ROUTES:
                answer = held.http.post(path, json={name: value})
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (400, "invalid_value"), error
    assert held.num_engine_requests == num_asked
    assert not canary.exists()
    assert unpacked == []


@pytest.mark.row("INP-19")
def test_a_tensor_beside_a_prompt_is_refused_by_name(held: "Held", tmp_path: Path) -> None:
    num_asked = held.num_engine_requests
    messages = [{"role": "user", "content": "hi"}]
    for name in EMBEDS:
        for value in _disguised(tmp_path / "canary"):
            for path, given in (
                ("/v1/completions", {"prompt": "hi"}),
                ("/v1/chat/completions", {"messages": messages}),
                ("/v1/classify", {"input": "hi"}),
            ):
                body = json.dumps({"model": held.model, name: value} | given)
                answer = held.http.post(
                    path, content=body, headers={"content-type": "application/json"}
                )
                assert answer.json()["error"]["param"] == name
    parts = [{"type": "prompt_embeds", "prompt_embeds": "gASVAAAA"}]
    body_of = {"model": held.model, "messages": [{"role": "user", "content": parts}]}
    answer = held.http.post("/v1/chat/completions", json=body_of)
    assert answer.json()["error"]["param"].startswith("messages.0.content")
    assert held.num_engine_requests == num_asked


NAMES = {
    "a quote": 'a"; filename="b.html',
    "a quote, escaped": 'a\\"b.txt',
    "quotes in percent": "a%22b.txt",
    "a new line in percent": "a%0d%0aSet-Cookie: x=1.txt",
    "a semicolon": "a; filename*=UTF-8''b.html",
    "beyond Latin": "\u6570\u636e \U0001f600.csv",
    "accents": "na\u00efve r\u00e9sum\u00e9.txt",
    "right to left": "a\u202egnp.exe",
    "a dash that splits lines": "a\u2028b\u2029c.txt",
    "markup": "<svg onload=alert(1)>.svg",
    "255 characters": "\u00e9" * 255,
    "dots": "...",
    "a device": "CON",
    "spaces": "  a  ",
}


def _stored(held: "Held", name: bytes) -> tuple[int, dict[str, Any]]:
    """Upload with the bytes of a name as they are, and return the status and the answer."""
    part = b'--b\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    file = part % (b"file", b'; filename="' + name + b'"', b"<html>")
    body = file + part % (b"purpose", b"", b"user_data") + b"--b--\r\n"
    with connected(held.server.base_url) as wire:
        length = f"content-length: {len(body)}"
        wire.send(head("POST", "/v1/files", length, key=FIRST_KEY, kind=FORM), body)
        answer = wire.answer()
        found: dict[str, Any] = json.loads(answer.body)
        return answer.status, found


def _check_download(held: "Held", file_id: str) -> str:
    """Fetch the bytes and return the name that the one header gives them."""
    with connected(held.server.base_url) as wire:
        wire.send(head("GET", f"/v1/files/{file_id}/content", key=FIRST_KEY))
        answer = wire.answer()
        assert answer.body.endswith(b"<html>")
        assert len(answer.headers) == len({name for name, _ in answer.headers})
        assert "set-cookie" not in dict(answer.headers)
        assert answer.header("content-type") == "application/octet-stream"
        assert answer.header("x-content-type-options") == "nosniff"
        disposition = answer.header("content-disposition")
        wire.send(head("GET", "/healthz"))
        assert wire.answer().body == b'{"status":"ok"}', "nothing is left over of the answer"
    kind, _, rest = disposition.partition('; filename="')
    plain, _, encoded = rest.partition("\"; filename*=UTF-8''")
    assert kind == "attachment"
    assert '"' not in plain
    assert disposition.isascii()
    assert not set(encoded) & set(" ;\"'\\")
    return unquote(encoded)


@pytest.mark.row("INP-21")
@pytest.mark.parametrize("name", NAMES)
def test_a_stored_name_comes_back_in_one_header(held: "Held", name: str) -> None:
    escaped = NAMES[name].replace("\\", "\\\\").replace('"', '\\"')
    status, made = _stored(held, escaped.encode())
    assert status == 200, made
    assert _check_download(held, made["id"]) == made["filename"]


@pytest.mark.row("INP-21")
@pytest.mark.parametrize(
    "name",
    [
        b"a\r\nx-injected: 1\r\n\r\n",
        b"a\nb",
        b"a\rb",
        b"a\0b",
        b"a\x7fb",
        b"a\tb",
        b"\xff\xfe",
        b"\x1b[31m",
        b"\xc2\x85",
        b"",
    ],
)
def test_a_name_with_control_characters_is_not_stored(held: "Held", name: bytes) -> None:
    status, made = _stored(held, name)
    if status == 200:
        told = _check_download(held, made["id"])
        assert told == made["filename"]
        assert told.isprintable()
        assert told
    else:
        assert status == 400, made
        assert made["error"]["code"] == "invalid_value"


@pytest.mark.row("INP-21")
def test_a_name_in_the_other_spelling_of_the_header_is_none(held: "Held") -> None:
    """`filename*` could smuggle in what `filename` does not hold."""
    part = (
        b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename*=UTF-8''a%0d%0ab\r\n\r\nx"
    )
    body = part + b"\r\n--b--\r\n"
    with connected(held.server.base_url) as wire:
        line = "transfer-encoding: chunked"
        wire.send(head("POST", "/v1/files", line, key=FIRST_KEY, kind=FORM), chunk(body))
        wire.send(b"0\r\n\r\n")
        assert wire.answer().status == 400
