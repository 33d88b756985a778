"""Files through the official client, and uploads that are refused."""

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import NotFoundError, OpenAI
from openai.types import FileDeleted, FileObject
from starlette.datastructures import UploadFile

from purvey.contracts.limits import LIMITS
from purvey.server import uploads
from purvey.server.openai import files

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

DATA = {"purpose": "user_data"}
PURPOSE = ("purpose", (None, "batch"))


def test_a_file_has_every_field_of_the_sdk(sdk: OpenAI) -> None:
    made = sdk.files.create(file=("notes.txt", b"some notes"), purpose="user_data")
    FileObject.model_validate(made.to_dict())
    assert (made.filename, made.bytes, made.purpose) == ("notes.txt", 10, "user_data")
    assert sdk.files.retrieve(made.id) == made
    assert sdk.files.content(made.id).read() == b"some notes"


def test_a_deleted_file_is_gone_with_its_bytes(sdk: OpenAI, api: "RunningServer") -> None:
    made = sdk.files.create(file=("gone.txt", b"soon to be gone 4711"), purpose="user_data")
    deleted = sdk.files.delete(made.id)
    FileDeleted.model_validate(deleted.to_dict())
    assert deleted.deleted
    with pytest.raises(NotFoundError):
        sdk.files.retrieve(made.id)
    blobs = (path for path in (api.data_dir / "blobs").rglob("*") if path.is_file())
    assert not any(b"soon to be gone 4711" in path.read_bytes() for path in blobs)


def test_bytes_that_another_file_shares_stay(sdk: OpenAI) -> None:
    first = sdk.files.create(file=("a", b"shared"), purpose="user_data")
    second = sdk.files.create(file=("b", b"shared"), purpose="user_data")
    sdk.files.delete(first.id)
    assert sdk.files.content(second.id).read() == b"shared"


def test_pages_follow_one_another(sdk: OpenAI) -> None:
    made = [sdk.files.create(file=(f"{i}.txt", b"x"), purpose="assistants").id for i in range(5)]
    listed = [file.id for file in sdk.files.list(purpose="assistants", limit=2)]
    assert listed == made[::-1]
    oldest = [file.id for file in sdk.files.list(purpose="assistants", limit=3, order="asc")]
    assert oldest == made


def test_a_large_file_comes_back_whole(sdk: OpenAI) -> None:
    content = bytes(range(256)) * 20_000
    made = sdk.files.create(file=("large.bin", content), purpose="user_data")
    assert made.bytes == len(content)
    assert sdk.files.content(made.id).read() == content


@pytest.mark.row("FIL-21")
@pytest.mark.row("INP-21")
@pytest.mark.parametrize(
    "name",
    [
        'a"b.txt',
        "a\\b.txt",
        "naïve.txt",
        "数据.csv",
        "a;b.txt",
        "a%0d%0aSet-Cookie: x.txt",
        "<script>.html",
    ],
)
def test_no_file_name_breaks_a_header(http: httpx2.Client, name: str) -> None:
    made = http.post("/v1/files", files={"file": (name, b"<html>")}, data=DATA).json()
    answer = http.get(f"/v1/files/{made['id']}/content")
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="')
    assert disposition.isascii()
    assert disposition.count('"') == 2
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.row("FIL-21")
@pytest.mark.parametrize("given", ["../../etc/passwd", "/etc/passwd", "C:\\x\\passwd"])
def test_a_path_in_a_file_name_is_dropped(http: httpx2.Client, given: str) -> None:
    made = http.post("/v1/files", files={"file": (given, b"x")}, data=DATA).json()
    assert made["filename"] == "passwd"


@pytest.mark.row("FIL-21")
@pytest.mark.parametrize("wanted", ["bytes=0-1", "bytes=9-1", "bytes=99-", "lines=1", "x"])
def test_a_range_gets_the_whole_file(http: httpx2.Client, wanted: str) -> None:
    made = http.post("/v1/files", files={"file": ("a", b"whole")}, data=DATA).json()
    answer = http.get(f"/v1/files/{made['id']}/content", headers={"range": wanted})
    assert (answer.status_code, answer.content) == (200, b"whole")


@pytest.mark.row("FIL-19")
def test_bytes_that_are_gone_are_said_to_be(
    api: "RunningServer", http: httpx2.Client, echo: str, spam: str, refused: "Refusal"
) -> None:
    data = {"purpose": "fine-tune"}
    made = http.post("/v1/files", files={"file": ("a", b"lost 0815")}, data=data).json()
    blobs = (path for path in (api.data_dir / "blobs").rglob("*") if path.is_file())
    Path(next(p for p in blobs if p.read_bytes() == b"lost 0815")).unlink()
    answer = http.get(f"/v1/files/{made['id']}/content")
    refused(answer, 409, "integrity_error")
    assert answer.headers["x-should-retry"] == "false"
    tuning = {"model": echo, "training_file": made["id"]}
    answer = http.post("/v1/fine_tuning/jobs", json=tuning)
    refused(answer, 409, "integrity_error", "training_file")
    explained = {"model": spam, "input": {"image": made["id"]}}
    answer = http.post("/v1/explanations", json=explained)
    refused(answer, 409, "integrity_error", "input.image")


