"""Deployments: `model="name:profile"` through the official client, changed while they serve."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import NotFoundError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from purvey.contracts.engine import Generate
from purvey.contracts.sampling import Sampling
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

Json = Any
EngineOf = Callable[[str], ScriptedEngine]
SAYS: list[ChatCompletionMessageParam] = [{"role": "user", "content": "tell me more"}]


def _deploy(http: httpx2.Client, name: str, model: str, **profiles: Json) -> Json:
    body = {"id": name, "model": model, "profiles": profiles}
    return http.post("/v1/deployments", json=body).raise_for_status().json()


def _asked(engine: ScriptedEngine) -> Sampling:
    newest = engine.requests[-1]
    assert isinstance(newest, Generate)
    return newest.sampling


def _until(condition: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def _engines(http: httpx2.Client) -> dict[tuple[str, str], Json]:
    shown = http.get("/v1/server").raise_for_status().json()["engines"]
    return {(one["model"], one["state"]): one for one in shown}


def test_a_profile_is_chosen_by_name_and_speaks_where_the_request_is_silent(
    http: httpx2.Client, sdk: OpenAI, echo: str, engine_of: EngineOf
) -> None:
    generation = {"temperature": 0.25, "top_p": 0.5, "max_tokens": 4, "seed": 7, "stop": ["!"]}
    _deploy(http, "support", echo, brief={"generation": generation})
    chat = sdk.chat.completions.create(model="support:brief", messages=SAYS)
    assert (chat.model, chat.choices[0].message.content) == ("support:brief", "tell")
    assert chat.choices[0].finish_reason == "length"
    asked = _asked(engine_of(echo))
    assert (asked.temperature, asked.top_p, asked.seed, asked.stop) == (0.25, 0.5, 7, ("!",))
    text = sdk.completions.create(model="support:brief", prompt="abcdef!g", max_tokens=5, seed=9)
    assert text.choices[0].text == "abcde", "the request's own word wins"
    asked = _asked(engine_of(echo))
    assert (asked.temperature, asked.seed) == (0.25, 9)
    with sdk.completions.create(model="support:brief", prompt="tell me", stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == "tell"
    plain = sdk.chat.completions.create(model="support", messages=SAYS)
    assert plain.choices[0].message.content == "tell me more"


def test_the_profile_named_default_answers_to_the_name_alone(
    http: httpx2.Client, sdk: OpenAI, echo: str
) -> None:
    _deploy(http, "acme/short", echo, default={"generation": {"max_tokens": 2}})
    assert sdk.completions.create(model="acme/short", prompt="abc").choices[0].text == "ab"
    assert sdk.completions.create(model=echo, prompt="abc").choices[0].text == "abc"
    assert http.get("/v1/deployments/acme%2Fshort").json()["model"] == echo


def test_an_unknown_profile_is_not_found_and_says_which_there_are(
    http: httpx2.Client, sdk: OpenAI, echo: str
) -> None:
    _deploy(http, "known", echo, fast={}, exact={})
    with pytest.raises(NotFoundError, match="'exact', 'fast'"):
        sdk.completions.create(model="known:fsat", prompt="x")


def test_a_change_meets_the_next_request_and_disturbs_none(
    http: httpx2.Client, sdk: OpenAI, register: Callable[..., str], engine_of: EngineOf
) -> None:
    model = register("changing")
    _deploy(http, "live", model, a={"precision": "int8", "generation": {"max_tokens": 3}}, b={})
    assert sdk.completions.create(model="live:a", prompt="abcdef").choices[0].text == "abc"
    first = engine_of(model)
    first.gate.close()
    answers: list[str] = []
    running = threading.Thread(
        target=lambda: answers.append(
            sdk.completions.create(model="live:a", prompt="uvwxyz").choices[0].text
        )
    )
    running.start()
    _until(lambda: first.gate.num_waiting == 1)
    change = {"profiles": {"a": {"precision": "bf16", "generation": {"max_tokens": 2}}, "b": None}}
    changed = http.post("/v1/deployments/live", json=change).raise_for_status().json()
    assert set(changed["profiles"]) == {"a"}
    assert changed["profiles"]["a"]["precision"] == "bf16"
    assert sdk.completions.create(model="live:a", prompt="abcdef").choices[0].text == "ab"
    assert engine_of(model) is not first
    _until(lambda: (model, "leaving") in _engines(http))
    assert first.is_alive
    first.gate.open()
    running.join()
    assert answers == ["uvw"]
    _until(lambda: first.is_closed)


def test_a_deployment_is_listed_shown_and_deleted_and_its_model_stays(
    http: httpx2.Client, sdk: OpenAI, echo: str, refused: "Refusal"
) -> None:
    made = _deploy(http, "short-lived", echo, p={"keep_alive_s": 5, "is_pinned": False})
    assert made["object"] == "deployment"
    assert made["profiles"]["p"]["keep_alive_s"] == 5
    assert made in http.get("/v1/deployments").json()["data"]
    assert http.get("/v1/deployments/short-lived").json() == made
    refused(http.delete(f"/v1/models/{echo}"), 409, "in_use")
    gone = http.delete("/v1/deployments/short-lived").json()
    assert gone == {"id": "short-lived", "object": "deployment", "deleted": True}
    for method in ("GET", "DELETE"):
        refused(http.request(method, "/v1/deployments/short-lived"), 404, "not_found", "deployment")
    with pytest.raises(NotFoundError):
        sdk.completions.create(model="short-lived:p", prompt="x")
    assert sdk.models.retrieve(echo).id == echo


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"id": "a b"}, "invalid_value", "id"),
        ({"model": ""}, "invalid_value", "model"),
        ({"profiles": {"a:b": {}}}, "invalid_value", "profiles.a:b"),
        ({"profiles": {"p": {"precison": "int8"}}}, "invalid_value", "profiles.p.precison"),
        ({"profiles": {"p": {"precision": "fp8"}}}, "invalid_value", "profiles.p.precision"),
        ({"profiles": {"p": {"keep_alive_s": -2}}}, "invalid_value", "profiles.p.keep_alive_s"),
        (
            {"profiles": {"p": {"batch_window_ms": 2}}},
            "invalid_value",
            "profiles.p.batch_window_ms",
        ),
        (
            {"profiles": {"p": {"generation": {"temperature": 3}}}},
            "invalid_value",
            "profiles.p.generation.temperature",
        ),
        ({"profiles": {"p": {"adapter": 7}}}, "invalid_value", "profiles.p.adapter"),
        ({"replicas": 2}, "unsupported_value", "replicas"),
        ({"traffic_weights": {"p": 1}}, "unsupported_value", "traffic_weights"),
        ({"profile": {}}, "invalid_value", "profile"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    http: httpx2.Client, echo: str, refused: "Refusal", change: Json, code: str, param: str
) -> None:
    answer = http.post("/v1/deployments", json={"id": "wrong", "model": echo} | change)
    refused(answer, 400, code, param)
    assert http.get("/v1/deployments/wrong").status_code == 404


def test_a_classifier_takes_a_batch_window_and_no_generation_defaults(
    http: httpx2.Client, spam: str, refused: "Refusal", api: "RunningServer"
) -> None:
    body = {"id": "filter", "model": spam, "profiles": {"p": {"generation": {"seed": 1}}}}
    refused(http.post("/v1/deployments", json=body), 400, "invalid_value", "profiles.p.generation")
    _deploy(http, "filter", spam, patient={"batch_window_ms": 20})
    answer = http.post("/v1/classify", json={"model": "filter:patient", "input": "spam"})
    assert answer.json()["results"][0]["label"] == "spam"
    assert api.engines is not None
    assert api.engines.loads[-1].batch_window_s == pytest.approx(0.02)


def test_a_profile_explains_itself(http: httpx2.Client, spam: str, api: "RunningServer") -> None:
    _deploy(http, "explained", spam, slow={"batch_window_ms": 7})
    body = {"model": "explained:slow", "input": {"text": "win the spam prize"}}
    shown = http.post("/v1/explanations", json=body).raise_for_status().json()
    assert (shown["status"], shown["model"]) == ("completed", spam)
    assert api.engines is not None
    assert api.engines.loads[-1].batch_window_s == pytest.approx(0.007)


def test_an_unknown_model_is_not_found(http: httpx2.Client, refused: "Refusal") -> None:
    answer = http.post("/v1/deployments", json={"id": "none", "model": "no-such"})
    refused(answer, 404, "model_not_found", "model")


def test_a_model_is_unloaded_and_comes_back(
    http: httpx2.Client, sdk: OpenAI, register: Callable[..., str], engine_of: EngineOf
) -> None:
    name = register("acme-coming")
    assert sdk.completions.create(model=name, prompt="x").choices[0].text == "x"
    shown = _engines(http)[name, "ready"]
    assert (shown["users"], shown["is_pinned"]) == (0, False)
    assert 0 < shown["expires_in_s"] <= 1_800
    before = http.get("/v1/server").json()["memory"]
    assert 0 < shown["memory_bytes"] <= before["held_bytes"] <= before["budget_bytes"]
    told = http.post(f"/v1/models/{name}/unload").json()
    assert told == {"id": name, "object": "model", "unloaded": 1}
    _until(lambda: engine_of(name).is_closed)
    assert http.post(f"/v1/models/{name}/unload").json()["unloaded"] == 0
    assert sdk.completions.create(model=name, prompt="x").choices[0].text == "x"
    after = http.get("/v1/server").json()["memory"]
    assert after["loads"] == before["loads"] + 1
    assert after["evictions"] == before["evictions"] + 1


def test_an_id_with_slashes_is_unloaded(
    api: "RunningServer", http: httpx2.Client, write_model_folder: Callable[..., Any]
) -> None:
    folder = write_model_folder(api.data_dir.parent / "models" / "deep")
    http.post("/v1/models", json={"id": "acme/deep", "source": str(folder)}).raise_for_status()
    assert http.post("/v1/models/acme%2Fdeep/unload").json()["unloaded"] == 0
    assert http.post("/v1/models/acme%2Fshallow/unload").status_code == 404


def test_deployments_survive_the_server(server: "RunningServer", client: OpenAI) -> None:
    from purvey.app.application import build
    from purvey.testing.model_folder import write_plausible_folder
    from purvey.testing.scripted_engine import ScriptedLauncher

    folder = write_plausible_folder(server.data_dir.parent / "models" / "kept")
    headers = {"authorization": f"Bearer {server.admin_key}"}
    with httpx2.Client(base_url=server.base_url, headers=headers) as http:
        http.post("/v1/models", json={"id": "kept", "source": str(folder)}).raise_for_status()
        _deploy(http, "d", "kept", p={"is_pinned": True, "generation": {"max_tokens": 1}})
    server.application.stop()
    engines = ScriptedLauncher()
    again = build(server.settings, engine_launcher=engines)
    again.start()
    try:
        _until(lambda: "kept" in engines.engines)  # pinned: nobody has asked yet
        with client.with_options(base_url=f"{again.base_url}/v1") as sdk:
            assert sdk.completions.create(model="d:p", prompt="xyz").choices[0].text == "x"
    finally:
        again.stop()
