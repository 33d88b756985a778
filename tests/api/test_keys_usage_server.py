"""What administrators and operators read: keys, usage, the server, recipes, health."""

from typing import TYPE_CHECKING, Any, get_args

import httpx2
import pytest

from purvey import __version__
from purvey.contracts.records import Scope

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

ORDINARY = set(get_args(Scope)) - {"admin"}
RECIPE = {"task": "text-classification", "name": "spam"}


def test_a_key_is_everything_but_admin_unless_said(http: httpx2.Client) -> None:
    made = http.post("/v1/keys", json={"name": "reports"}).json()
    assert made.pop("key").startswith("sk-purvey-")
    assert made["id"].startswith("key_")
    assert (made["object"], made["name"]) == ("key", "reports")
    assert made["project_id"] == "proj_default"
    assert set(made["scopes"]) == ORDINARY
    assert made["last_used_at"] is None
    assert made in http.get("/v1/keys").json()["data"]


def test_the_hint_is_the_end_of_the_secret(http: httpx2.Client) -> None:
    made = http.post("/v1/keys", json={"name": "hinted", "scopes": ["inference"]}).json()
    assert made["key"].endswith(made["hint"])
    assert made["scopes"] == ["inference"]


def test_keys_are_listed_for_one_project(http: httpx2.Client, stranger: httpx2.Client) -> None:
    mine = {key["id"] for key in http.get("/v1/keys", params={"limit": 100}).json()["data"]}
    theirs = {key["id"] for key in stranger.get("/v1/keys").json()["data"]}
    assert mine
    assert theirs
    assert mine.isdisjoint(theirs)


def test_a_revoked_key_stays_listed_with_its_time(http: httpx2.Client) -> None:
    made = http.post("/v1/keys", json={"name": "revoked"}).json()
    revoked = http.delete(f"/v1/keys/{made['id']}").json()
    assert revoked["revoked_at"] >= made["created_at"]
    assert http.delete(f"/v1/keys/{made['id']}").json() == revoked, "twice is the same"
    assert revoked in http.get("/v1/keys").json()["data"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["everything"]}, "scopes.0"),
        ({"name": "x", "project": "a b"}, "project"),
        ({"name": "x", "scope": ["admin"]}, "scope"),
    ],
)
def test_a_key_that_is_refused(
    http: httpx2.Client, refused: "Refusal", body: dict[str, object], param: str
) -> None:
    refused(http.post("/v1/keys", json=body), 400, "invalid_value", param)


def test_usage_is_summed_by_model_kind_and_day(http: httpx2.Client, echo: str) -> None:
    for _ in range(2):
        http.post("/v1/completions", json={"model": echo, "prompt": "abc"}).raise_for_status()
    found: dict[str, Any] = {}
    for by in ("model", "kind", "day"):
        answer = http.get("/v1/usage", params={"by": by}).json()
        assert answer["object"] == "usage"
        found[by] = {total["group"]: total for total in answer["data"]}
    assert found["model"][echo]["output_tokens"] == 6
    assert found["kind"]["completion"]["requests"] == 2
    assert found["kind"]["completion"]["input_tokens"] == 6
    assert len(next(iter(found["day"]))) == len("2026-01-31")


def test_usage_is_bounded_in_time_and_by_project(
    http: httpx2.Client, stranger: httpx2.Client, echo: str
) -> None:
    http.post("/v1/completions", json={"model": echo, "prompt": "abc"}).raise_for_status()
    assert http.get("/v1/usage", params={"until": 1}).json()["data"] == []
    assert http.get("/v1/usage", params={"since": 1}).json()["data"] != []
    assert stranger.get("/v1/usage").json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [("by=hour", "by"), ("since=nan", "since"), ("since=-1", "since"), ("from=1", "from")],
)
def test_a_usage_query_that_is_refused(
    http: httpx2.Client, refused: "Refusal", query: str, param: str
) -> None:
    refused(http.get(f"/v1/usage?{query}"), 400, "invalid_value", param)


def test_the_server_shows_what_the_project_may_know(
    http: httpx2.Client, stranger: httpx2.Client, echo: str
) -> None:
    http.post("/v1/completions", json={"model": echo, "prompt": "a"}).raise_for_status()
    mine, theirs = http.get("/v1/server").json(), stranger.get("/v1/server").json()
    assert (mine["version"], mine["models_loaded"]) == (__version__, [echo])
    assert (mine["jobs_running"], theirs["models_loaded"]) == (0, [])
    assert mine["uptime_s"] > 0


def test_a_recipe_is_resolved_and_its_digest_is_stable(http: httpx2.Client) -> None:
    first = http.post("/v1/recipes/validate", json={"recipe": RECIPE}).json()
    assert first["object"] == "recipe"
    assert first["recipe"]["model"]["architecture"] == "text-ngrams"
    again = http.post("/v1/recipes/validate", json={"recipe": first["recipe"]}).json()
    assert again == first


@pytest.mark.parametrize(
    ("change", "param", "named"),
    [
        ({"optimiser": {}}, "recipe.optimiser", "'optimizer'"),
        ({"train": {"epoch": 3}}, "recipe.train.epoch", "'epochs'"),
        ({"learning_rate": 1}, "recipe.learning_rate", "'optimizer.learning_rate'"),
        ({"train": {"batch_size": 10**9}}, "recipe.train.batch_size", "65536"),
        ({"task": "poetry"}, "recipe.task", "text-generation"),
        ({"seed": -1}, "recipe.seed", "0"),
    ],
)
def test_a_recipe_that_is_refused_names_field_and_remedy(
    http: httpx2.Client,
    refused: "Refusal",
    change: dict[str, object],
    param: str,
    named: str,
) -> None:
    answer = http.post("/v1/recipes/validate", json={"recipe": RECIPE | change})
    assert named in refused(answer, 400, "invalid_value", param)


def test_health_and_readiness_are_said_apart(keyless: httpx2.Client) -> None:
    assert keyless.get("/healthz").json() == {"status": "ok"}
    assert keyless.get("/readyz").json() == {"status": "ready"}


def test_metrics_count_requests_by_template(
    keyless: httpx2.Client, http: httpx2.Client, api: "RunningServer"
) -> None:
    http.get("/v1/files/file-of-somebody")
    answer = keyless.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    labels = 'method="GET",route="/v1/files/{file_id}",status="404"'
    lines = [
        line for line in answer.text.splitlines() if line.startswith("purvey_http_requests_total")
    ]
    assert any(
        all(part in line for part in labels.split(",")) and not line.endswith(" 0.0")
        for line in lines
    )
    assert "file-of-somebody" not in answer.text
    assert api.admin_key not in answer.text


def test_metrics_tell_few_methods_apart(keyless: httpx2.Client) -> None:
    """A caller may name any of the dozens that there are, on every route."""
    for method in ("PROPFIND", "MKCALENDAR", "SUBSCRIBE"):
        keyless.request(method, "/v1/files")
    counted = keyless.get("/metrics").text
    assert 'method="other"' in counted
    assert "PROPFIND" not in counted
