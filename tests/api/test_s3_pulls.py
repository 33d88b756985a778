"""Tables of a store that speaks S3, by one call: signed, checked, resumed, then a dataset."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.conftest import PATIENCE_S, Refusal, Until
from tests.api.s3_double import CREDENTIALS, KEY_ID, REGION, SECRET, TOKEN, S3Double
from tests.api.upstream_double import Heard, UpstreamDouble
from tests.conftest import RunningServer, scripted_server

URL, FOLDER = "/v1/pulls", "s3://letters/data"
TABLE = b"text,label\nhi,ham\n"
FILES = {
    "data/2026/test set+\u6d4b&.csv": TABLE,
    "data/notes.txt": b"no table",
    "data/train.parquet": b"PAR1" + bytes(3_000_000) + b"PAR1",
    "database/other.csv": TABLE,
}


@pytest.fixture(scope="module")
def store() -> S3Double:
    sums = {"data/train.parquet": "crc32", "data/2026/test set+\u6d4b&.csv": "sha256"}
    return S3Double(objects=dict(FILES), page=1, sums=sums)


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("credentials") / "credentials"
    path.write_text(CREDENTIALS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, store: S3Double, credentials: Path
) -> Iterator[RunningServer]:
    with UpstreamDouble(store) as double:
        s3 = {
            "url": f"http://127.0.0.1:{double.port}",
            "region": REGION,
            "credentials_file": credentials,
        }
        with scripted_server(tmp_path_factory.mktemp("s3"), s3=s3) as running:
            yield running


@pytest.fixture(autouse=True)
def _whole(store: S3Double, credentials: Path) -> Iterator[None]:
    """Put the store right after each test."""
    yield
    store.objects = dict(FILES)
    store.token, store.before = None, lambda _: None
    for faults in (store.tampered, store.cuts, store.refusals, store.asked):
        faults.clear()
    credentials.write_text(CREDENTIALS, encoding="utf-8")


def test_a_folder_comes_whole_in_spite_of_a_cut_and_becomes_a_dataset(
    api: RunningServer, http: httpx2.Client, store: S3Double, until: Until
) -> None:
    store.cuts.append(2_000_000)
    headers = {"Idempotency-Key": "s3-1"}
    answer = http.post(URL, json={"source": FOLDER}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert (found["source"], found["revision"], found["commit"]) == (FOLDER, None, None)
    names = {file["filename"]: file["id"] for file in found["data"]}
    assert sorted(names) == ["2026-test set+\u6d4b&.csv", "train.parquet"]
    for key in ("2026/test set+\u6d4b&.csv", "train.parquet"):
        got = http.get(f"/v1/files/{names[key.replace('/', '-')]}/content").content
        assert got == FILES[f"data/{key}"]
    listings = [asked for asked in store.asked if "list-type=2" in asked]
    assert len(listings) == 3, "one page for each object of the folder, and none of its neighbour's"
    num_asked = len(store.asked)
    again = http.post(URL, json={"source": FOLDER}, headers=headers)
    assert (again.json(), len(store.asked)) == (found, num_asked)
    made = http.post("/v1/datasets", json={"file_ids": [names["2026-test set+\u6d4b&.csv"]]})
    assert until(f"/v1/datasets/{made.json()['id']}", "ready")["file_ids"]
    assert not [p for p in (api.data_dir / "cache" / "s3").rglob("*") if p.is_file()]


def test_a_pull_that_was_given_up_shows_how_far_it_is_and_goes_on(
    http: httpx2.Client, store: S3Double
) -> None:
    whole, gate = store.objects["data/train.parquet"], threading.Event()
    store.cuts.extend([1_500_000, 0, 0, 0, 0, 0])  # five in a row without a byte: given up
    body = {"source": f"{FOLDER}/train.parquet"}
    assert http.post(URL, json=body).status_code == 502
    ranged = list[str]()

    def hold(heard: Heard) -> None:
        if heard.method == "GET":
            ranged.append(heard.headers.get("range", ""))
            gate.wait(PATIENCE_S)

    store.before = hold
    answers = list[httpx2.Response]()
    pulling = threading.Thread(target=lambda: answers.append(http.post(URL, json=body)))
    pulling.start()
    shown = list[dict[str, Any]]()
    while not shown or not shown[0]["fetched_bytes"]:
        assert pulling.is_alive()
        shown = http.get(URL).json()["data"]
    gate.set()
    pulling.join()
    assert ranged == ["bytes=1500000-"]
    expected = {"source": body["source"], "revision": None, "commit": None}
    assert shown[0].items() >= (expected | {"bytes": len(whole)}).items()
    assert shown[0]["fetched_bytes"] == 1_500_000
    file_id = answers[0].json()["data"][0]["id"]
    assert http.get(f"/v1/files/{file_id}/content").content == whole


def test_an_object_that_was_replaced_is_fetched_anew(http: httpx2.Client, store: S3Double) -> None:
    body = {"source": f"{FOLDER}/train.parquet"}
    store.cuts.extend([1_500_000, 0, 0, 0, 0, 0])
    assert http.post(URL, json=body).status_code == 502
    store.objects["data/train.parquet"] = newer = b"PAR1" + b"\1" * 3_000_000 + b"PAR1"
    file_id = http.post(URL, json=body).json()["data"][0]["id"]
    assert http.get(f"/v1/files/{file_id}/content").content == newer


@pytest.mark.parametrize(
    ("source", "files", "param"),
    [
        ("s3://letters/data/none.csv", [], "source"),
        ("s3://letters/data/../data/train.parquet", [], "source"),
        ("s3://letters//data", [], "source"),
        ("s3://Letters/data", [], "source"),
        ("s3://no-such-bucket/data/a.csv", [], "source"),
        ("s3://no-such-bucket", [], "source"),
        ("s3://letters/data", ["*.json"], "files"),
        ("s3://letters/data/train.parquet", ["*.parquet"], "files"),
        ("gs://letters/data", [], "source"),
    ],
)
def test_what_a_store_cannot_mean_is_refused(
    http: httpx2.Client, refused: Refusal, source: str, files: list[str], param: str
) -> None:
    answer = http.post(URL, json={"source": source, "files": files})
    refused(answer, 400, "invalid_value", param)


def test_a_store_has_no_revision_and_shows_no_more_than_it_may(
    http: httpx2.Client, refused: Refusal, store: S3Double
) -> None:
    answer = http.post(URL, json={"source": FOLDER, "revision": "main"})
    refused(answer, 400, "invalid_value", "revision")
    store.objects |= {f"data/{number}.csv": TABLE for number in range(65)}
    refused(http.post(URL, json={"source": FOLDER}), 413, "request_too_large", "files")
    found = http.post(URL, json={"source": FOLDER, "files": ["6?.csv"]}).json()
    assert [file["filename"] for file in found["data"]] == [f"6{n}.csv" for n in range(5)]


@pytest.mark.parametrize(
    ("status", "code", "more", "shown", "word"),
    [
        (403, "AccessDenied", {}, 400, "s3:GetObject"),
        (403, "InvalidAccessKeyId", {}, 400, "s3.credentials_file"),
        (403, "RequestTimeTooSkewed", {}, 400, "clock"),
        (400, "ExpiredToken", {}, 400, "renewed"),
        (403, "InvalidObjectState", {}, 400, "archived"),
        (301, "PermanentRedirect", {"x_amz_bucket_region": "us-west-2"}, 400, "'us-west-2'"),
        (307, "TemporaryRedirect", {"location": "http://127.0.0.1:1/x"}, 400, "s3.region"),
        (503, "SlowDown", {}, 503, "wait"),
        (412, "PreconditionFailed", {}, 502, "replaced"),
        (500, "InternalError", {}, 502, "500"),
        (404, "<!DOCTYPE", {}, 400, "has no"),
    ],
)
def test_each_refusal_names_what_to_change(
    http: httpx2.Client,
    store: S3Double,
    status: int,
    code: str,
    more: dict[str, str],
    shown: int,
    word: str,
) -> None:
    store.refusals.append((status, code, more))
    answer = http.post(URL, json={"source": f"{FOLDER}/train.parquet"})
    assert answer.status_code == shown
    message = answer.json()["error"]["message"]
    assert word in message
    assert "canary" not in message
    assert http.post(URL, json={"source": f"{FOLDER}/train.parquet"}).status_code == 200


def test_content_that_is_not_what_was_announced_is_refused(
    http: httpx2.Client, store: S3Double, refused: Refusal
) -> None:
    before = http.get("/v1/files").json()["data"]
    for key, content in FILES.items():
        if key.endswith((".csv", ".parquet")):
            store.tampered[key] = b"X" + content[1:]
            answer = http.post(URL, json={"source": f"s3://letters/{key}"})
            message = refused(answer, 502, "upstream_not_allowed", "source")
            kind = {"data/train.parquet": "CRC-32", "database/other.csv": "MD5"}
            assert kind.get(key, "SHA-256") in message
    assert http.get("/v1/files").json()["data"] == before


def test_a_session_that_was_renewed_needs_no_restart_and_nothing_secret_is_told(
    http: httpx2.Client, store: S3Double, credentials: Path, api: RunningServer
) -> None:
    body = {"source": f"{FOLDER}/2026/test set+\u6d4b&.csv"}
    store.token = TOKEN
    answer = http.post(URL, json=body)
    assert (answer.status_code, "renewed" in answer.text) == (400, True)
    credentials.write_text(f"{CREDENTIALS}aws_session_token = {TOKEN}\n", encoding="utf-8")
    renewed = http.post(URL, json=body)
    assert renewed.status_code == 200, renewed.text
    told = [renewed.text]
    store.token = None
    credentials.write_text(CREDENTIALS.replace(SECRET, "another"), encoding="utf-8")
    told += [http.post(URL, json=body).text]
    assert "s3.credentials_file" in told[-1]
    credentials.write_text(f"[other]\naws_access_key_id = {KEY_ID}", encoding="utf-8")
    told += [http.post(URL, json=body).text]
    assert "s3.credentials_file" in told[-1]
    stored = b"".join(p.read_bytes() for p in api.data_dir.glob("purvey.db*"))
    for secret in (KEY_ID, SECRET, TOKEN):
        assert all(secret not in text for text in told)
        assert secret.encode() not in stored
