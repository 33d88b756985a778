"""Files of a dataset of the hub, by one call: pinned, checked, then a dataset like any other."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from purvey.testing.https_double import answer_of
from purvey.testing.hub_double import COMMIT, SOURCE, HubDouble
from tests.api.conftest import Refusal, Until
from tests.api.hub_server import server_of_hub
from tests.conftest import RunningServer

URL, WANTED = "/v1/pulls", f"hf://datasets/{SOURCE}"
FILES = {
    "README.md": b"# Letters",
    "load.py": b"raise SystemExit",
    "data/train-00000-of-00001.parquet": b"PAR1" + bytes(5_000) + b"PAR1",
    "data/test.csv": b"text,label\nhi,ham\n",
}


@pytest.fixture(scope="module")
def hub() -> HubDouble:
    return HubDouble(dict(FILES))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, hub: HubDouble) -> Iterator[RunningServer]:
    with server_of_hub(hub, tmp_path_factory.mktemp("pulls")) as running:
        yield running


def test_tables_come_pinned_and_become_a_dataset(
    api: RunningServer, http: httpx2.Client, hub: HubDouble, until: Until
) -> None:
    hub.cuts.append(2_000)  # the storage breaks off once, and is asked for the rest
    headers = {"Idempotency-Key": "pull-1"}
    answer = http.post(URL, json={"source": WANTED, "revision": "main"}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["commit"] == COMMIT
    names = {file["filename"]: file["id"] for file in found["data"]}
    assert sorted(names) == ["data-test.csv", "data-train-00000-of-00001.parquet"]
    for name, content in FILES.items():
        if name.startswith("data/"):
            got = http.get(f"/v1/files/{names[name.replace('/', '-')]}/content").content
            assert got == content
    assert any(f"/datasets/{SOURCE}/resolve/{COMMIT}/" in head for head in hub.heads)
    num_asked = len(hub.heads)
    again = http.post(URL, json={"source": WANTED, "revision": "main"}, headers=headers)
    assert (again.json(), len(hub.heads)) == (found, num_asked)
    made = http.post("/v1/datasets", json={"file_ids": [names["data-test.csv"]]}).json()
    assert until(f"/v1/datasets/{made['id']}", "ready")["name"] == "data-test.csv"
    left = [p for p in (api.data_dir / "cache" / "hub-datasets").rglob("*") if p.is_file()]
    assert not left, "what was handed over is not kept twice"


def test_patterns_choose_files(http: httpx2.Client, refused: Refusal) -> None:
    body = {"source": WANTED, "revision": COMMIT, "files": ["data/*.csv"]}
    found = http.post(URL, json=body).json()
    assert [file["filename"] for file in found["data"]] == ["data-test.csv"]
    refused(http.post(URL, json=body | {"files": ["*.py"]}), 400, "invalid_value", "files")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"source": SOURCE}, "invalid_value", "source"),
        ({"source": "hf://datasets/acme/../x"}, "invalid_value", "source"),
        ({"source": "hf://datasets/acme/none"}, "invalid_value", "source"),
        ({"revision": "../x"}, "invalid_value", "revision"),
    ],
)
def test_what_the_hub_cannot_mean_is_refused(
    http: httpx2.Client, refused: Refusal, change: dict[str, str], code: str, param: str
) -> None:
    refused(http.post(URL, json={"source": WANTED} | change), 400, code, param)


def test_bytes_that_are_not_what_was_announced_are_refused(
    http: httpx2.Client, hub: HubDouble, refused: Refusal
) -> None:
    hub.tampered["data/test.csv"] = FILES["data/test.csv"].replace(b"ham", b"eek")
    body = {"source": WANTED, "files": ["data/test.csv"]}
    before = http.get("/v1/files").json()["data"]
    refused(http.post(URL, json=body), 502, "upstream_not_allowed", "source")
    hub.tampered.clear()
    hub.refusals[f"/datasets/{SOURCE}/resolve/"] = answer_of(403)
    refused(http.post(URL, json=body), 400, "invalid_value", "source")
    hub.refusals.clear()
    assert http.get("/v1/files").json()["data"] == before
    assert http.post(URL, json=body).status_code == 200


def test_only_an_administrator_may(http: httpx2.Client, api: RunningServer) -> None:
    scopes = ["files:write", "datasets:write"]
    secret = http.post("/v1/keys", json={"name": "narrow", "scopes": scopes}).json()["key"]
    headers = {"authorization": f"Bearer {secret}"}
    with httpx2.Client(base_url=api.base_url, headers=headers) as client:
        assert client.post(URL, json={"source": WANTED}).status_code == 403