UPLOADS: dict[str, tuple[dict[str, Any], str | None]] = {
    "no purpose": ({"files": {"file": b"x"}}, "purpose"),
    "unheard-of purpose": ({"files": {"file": b"x"}, "data": {"purpose": "fun"}}, "purpose"),
    "misspelt field": ({"files": {"file": b"x"}, "data": DATA | {"purposes": "a"}}, "purposes"),
    "no file": ({"files": {"purpose": (None, "batch")}}, "file"),
    "file under another name": ({"files": {"upload": b"x"}, "data": DATA}, "upload"),
    "two files": ({"files": [("file", b"x"), ("file", b"y")], "data": DATA}, None),
    "two purposes": ({"files": [("file", b"x"), PURPOSE, PURPOSE]}, "purpose"),
    "nine fields": ({"files": {"file": b"x"}, "data": {f"f{i}": "x" for i in range(9)}}, None),
    "a field of a megabyte": ({"files": {"file": b"x"}, "data": {"purpose": "x" * 2**20}}, None),
    "a name of 256 characters": ({"files": {"file": ("n" * 256, b"x")}, "data": DATA}, "file"),
}  # fmt: skip


@pytest.mark.row("FIL-01")
@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_is_refused_leaves_nothing(
    http: httpx2.Client, refused: "Refusal", name: str
) -> None:
    before = http.get("/v1/files", params={"limit": 100}).json()
    request, param = UPLOADS[name]
    refused(http.post("/v1/files", **request), 400, "invalid_value", param)
    assert http.get("/v1/files", params={"limit": 100}).json() == before


@pytest.mark.row("FIL-01")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"no boundary at all",
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\nnever ended',
        b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"x: y\r\n" * 10_000,
        b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n' * 1_000,
    ],
)
def test_multipart_that_is_malformed(http: httpx2.Client, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = http.post("/v1/files", content=body, headers=headers)
    code = answer.json()["error"]["code"]
    assert (answer.status_code, code) == (400, "invalid_value")


@pytest.mark.row("FIL-01")
def test_multipart_without_a_boundary(http: httpx2.Client, refused: "Refusal") -> None:
    headers = {"content-type": "multipart/form-data"}
    refused(http.post("/v1/files", content=b"x", headers=headers), 400, "invalid_value")


@pytest.mark.parametrize("charset", ["undefined", "punycode", "utf-7", "unicode_escape", "latin-1"])
def test_a_multipart_body_is_utf_8(http: httpx2.Client, refused: "Refusal", charset: str) -> None:
    body = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="+2AA-"\r\n\r\n'
        b"x\r\n--b--\r\n"
    )
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    answer = http.post("/v1/files", content=body, headers=headers)
    refused(answer, 415, "unsupported_media_type")
    headers = {"content-type": 'multipart/form-data; boundary=b; charset="UTF-8"'}
    assert http.post("/v1/files", content=body, headers=headers).status_code == 200


def test_a_disk_that_is_full_while_an_upload_is_spooled(
    http: httpx2.Client, refused: "Refusal", monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_file: UploadFile, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(UploadFile, "write", refuse)
    answer = http.post("/v1/files", files={"file": b"x"}, data=DATA)
    refused(answer, 507, "insufficient_storage")


def test_an_upload_that_stalls_is_given_up(
    api: "RunningServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IDLE_TIMEOUT_S", 0.05)
    host, port = api.base_url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {api.admin_key}\r\n"
        "content-type: multipart/form-data; boundary=b\r\ncontent-length: 1000\r\n\r\n--b\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(4_096), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_read_timeout" in answer


def test_json_does_not_reach_the_upload(http: httpx2.Client, refused: "Refusal") -> None:
    refused(http.post("/v1/files", json={}), 415, "unsupported_media_type")


def test_a_file_above_the_limit_is_refused_before_it_is_stored(
    http: httpx2.Client, refused: "Refusal", monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    small = dataclasses.replace(LIMITS, upload_bytes=1_000)
    monkeypatch.setattr(files, "LIMITS", small)
    monkeypatch.setattr(uploads, "FIELDS_BYTES", 1_000)
    answer = http.post("/v1/files", files={"file": b"x" * 3_000}, data=DATA)
    refused(answer, 413, "request_too_large")
