"""A dataset's profile over HTTP: JSON, or a page with histograms that may do nothing."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest
from openai import OpenAI

from purvey.contracts.data import DATASET_MANIFEST_NAME, Column, DatasetManifest
from purvey.contracts.jobs import DatasetBuilt
from purvey.server.reporting.style import POLICY
from purvey.testing import scripted_jobs

if TYPE_CHECKING:
    from purvey.testing.scripted_jobs import Conversation
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

PROFILE: dict[str, Any] = {
    "rows": 4,
    "duplicates_removed": 2,
    "near_duplicates": 1,
    "warnings": ["Leakage: 3 rows of test share their '<b>text</b>' with train."],
    "balance": {"train": {"<i>ham</i>": 2, "spam": 1}, "validation": {}, "test": {"spam": 1}},
    "columns": {
        "text": {
            "kind": "text",
            "chars": {
                "min": 2, "mean": 4.5, "median": 4, "max": 9,
                "histogram": {"edges": [2.0, 4.0, 6.0, 8.0, 10.0], "counts": [1, 2, 0, 1]},
            },
        },
        "odd": {"kind": "number", "value": {"histogram": {"edges": ["x", None], "counts": [1]}}},
    },
}  # fmt: skip


async def _deliver(worker: "Conversation") -> int:
    manifest = DatasetManifest(
        columns=(Column(name="text", kind="text"),),
        rows={"train": 3, "validation": 0, "test": 1},
        profile=PROFILE,
        digest="0" * 64,
    )
    worker.write("preview.json", b"{}")
    worker.write(DATASET_MANIFEST_NAME, msgspec.json.encode(manifest))
    worker.say(DatasetBuilt(manifest=manifest))
    await asyncio.sleep(0)
    return 0


@pytest.fixture(scope="module")
def file_id(sdk: OpenAI) -> str:
    return sdk.files.create(file=("rows.csv", b"text\nhi\n"), purpose="user_data").id


@pytest.fixture
def url(http: httpx2.Client, api: "RunningServer", until: "Until", file_id: str) -> Iterator[str]:
    assert api.jobs is not None
    api.jobs.then(_deliver)
    made = http.post("/v1/datasets", json={"file_ids": [file_id], "name": "<script>"}).json()["id"]
    until(f"/v1/datasets/{made}", "ready")
    yield f"/v1/datasets/{made}/profile"
    http.delete(f"/v1/datasets/{made}")


def test_a_page_shows_the_spread_and_escapes_what_came_from_outside(
    http: httpx2.Client, url: str
) -> None:
    answer = http.get(url, params={"format": "html"})
    assert answer.headers["content-security-policy"] == POLICY
    page = answer.text
    assert "<h1>&lt;script&gt;</h1>" in page
    assert "&lt;i&gt;ham&lt;/i&gt;" in page
    assert not any(tag in page for tag in ("<script", "<b>", "<i>"))
    assert "4 rows: 3 train, 0 validation, 1 test." in page
    assert "Leakage: 3 rows of test" in page
    assert "Length of text: min 2, median 4, mean 4.5, max 9" in page
    assert page.count("<title>4 to 6: 2 rows</title>") == 1
    assert http.get(url, headers={"accept": "text/html"}).text == page


def test_json_holds_the_same(
    http: httpx2.Client, stranger: httpx2.Client, url: str, refused: "Refusal"
) -> None:
    found = http.get(url).json()
    assert found["object"] == "dataset.profile"
    assert found["splits"] == {"train": 3, "validation": 0, "test": 1}
    assert found["profile"] == PROFILE
    refused(http.get(url, params={"format": "pdf"}), 400, "invalid_value", "format")
    refused(stranger.get(url), 404, "not_found", "dataset_id")


def test_it_comes_when_the_dataset_is_ready(
    http: httpx2.Client, api: "RunningServer", file_id: str, refused: "Refusal"
) -> None:
    assert api.jobs is not None
    api.jobs.then(scripted_jobs.until_stopped)
    made = http.post("/v1/datasets", json={"file_ids": [file_id]}).json()["id"]
    refused(http.get(f"/v1/datasets/{made}/profile"), 409, "state_conflict")
    http.delete(f"/v1/datasets/{made}").raise_for_status()
