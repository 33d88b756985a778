"""A run's report over HTTP: JSON or a page, by `format` or by `Accept`."""

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI

from purvey.server.reporting.style import POLICY
from tests.unit.test_server_tensorboard import read

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def url(http: httpx2.Client, sdk: OpenAI, until: "Until") -> str:
    """The report of a run that has succeeded."""
    file = sdk.files.create(file=("rows.csv", b"text,label\nhi,ham\n"), purpose="user_data")
    dataset = http.post("/v1/datasets", json={"file_ids": [file.id]}).json()["id"]
    until(f"/v1/datasets/{dataset}", "ready")
    recipe = {"task": "text-classification", "dataset": dataset, "name": "letters"}
    made = http.post("/v1/training/jobs", json={"recipe": recipe}).json()["id"]
    until(f"/v1/training/jobs/{made}", "succeeded")
    return f"/v1/training/jobs/{made}/report"


def test_the_page_shows_the_run_and_may_do_nothing(http: httpx2.Client, url: str) -> None:
    answer = http.get(url, params={"format": "html"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.text.startswith("<!doctype html>")
    for told in ("<h1>letters</h1>", "Of 10 rows that training never saw, 100 %", "Loss by step"):
        assert told in answer.text, told


def test_json_says_what_the_model_was_made_from(http: httpx2.Client, url: str) -> None:
    found: dict[str, Any] = http.get(url).json()
    job = http.get(url.removesuffix("/report")).json()
    assert (found["job"], found["model"]) == (job["id"], "letters")
    assert found["made_from"]["recipe_digest"] == job["recipe_digest"]
    assert found["made_from"]["dataset"] == job["dataset"]
    assert found["metrics"]["accuracy"]["value"] == 1.0


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("text/html, */*", True),
        ("text/html;q=0.5, application/json", False),
        ("text/html, application/json", False),
        ("text/html;q=bad, */*", False),
        ("*/*", False),
        ("application/json", False),
    ],
)
def test_accept_chooses_where_format_does_not(
    http: httpx2.Client, url: str, accept: str, is_page: bool
) -> None:
    headers = {"accept": accept}
    answer = http.get(url, headers=headers)
    assert answer.headers["content-type"].startswith("text/html") == is_page
    assert answer.headers["vary"] == "accept"
    plain = http.get(url, headers=headers, params={"format": "json"})
    assert plain.headers["content-type"] == "application/json"


def test_another_form_is_refused(http: httpx2.Client, url: str, refused: "Refusal") -> None:
    refused(http.get(url, params={"format": "pdf"}), 400, "invalid_value", "format")


def test_nobody_else_sees_it(stranger: httpx2.Client, url: str, refused: "Refusal") -> None:
    answer = stranger.get(url, params={"format": "html"})
    refused(answer, 404, "not_found", "job_id")


def test_numbers_are_an_event_file_too(http: httpx2.Client, url: str) -> None:
    answer = http.get(url.replace("/report", "/tensorboard")).raise_for_status()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert 'attachment; filename="events.out.tfevents.' in answer.headers["content-disposition"]
    told = http.get(url.replace("/report", "/metrics"), params={"order": "asc"}).json()["data"]
    found = read(answer.content)
    assert [step for _, step, _ in found] == [event["data"]["step"] for event in told] == [1, 2, 3]
    losses = [scalars["train_loss"] for _, _, scalars in found]
    assert losses == pytest.approx([event["data"]["train_loss"] for event in told])
    for when, _, _ in found:
        assert int(when) in {event["created_at"] for event in told}
