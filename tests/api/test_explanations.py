"""Explanations: at once or later, with a picture that is a file, listed, deleted, refused."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec
from purvey.errors import MethodUnsupportedError
from purvey.server.native import explaining
from purvey.testing.scripted_answers import tiny_png
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until

URL = "/v1/explanations"
TEXT: dict[str, Any] = {"input": {"text": "win the spam prize"}}
PNG_URL = "data:image/png;base64," + base64.b64encode(tiny_png()).decode()


@pytest.fixture(scope="module")
def digits(register: Callable[..., str]) -> str:
    return register("digits", labels=("0", "1"), inputs={"input": ImageSpec(height=8, width=8)})


@pytest.fixture
def engine(
    http: httpx2.Client, spam: str, engine_of: Callable[[str], ScriptedEngine]
) -> Iterator[ScriptedEngine]:
    """The engine of `spam`, loaded; its gate is open again afterwards."""
    _explain(http, model=spam)
    engine = engine_of(spam)
    yield engine
    engine.gate.open()


def _explain(http: httpx2.Client, **body: object) -> dict[str, Any]:
    answer = http.post(URL, json=TEXT | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_text_is_explained_at_once_with_its_faithfulness(http: httpx2.Client, spam: str) -> None:
    found = _explain(http, model=spam, target={"label": "spam", "contrast": "ham"})
    assert found["id"].startswith("expl_")
    assert (found["object"], found["status"], found["error"]) == ("explanation", "completed", None)
    digest = http.get(f"/v1/models/{spam}").json()["digest"]
    assert (found["model"], found["model_revision"]) == (spam, f"sha256:{digest}")
    assert (found["task"], found["evidence"]) == ("text-classification", "causal")
    assert (found["target"]["label"], found["target"]["contrast"]) == ("spam", "ham")
    assert [unit["text"] for unit in found["units"]] == ["win", "the", "spam", "prize"]
    assert found["faithfulness"]["verdict"] == "faithful"
    assert set(found["faithfulness"]["curves"]) == {"k", "deletion", "insertion"}
    assert found["usage"]["forwards"] == found["cost"]["forwards"] > 0
    assert (found["precision"], found["artifacts"]) == ("float32", {})
    assert http.get(f"{URL}/{found['id']}").json() == found


def test_a_conversation_and_its_output_are_explained(http: httpx2.Client, echo: str) -> None:
    turns = [{"role": "user", "content": "say it"}]
    found = _explain(http, model=echo, input={"messages": turns}, output={"text": "it"})
    assert found["target"]["text"] == "it"
    assert [unit["turn"] for unit in found["units"]] == [0, 0]


def test_an_image_comes_with_a_picture_that_is_a_file(http: httpx2.Client, digits: str) -> None:
    found = _explain(http, model=digits, input={"image": PNG_URL})
    assert "picture_png" not in found
    picture = http.get(found["artifacts"]["png"])
    assert picture.content == tiny_png()
    assert found["id"] in picture.headers["content-disposition"]
    without = _explain(http, model=digits, input={"image": PNG_URL}, include=["curves"])
    assert without["artifacts"] == {}


def test_what_is_asked_reaches_the_engine(
    http: httpx2.Client, spam: str, engine: ScriptedEngine
) -> None:
    _explain(
        http,
        model=spam,
        method="leave_one_out",
        units="word",
        perturbation="delete",
        budget={"max_forwards": 100},
        faithfulness={"random_orders": 4, "curve_points": 5},
        seed=7,
    )
    request: Any = engine.requests[-1]
    asked = request.request
    assert (asked.method, asked.units, asked.perturbation) == ("leave_one_out", "word", "delete")
    assert (asked.max_forwards, asked.random_orders, asked.curve_points) == (100, 4, 5)
    assert asked.seed == 7


def test_what_takes_longer_is_accepted_and_fetched_later(
    http: httpx2.Client, spam: str, engine: ScriptedEngine, until: "Until", refused: "Refusal"
) -> None:
    engine.gate.close()
    accepted = http.post(URL, json=TEXT | {"model": spam, "budget": {"max_ms": 0}})
    assert accepted.status_code == 202
    found = accepted.json()
    assert (found["status"], found["error"]) == ("in_progress", None)
    assert http.get(f"{URL}/{found['id']}").json() == found
    refused(http.delete(f"{URL}/{found['id']}"), 409, "state_conflict")
    engine.gate.open()
    done = until(f"{URL}/{found['id']}", "completed", "failed")
    assert done["status"] == "completed"
    assert done["units"]
    assert done["created"] == found["created"]


def test_no_more_than_the_limit_are_computed_at_one_time(
    http: httpx2.Client,
    spam: str,
    engine: ScriptedEngine,
    until: "Until",
    refused: "Refusal",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explaining, "LIMITS", replace(LIMITS, running_explanations=2))
    engine.gate.close()
    body = TEXT | {"model": spam, "budget": {"max_ms": 0}}
    held = [http.post(URL, json=body).json()["id"] for _ in range(2)]
    stored = http.get(URL, params={"limit": 1}).json()["data"]
    refused(http.post(URL, json=body), 503, "server_is_overloaded")
    assert http.get(URL, params={"limit": 1}).json()["data"] == stored, "nothing was stored of it"
    engine.gate.open()
    for one in held:
        until(f"{URL}/{one}", "completed")
    _explain(http, model=spam)


def test_one_that_fails_later_says_why(
    http: httpx2.Client, spam: str, engine: ScriptedEngine, until: "Until"
) -> None:
    engine.gate.close()
    body = TEXT | {"model": spam, "budget": {"max_ms": 0}}
    found = http.post(URL, json=body).json()
    until(f"{URL}/{found['id']}", "in_progress")
    engine.crash()
    done = until(f"{URL}/{found['id']}", "completed", "failed")
    assert done["status"] == "failed"
    assert done["error"]["code"] == "worker_crashed"


def test_one_that_fails_at_once_is_refused_and_listed_as_failed(
    http: httpx2.Client, spam: str, engine: ScriptedEngine, refused: "Refusal"
) -> None:
    engine.refusals.append(MethodUnsupportedError("not here", param="method"))
    answer = http.post(URL, json=TEXT | {"model": spam})
    refused(answer, 422, "method_unsupported", "method")
    newest = http.get(URL, params={"limit": 1}).json()["data"][0]
    assert (newest["status"], newest["error"]["code"]) == ("failed", "method_unsupported")


def test_pages_follow_one_another(http: httpx2.Client, spam: str) -> None:
    made = [_explain(http, model=spam)["id"] for _ in range(3)]
    first = http.get(URL, params={"limit": 2}).json()
    assert [e["id"] for e in first["data"]] == made[:0:-1]
    assert first["has_more"]
    after = {"limit": 1, "after": first["last_id"]}
    assert [e["id"] for e in http.get(URL, params=after).json()["data"]] == made[:1]


def test_a_deleted_one_is_gone_with_its_picture(
    http: httpx2.Client, digits: str, refused: "Refusal"
) -> None:
    found = _explain(http, model=digits, input={"image": PNG_URL})
    gone = http.delete(f"{URL}/{found['id']}").json()
    assert gone == {"id": found["id"], "object": "explanation", "deleted": True}
    refused(http.get(f"{URL}/{found['id']}"), 404, "not_found", "explanation_id")
    assert http.get(found["artifacts"]["png"]).status_code == 404


def test_one_whose_picture_was_deleted_can_be_deleted(http: httpx2.Client, digits: str) -> None:
    found = _explain(http, model=digits, input={"image": PNG_URL})
    file_id = found["artifacts"]["png"].split("/")[3]
    assert http.delete(f"/v1/files/{file_id}").status_code == 200
    assert http.delete(f"{URL}/{found['id']}").status_code == 200


def test_it_is_metered_once(
    http: httpx2.Client, spam: str, usage_by_kind: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    before = usage_by_kind().get("explanation", {"requests": 0, "rows": 0})
    found = _explain(http, model=spam)
    after = usage_by_kind()["explanation"]
    assert after["requests"] - before["requests"] == 1
    assert after["rows"] - before["rows"] == found["cost"]["forwards"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": {}}, "input"),
    "two inputs": ({"input": {"text": "a", "image": PNG_URL}}, "input"),
    "an image that is a path": ({"input": {"image": "/etc/x.png"}}, "input.image"),
    "the label against itself": ({"target": {"label": "a", "contrast": "a"}}, "target.contrast"),
    "an unknown method": ({"method": "lime"}, "method"),
    "unknown units": ({"units": "pixel"}, "units"),
    "too few forwards": ({"budget": {"max_forwards": 7}}, "budget.max_forwards"),
    "too many forwards": ({"budget": {"max_forwards": 4_097}}, "budget.max_forwards"),
    "no orders": ({"faithfulness": {"random_orders": 0}}, "faithfulness.random_orders"),
    "an unknown picture": ({"include": ["svg"]}, "include.0"),
    "a misspelt field": ({"bugdet": {}}, "bugdet"),
    "an empty output": ({"output": {"text": ""}}, "output.text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_explained_is_refused_by_name(
    http: httpx2.Client, spam: str, refused: "Refusal", name: str
) -> None:
    change, param = REFUSED[name]
    body = {"model": spam} | TEXT | change
    refused(http.post(URL, json=body), 400, "invalid_value", param)


def test_an_unknown_model_is_not_found(http: httpx2.Client, refused: "Refusal") -> None:
    answer = http.post(URL, json=TEXT | {"model": "no-such"})
    refused(answer, 404, "model_not_found", "model")
