"""Feedback on answers, and the dataset versions that it becomes."""

import json
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI

from purvey.client.purvey import Purvey

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

URL, DATASETS = "/v1/feedback", "/v1/datasets"
ROWS = b"number,text,label\n1,hi,ham\n2,win a prize,spam\n"
GIVEN = {"input": "my refund is wrong", "output": "delivery", "rating": "bad"}


def _give(http: httpx2.Client, **body: object) -> dict[str, Any]:
    answer = http.post(URL, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def model() -> str:
    """A model's name that no other test gives feedback on."""
    return f"model-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def parent(http: httpx2.Client, sdk: OpenAI, until: "Until") -> dict[str, Any]:
    """A dataset that is ready."""
    file = sdk.files.create(file=("rows.csv", ROWS), purpose="user_data").id
    body = {"file_ids": [file], "name": "messages", "seed": 5}
    made = http.post(DATASETS, json=body).json()
    return until(f"{DATASETS}/{made['id']}", "ready")


def _content(http: httpx2.Client, file_id: str) -> list[dict[str, Any]]:
    text = http.get(f"/v1/files/{file_id}/content").text
    return [json.loads(line) for line in text.splitlines()]


def test_feedback_is_kept_shown_and_deleted(
    http: httpx2.Client, model: str, refused: "Refusal"
) -> None:
    made = _give(http, model=model, **GIVEN, correction="billing", metadata={"who": "me"})
    assert made["id"].startswith("fb_")
    assert http.get(f"{URL}/{made['id']}").json() == made
    other = _give(http, model=model, request_id="req_1", rating="good")
    assert other["input"] is None
    listed = http.get(URL, params={"model": model, "limit": 1}).json()
    assert (listed["data"], listed["has_more"]) == ([other], True)
    rest = http.get(URL, params={"model": model, "after": other["id"]}).json()
    assert rest["data"] == [made]
    assert http.delete(f"{URL}/{made['id']}").json()["deleted"]
    for answer in (http.get(f"{URL}/{made['id']}"), http.delete(f"{URL}/{made['id']}")):
        refused(answer, 404, "not_found", "feedback_id")


def test_nobody_else_sees_it(
    http: httpx2.Client, stranger: httpx2.Client, model: str, refused: "Refusal"
) -> None:
    made = _give(http, model=model, **GIVEN)
    refused(stranger.get(f"{URL}/{made['id']}"), 404, "not_found", "feedback_id")
    refused(stranger.delete(f"{URL}/{made['id']}"), 404, "not_found", "feedback_id")
    assert made not in stranger.get(URL).json()["data"]
    assert http.get(f"{URL}/{made['id']}").json() == made


def test_its_content_is_in_no_log(
    http: httpx2.Client, model: str, capsys: pytest.CaptureFixture[str], api: "RunningServer"
) -> None:
    canary = uuid.uuid4().hex
    _give(http, model=model, input=canary, rating="good", correction=f"not {canary}")
    told = capsys.readouterr()
    assert canary not in told.out + told.err
    logs = [path for path in api.data_dir.rglob("*.log") if path.is_file()]
    assert not any(canary.encode() in path.read_bytes() for path in logs)


def test_it_is_kept_once(http: httpx2.Client, model: str) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (http.post(URL, json={"model": model} | GIVEN, headers=headers) for _ in "ab")
    assert first.json() == again.json()
    assert len(http.get(URL, params={"model": model}).json()["data"]) == 1


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no model": ({"input": "x", "rating": "good"}, "model"),
    "nothing said": ({"model": "m", "input": "x"}, "rating"),
    "no answer meant": ({"model": "m", "rating": "good", "output": "x"}, "input"),
    "another rating": ({"model": "m", "input": "x", "rating": "meh"}, "rating"),
    "a misspelt field": ({"model": "m", "input": "x", "ratings": "good"}, "ratings"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_feedback_that_is_refused_by_name(
    http: httpx2.Client, refused: "Refusal", name: str
) -> None:
    body, param = REFUSED[name]
    refused(http.post(URL, json=body), 400, "invalid_value", param)


def test_feedback_becomes_a_version(
    http: httpx2.Client, api: "RunningServer", parent: dict[str, Any], model: str, until: "Until"
) -> None:
    _give(http, model=model, **GIVEN, correction="orders")
    _give(http, model=model, input="hello there", output="ham", rating="good")
    _give(http, model=model, input="not to be learned", output="spam", rating="bad")
    _give(http, model=model, **GIVEN, correction="billing")
    url = f"{DATASETS}/{parent['id']}/versions"
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    answers = [http.post(url, json={"feedback_model": model}, headers=headers) for _ in "ab"]
    made: dict[str, Any] = answers[0].json()
    assert answers[1].json() == made, "made once"
    assert (made["parent"], made["name"], made["version"]) == (parent["id"], "messages", 2)
    assert made["config"]["columns"] == {"text": "text", "label": "label"}
    assert made["config"]["seed"] == 5
    assert made["file_ids"][:-1] == parent["file_ids"]
    assert _content(http, made["file_ids"][-1]) == [
        {"text": "my refund is wrong", "label": "billing"},
        {"text": "hello there", "label": "ham"},
    ]
    until(f"{DATASETS}/{made['id']}", "ready")
    assert http.get(f"{DATASETS}/{parent['id']}").json() == parent, "the parent stays as it is"
    with Purvey(api.base_url, api.admin_key) as client:
        third = client.datasets.add_version(made["id"], file_ids=parent["file_ids"])
        client.datasets.wait(third.id)
    assert (third.parent, third.version) == (made["id"], 3)
    for one in (parent["id"], made["id"], third.id):
        listed = http.get(f"{DATASETS}/{one}/versions").json()["data"]
        assert [found["version"] for found in listed] == [1, 2, 3]


def test_a_version_that_cannot_be_made_says_why(
    http: httpx2.Client, sdk: OpenAI, parent: dict[str, Any], model: str, until: "Until",
    stranger: httpx2.Client, refused: "Refusal",
) -> None:  # fmt: skip
    url = f"{DATASETS}/{parent['id']}/versions"
    refused(http.post(url, json={}), 400, "invalid_value", "file_ids")
    refused(http.post(url, json={"feedback_model": model}), 400, "invalid_value", "feedback_model")
    refused(http.post(url, json={"file_ids": ["file-none"]}), 404, "not_found", "file_ids.0")
    refused(stranger.post(url, json={"feedback_model": model}), 404, "not_found", "dataset_id")
    refused(stranger.get(url), 404, "not_found", "dataset_id")
    gone = sdk.files.create(file=("gone.csv", ROWS), purpose="user_data").id
    made = http.post(DATASETS, json={"file_ids": [gone]}).json()
    until(f"{DATASETS}/{made['id']}", "ready")
    sdk.files.delete(gone)
    answer = http.post(f"{DATASETS}/{made['id']}/versions", json={"file_ids": parent["file_ids"]})
    assert gone in refused(answer, 409, "state_conflict")
    by_time = {"file_ids": parent["file_ids"], "splits": {"time": "number"}}
    split = http.post(DATASETS, json=by_time).json()["id"]
    until(f"{DATASETS}/{split}", "ready")
    _give(http, model=model, **GIVEN, correction="billing")
    answer = http.post(f"{DATASETS}/{split}/versions", json={"feedback_model": model})
    assert "split by time" in refused(answer, 400, "invalid_value", "feedback_model")
