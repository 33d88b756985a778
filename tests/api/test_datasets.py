"""Datasets: made from files by a job, shown with columns and rows, kept while needed."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI

from purvey.contracts.jobs import JobFailed
from purvey.testing import scripted_jobs

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

URL = "/v1/datasets"


@pytest.fixture(autouse=True)
def _workers_succeed(api: "RunningServer") -> Iterator[None]:
    """Workers that wait to be stopped do not outlive their test."""
    assert api.jobs is not None
    yield
    api.jobs.script = scripted_jobs.succeed


@pytest.fixture(scope="module")
def file_id(sdk: OpenAI) -> str:
    return sdk.files.create(file=("rows.csv", b"text,label\nhi,ham\n"), purpose="user_data").id


def _make(http: httpx2.Client, **body: object) -> dict[str, Any]:
    answer = http.post(URL, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_dataset_is_made_and_shown(http: httpx2.Client, until: "Until", file_id: str) -> None:
    made = _make(http, file_ids=[file_id], seed=3, splits={"validation": 0.2, "test": 0.2})
    assert made["id"].startswith("ds_")
    assert (made["object"], made["name"]) == ("dataset", "rows.csv")
    assert (made["columns"], made["splits"], made["digest"]) == ([], {}, None)
    assert made["config"]["seed"] == 3
    assert made["config"]["splits"] == {
        "validation": 0.2,
        "test": 0.2,
        "stratify": True,
        "group": None,
        "time": None,
    }
    assert made["config"]["deduplicate"] == "exact"
    ready = until(f"{URL}/{made['id']}", "ready", "failed")
    assert (ready["status"], ready["error"]) == ("ready", None)
    assert ready["columns"] == [
        {"name": "text", "kind": "text"},
        {"name": "label", "kind": "label"},
    ]
    assert ready["labels"] == ["ham", "spam"]
    assert list(ready["splits"].items()) == [("train", 8), ("validation", 1), ("test", 1)]
    assert ready["profile"] == {"rows": 10, "duplicates_removed": 0}
    assert ready["digest"] == "0" * 64


def test_what_is_asked_reaches_the_worker(
    http: httpx2.Client, api: "RunningServer", until: "Until", file_id: str
) -> None:
    made = _make(
        http,
        name="messages",
        file_ids=[file_id],
        format="csv",
        columns={"label": "label", "text": "text"},
        deduplicate=False,
    )
    until(f"{URL}/{made['id']}", "ready")
    assert made["name"] == "messages"
    assert api.jobs is not None
    spec = api.jobs.launched[-1]
    assert (spec.kind, spec.recipe) == ("dataset", made["config"])
    assert spec.recipe["columns"] == {"label": "label", "text": "text"}
    assert spec.recipe["deduplicate"] is False
    assert [(file.role, file.name) for file in spec.files] == [("source", "rows.csv")]


def test_rows_are_shown_by_split(
    http: httpx2.Client, until: "Until", file_id: str, refused: "Refusal"
) -> None:
    made = _make(http, file_ids=[file_id])
    until(f"{URL}/{made['id']}", "ready")
    rows = f"{URL}/{made['id']}/rows"
    first = {"text": "hello", "label": "ham"}
    expected = {"object": "list", "data": [first], "total": 8, "has_more": False}
    assert http.get(rows).json() == expected
    assert http.get(rows, params={"split": "train", "limit": 1}).json() == expected
    assert http.get(rows, params={"split": "test"}).json()["data"] == []
    assert http.get(rows, params={"offset": 8}).json()["data"] == []
    refused(http.get(rows, params={"offset": 1}), 400, "invalid_value", "offset")


@pytest.mark.row("FIL-19")
@pytest.mark.parametrize("damage", ["no preview", "half a preview", "no folder"])
def test_rows_that_are_gone_are_said_to_be(
    http: httpx2.Client,
    api: "RunningServer",
    until: "Until",
    file_id: str,
    refused: "Refusal",
    damage: str,
) -> None:
    made = _make(http, file_ids=[file_id])
    until(f"{URL}/{made['id']}", "ready")
    (folder,) = (api.data_dir / "artifacts").iterdir()
    aside = folder.rename(api.data_dir / "aside")
    if damage != "no folder":
        shutil.copytree(aside, folder)
        (folder / "preview.json").unlink()
    if damage == "half a preview":
        (folder / "preview.json").write_bytes(b'{"train": [')
    refused(http.get(f"{URL}/{made['id']}/rows"), 409, "integrity_error")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    assert http.get(f"{URL}/{made['id']}/rows").status_code == 200


@pytest.mark.row("CRA-27")
def test_one_in_the_making_has_no_rows_and_keeps_its_files(
    http: httpx2.Client, api: "RunningServer", file_id: str, refused: "Refusal"
) -> None:
    assert api.jobs is not None
    api.jobs.then(scripted_jobs.until_stopped)
    made = _make(http, file_ids=[file_id])
    assert made["status"] == "processing"
    refused(http.get(f"{URL}/{made['id']}/rows"), 409, "state_conflict")
    assert made["id"] in refused(http.delete(f"/v1/files/{file_id}"), 409, "in_use")
    http.delete(f"{URL}/{made['id']}").raise_for_status()


def test_one_in_the_making_is_given_up_when_deleted(
    http: httpx2.Client, api: "RunningServer", until: "Until", refused: "Refusal", sdk: OpenAI
) -> None:
    assert api.jobs is not None
    api.jobs.then(scripted_jobs.until_stopped)
    mine = sdk.files.create(file=("mine.csv", b"a,b\n"), purpose="user_data").id
    made, waiting = _make(http, file_ids=[mine]), _make(http, file_ids=[mine])
    for dataset in (waiting, made):
        assert http.delete(f"{URL}/{dataset['id']}").json()["deleted"]
        refused(http.get(f"{URL}/{dataset['id']}"), 404, "not_found", "dataset_id")
    after = _make(http, file_ids=[mine])
    assert until(f"{URL}/{after['id']}", "ready")["status"] == "ready", "the worker is free again"
    assert sdk.files.delete(mine).deleted


def test_one_that_fails_says_why(
    http: httpx2.Client, api: "RunningServer", until: "Until", file_id: str
) -> None:
    assert api.jobs is not None
    failure = JobFailed(code="invalid_file", message="line 3: too many cells.", param="rows.csv")
    api.jobs.then(scripted_jobs.fail(failure))
    made = _make(http, file_ids=[file_id])
    failed = until(f"{URL}/{made['id']}", "ready", "failed")
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "invalid_file"
    assert "line 3" in failed["error"]["message"]
    assert http.delete(f"{URL}/{made['id']}").json()["deleted"]


def test_pages_follow_one_another(http: httpx2.Client, until: "Until", file_id: str) -> None:
    made = [_make(http, file_ids=[file_id], name=f"d{i}")["id"] for i in range(3)]
    for dataset_id in made:
        until(f"{URL}/{dataset_id}", "ready")
    first = http.get(URL, params={"limit": 2}).json()
    assert [d["id"] for d in first["data"]] == made[:0:-1]
    assert (first["first_id"], first["last_id"]) == (made[2], made[1])
    assert first["has_more"]
    second = http.get(URL, params={"limit": 1, "after": first["last_id"]}).json()
    assert [d["id"] for d in second["data"]] == made[:1]


def test_a_deleted_one_is_gone(
    http: httpx2.Client, until: "Until", file_id: str, refused: "Refusal"
) -> None:
    made = _make(http, file_ids=[file_id])
    until(f"{URL}/{made['id']}", "ready")
    gone = http.delete(f"{URL}/{made['id']}").json()
    assert gone == {"id": made["id"], "object": "dataset", "deleted": True}
    for path in ("", "/rows"):
        refused(http.get(f"{URL}/{made['id']}{path}"), 404, "not_found", "dataset_id")
    refused(http.delete(f"{URL}/{made['id']}"), 404, "not_found", "dataset_id")


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no files": ({"file_ids": []}, "file_ids"),
    "a file that is a number": ({"file_ids": [5]}, "file_ids.0"),
    "an unknown format": ({"format": "xlsx"}, "format"),
    "an unknown kind": ({"columns": {"a": "sound"}}, "columns.a"),
    "splits that leave nothing": ({"splits": {"validation": 0.5, "test": 0.5}}, "splits"),
    "a negative split": ({"splits": {"test": -0.1}}, "splits.test"),
    "a group and a time": ({"splits": {"group": "who", "time": "when"}}, "splits.time"),
    "a stratified time": ({"splits": {"time": "when", "stratify": True}}, "splits.stratify"),
    "a kind of copies": ({"deduplicate": "fuzzy"}, "deduplicate"),
    "a misspelt split": ({"splits": {"valid": 0.1}}, "splits.valid"),
    "a negative seed": ({"seed": -1}, "seed"),
    "a misspelt field": ({"file_id": "x"}, "file_id"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_dataset_that_is_refused_by_name(
    http: httpx2.Client, file_id: str, refused: "Refusal", name: str
) -> None:
    before = http.get(URL, params={"limit": 100}).json()["data"]
    change, param = REFUSED[name]
    answer = http.post(URL, json={"file_ids": [file_id]} | change)
    refused(answer, 400, "invalid_value", param)
    assert http.get(URL, params={"limit": 100}).json()["data"] == before


def test_a_missing_file_is_not_found(http: httpx2.Client, file_id: str, refused: "Refusal") -> None:
    answer = http.post(URL, json={"file_ids": [file_id, "file-none"]})
    refused(answer, 404, "not_found", "file_ids.1")


def test_a_split_that_is_none_is_refused(
    http: httpx2.Client, until: "Until", file_id: str, refused: "Refusal"
) -> None:
    made = _make(http, file_ids=[file_id])
    until(f"{URL}/{made['id']}", "ready")
    answer = http.get(f"{URL}/{made['id']}/rows", params={"split": "dev"})
    refused(answer, 400, "invalid_value", "split")
