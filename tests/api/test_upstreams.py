"""Models that another server computes, by the official client: through us, to a server of ours."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import APIStatusError, OpenAI

from purvey.cli.main import run
from purvey.testing.model_folder import BERT, write_plausible_folder
from tests.api.upstream_double import UpstreamDouble, completion
from tests.conftest import FIRST_KEY, RunningServer, scripted_server

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

Json = dict[str, Any]
SAID: list[Any] = [{"role": "user", "content": "say it again"}]
OWN = {"id", "created", "system_fingerprint"}
CALL_ID = re.compile(r"call_[0-9a-f]+")
TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
PATIENCE_S = 20.0


def _until(is_so: Callable[[], object]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def _lasting(answer: Json) -> Json:
    """Return what two answers to one request have in common."""
    kept = {name: value for name, value in answer.items() if name not in OWN}
    found: Json = json.loads(CALL_ID.sub("call", json.dumps(kept)))
    return found


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The upstream: a server like ours, with models of its own."""
    with scripted_server(tmp_path_factory.mktemp("back")) as running:
        with _client(running) as http:
            for name, config in (("inner", None), ("vectors", BERT)):
                folder = running.data_dir.parent / "models" / name
                write_plausible_folder(folder, *([config] if config else []))
                http.post("/v1/models", json={"id": name, "source": str(folder)}).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def double() -> Iterator[UpstreamDouble]:
    with UpstreamDouble() as running:
        yield running


@pytest.fixture(scope="module")
def api(
    back: RunningServer, double: UpstreamDouble, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The server in front."""
    root = tmp_path_factory.mktemp("front")
    key_file = root / "key"
    key_file.write_text(f"{FIRST_KEY}\n", encoding="ascii")
    upstreams = [
        {"name": "back", "url": f"{back.base_url}/v1/", "key_file": key_file},
        {"name": "double", "url": double.url, "key_file": key_file},
    ]
    with scripted_server(root, upstreams=upstreams) as running:
        with _client(running) as http:
            for name, upstream, there, task in (
                ("far", "back", "inner", "text-generation"),
                ("far-vectors", "back", "vectors", "embedding"),
                ("lost", "back", "nobody", "text-generation"),
                ("scripted", "double", "inner", "text-generation"),
            ):
                body = {"id": name, "source": there, "upstream": upstream, "task": task}
                http.post("/v1/models", json=body).raise_for_status()
        yield running


def _client(server: RunningServer) -> httpx2.Client:
    headers = {"authorization": f"Bearer {server.admin_key}"}
    return httpx2.Client(base_url=server.base_url, headers=headers, timeout=60)


def _used(http: httpx2.Client, model: str) -> Json:
    data = http.get("/v1/usage").json()["data"]
    return next((t for t in data if t["group"] == model), {"requests": 0, "input_tokens": 0,
                "output_tokens": 0, "estimated_requests": 0})  # fmt: skip


def _spent(before: Json, after: Json) -> tuple[int, int, int, int]:
    names = ("requests", "input_tokens", "output_tokens", "estimated_requests")
    one, two, three, four = (after[name] - before[name] for name in names)
    return one, two, three, four


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 2, "seed": 1},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": {"type": "json_object"}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"stop": ["it"], "temperature": 0, "max_tokens": 5},
    ],
    ids=lambda more: "-".join(more) or "plain",
)
def test_an_answer_is_the_upstreams_own_under_our_name(
    sdk: OpenAI, http: httpx2.Client, back: RunningServer, more: Json
) -> None:
    asked: Json = {"messages": SAID, "seed": 7} | more
    before = _used(http, "far")
    here = sdk.chat.completions.create(model="far", **asked)
    with back.openai() as directly:
        there = directly.chat.completions.create(model="inner", **asked)
    assert here.model == "far"
    assert here.usage is not None
    assert _lasting(here.to_dict()) == _lasting(there.to_dict()) | {"model": "far"}
    spent = (1, here.usage.prompt_tokens, here.usage.completion_tokens, 0)
    assert _spent(before, _used(http, "far")) == spent
    assert spent[2] > 0


@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_stream_is_the_upstreams_own_and_counts_only_for_who_asks(
    sdk: OpenAI, http: httpx2.Client, wants_usage: bool
) -> None:
    before = _used(http, "far")
    more: Json = {"stream_options": {"include_usage": True}} if wants_usage else {}
    chunks = list(sdk.chat.completions.create(model="far", messages=SAID, stream=True, **more))
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == "say it again"
    assert len(said) > len("say it again")
    assert {c.model for c in chunks} == {"far"}
    assert chunks[[bool(c.choices) for c in chunks].index(True)].choices[0].delta.role
    one, tokens_in, tokens_out, estimated = _spent(before, _used(http, "far"))
    assert (one, estimated) == (1, 0)
    told = [c.usage for c in chunks if c.usage]
    assert len(told) == wants_usage
    assert [bool(c.choices) for c in chunks].count(False) == wants_usage
    if wants_usage:
        assert (told[0].prompt_tokens, told[0].completion_tokens) == (tokens_in, tokens_out)
    assert tokens_out >= len("say it again")


def test_completions_are_passed_on(sdk: OpenAI, back: RunningServer) -> None:
    asked: Json = {"prompt": ["one", "two"], "logprobs": 1, "echo": True, "seed": 3}
    here = sdk.completions.create(model="far", **asked)
    with back.openai() as directly:
        there = directly.completions.create(model="inner", **asked)
    assert [c.to_dict() for c in here.choices] == [c.to_dict() for c in there.choices]
    assert (here.model, here.usage) == ("far", there.usage)
    parts = list(sdk.completions.create(model="far", prompt="one", stream=True))
    assert "".join(p.choices[0].text for p in parts) == "one"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_passed_on(
    sdk: OpenAI, http: httpx2.Client, back: RunningServer, encoding: Any
) -> None:
    before = _used(http, "far-vectors")
    asked: Json = {"input": ["a cat", "a dog"], "encoding_format": encoding}
    here = sdk.embeddings.create(model="far-vectors", **asked)
    with back.openai() as directly:
        there = directly.embeddings.create(model="vectors", **asked)
    assert [one.embedding for one in here.data] == [one.embedding for one in there.data]
    assert (here.model, here.usage) == ("far-vectors", there.usage)
    assert _spent(before, _used(http, "far-vectors")) == (1, here.usage.prompt_tokens, 0, 0)


def test_what_is_sent_arrives_but_for_the_name_and_the_caller(
    http: httpx2.Client, double: UpstreamDouble
) -> None:
    """Fields, parts and values that only the upstream knows are none of ours."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "é 😀"}, image]}],
        "reasoning_effort": "high",
        "guided_json": {"type": "object"},
        "temperature": 1.5e-7,
        "logit_bias": {"1": -100},
    }
    double.script = lambda _: [completion(timings={"predicted_ms": 1.25})]
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.json()["timings"] == {"predicted_ms": 1.25}
    heard = double.heard[-1]
    assert heard.path == "/v1/chat/completions"
    assert heard.json == body | {"model": "inner"}
    assert heard.headers["authorization"] == f"Bearer {FIRST_KEY}"
    assert "cookie" not in heard.headers


def test_a_streams_options_are_kept_beside_ours(
    http: httpx2.Client, double: UpstreamDouble
) -> None:
    options = {"continuous_usage_stats": True, "include_usage": False}
    body = {"model": "scripted", "messages": SAID, "stream": True, "stream_options": options}
    http.post("/v1/chat/completions", json=body)
    assert double.heard[-1].json["stream_options"] == options | {"include_usage": True}


def test_connections_are_used_again(http: httpx2.Client, double: UpstreamDouble) -> None:
    double.script = lambda _: [completion()]
    http.post("/v1/chat/completions", json={"model": "scripted", "messages": SAID})
    before = double.num_connections
    for _ in range(3):
        http.post("/v1/chat/completions", json={"model": "scripted", "messages": SAID})
    assert double.num_connections == before


def test_a_refusal_of_the_request_is_the_upstreams_own(
    http: httpx2.Client, back: RunningServer, refused: "Refusal"
) -> None:
    body = {"messages": SAID, "temprature": 1}
    with _client(back) as directly:
        theirs = directly.post("/v1/chat/completions", json=body | {"model": "inner"})
    ours = http.post("/v1/chat/completions", json=body | {"model": "far"})
    message = refused(ours, 400, "invalid_value", "temprature")
    assert message == theirs.json()["error"]["message"]
    assert "temperature" in message


def test_a_model_that_the_upstream_does_not_know_is_the_operators_matter(
    http: httpx2.Client, refused: "Refusal"
) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "lost", "messages": SAID})
    assert "'back'" in refused(answer, 502, "upstream_misconfigured")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/classify", {"input": "x"}),
        ("/v1/explanations", {"input": {"messages": SAID}}),
        ("/tokenize", {"prompt": "x"}),
        ("/v1/score", {"text_1": "a", "text_2": "b"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        (
            "/v1/decisions",
            {
                "input": "x",
                "questions": [
                    {
                        "type": "choice",
                        "instructions": "?",
                        "choices": [{"value": "a"}, {"value": "b"}],
                    }
                ],
            },
        ),
    ],
)
def test_what_needs_our_engine_says_so(
    http: httpx2.Client, refused: "Refusal", path: str, body: Json
) -> None:
    answer = http.post(path, json={"model": "far"} | body)
    assert answer.status_code == 422, answer.text
    assert "upstream 'back'" in refused(answer, 422, "method_unsupported", "model")


def test_nothing_is_trained_on_it(sdk: OpenAI, training_file: str) -> None:
    with pytest.raises(APIStatusError, match="upstream 'back'") as caught:
        sdk.fine_tuning.jobs.create(model="far", training_file=training_file)
    assert caught.value.status_code == 422


def test_a_model_for_text_gives_no_vectors(http: httpx2.Client, refused: "Refusal") -> None:
    answer = http.post("/v1/embeddings", json={"model": "far", "input": "x"})
    refused(answer, 422, "method_unsupported", "model")
    answer = http.post("/v1/chat/completions", json={"model": "far-vectors", "messages": SAID})
    refused(answer, 422, "method_unsupported", "model")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("stream", "yes", "stream"),
        ("stream_options", 1, "stream_options"),
        ("stream_options", {"include_usage": 1}, "stream_options.include_usage"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("n", True, "n"),
    ],
)
def test_what_is_read_here_is_checked_here(
    http: httpx2.Client, refused: "Refusal", field: str, value: object, param: str
) -> None:
    body = {"model": "far", "messages": SAID, "stream": True} | {field: value}
    refused(http.post("/v1/chat/completions", json=body), 400, "invalid_value", param)


def test_it_is_listed_shown_and_deleted_as_any_model(
    sdk: OpenAI, http: httpx2.Client, refused: "Refusal"
) -> None:
    body = {"id": "brief", "source": "Qwen/Qwen3-32B", "upstream": "back"}
    made = http.post("/v1/models", json=body).json()
    assert (made["family"], made["task"]) == ("upstream", "text-generation")
    assert made["lineage"] == {"upstream": "back", "model": "Qwen/Qwen3-32B"}
    assert http.post("/v1/models", json=body).json() == made
    assert "brief" in {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve("brief").owned_by == made["owned_by"]
    other = http.post("/v1/models", json=body | {"source": "another"})
    refused(other, 409, "state_conflict", "id")
    shown = http.get("/v1/server").json()["upstreams"]
    there = {"upstream": "back", "upstream_model": "Qwen/Qwen3-32B", "state": "closed", "users": 0}
    assert {"model": "brief"} | there in shown
    assert http.post("/v1/models/brief/unload").json()["unloaded"] == 0
    assert sdk.models.delete("brief").deleted
    assert "brief" not in {one["model"] for one in http.get("/v1/server").json()["upstreams"]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"upstream": "nobody"}, "upstream"),
        ({"upstream": "http://127.0.0.1/v1"}, "upstream"),
        ({"revision": "main"}, "revision"),
        ({"task": "rerank"}, "task"),
    ],
)
def test_a_registration_that_cannot_be_is_refused(
    http: httpx2.Client, refused: "Refusal", change: Json, param: str
) -> None:
    body = {"id": "x", "source": "y", "upstream": "back"} | change
    refused(http.post("/v1/models", json=body), 400, "invalid_value", param)


def test_no_other_project_reaches_it(stranger: httpx2.Client, refused: "Refusal") -> None:
    answer = stranger.post("/v1/chat/completions", json={"model": "far", "messages": SAID})
    refused(answer, 404, "model_not_found", "model")
    assert stranger.get("/v1/server").json()["upstreams"] == []


def test_only_an_administrator_registers_one(
    api: RunningServer, key_with: Callable[..., str], refused: "Refusal"
) -> None:
    headers = {"authorization": f"Bearer {key_with('models:write', 'inference')}"}
    with httpx2.Client(base_url=api.base_url, headers=headers) as narrow:
        body = {"id": "mine", "source": "inner", "upstream": "back"}
        refused(narrow.post("/v1/models", json=body), 403, "insufficient_permissions")
        said = narrow.post("/v1/chat/completions", json={"model": "far", "messages": SAID})
        assert said.status_code == 200


def test_a_deployment_serves_it_with_defaults_and_moves_to_it_while_it_serves(
    sdk: OpenAI, http: httpx2.Client, double: UpstreamDouble, echo: str, refused: "Refusal"
) -> None:
    generation = {"temperature": 0.0, "max_tokens": 3, "stop": ["x"]}
    body: Json = {"id": "moves", "model": echo, "profiles": {"brief": {"generation": generation}}}
    http.post("/v1/deployments", json=body).raise_for_status()
    asked: Json = {"model": "moves:brief", "messages": SAID}
    assert sdk.chat.completions.create(**asked).choices[0].message.content == "say"
    http.post("/v1/deployments/moves", json={"model": "far"}).raise_for_status()
    answer = sdk.chat.completions.create(**asked)
    assert (answer.choices[0].message.content, answer.model) == ("say", "moves:brief")
    http.post("/v1/deployments/moves", json={"model": "scripted"}).raise_for_status()
    double.script = lambda _: [completion()]
    sdk.chat.completions.create(**asked, temperature=0.5, max_tokens=9)
    sent = double.heard[-1].json
    assert (sent["temperature"], sent["max_tokens"], sent["stop"]) == (0.5, 9, ["x"])
    assert "max_completion_tokens" not in sent
    for profile, wrong in (
        ({"precision": "bf16"}, "precision"),
        ({"keep_alive_s": 1}, "keep_alive_s"),
        ({"is_pinned": True}, "is_pinned"),
        ({"batch_window_ms": 1}, "batch_window_ms"),
    ):
        changed = http.post("/v1/deployments/moves", json={"profiles": {"p": profile}})
        refused(changed, 400, "invalid_value", f"profiles.p.{wrong}")
    assert sdk.models.retrieve("far").id == "far"


def test_ps_tells_whether_its_server_is_asked(
    api: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PURVEY_BASE_URL", api.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", api.admin_key)
    with pytest.raises(SystemExit):
        run(["ps"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["far", "back", "inner", "asked", "0"] in lines
    with pytest.raises(SystemExit):
        run(["ps", "--json"])
    told = json.loads(capsys.readouterr().out)["upstreams"]
    there = {"upstream": "back", "upstream_model": "inner", "state": "closed", "users": 0}
    assert {"model": "far"} | there in told


def test_a_model_outlives_the_server_and_says_when_the_settings_forget_its_upstream(
    tmp_path: Path, double: UpstreamDouble, refused: "Refusal"
) -> None:
    double.script = lambda _: [completion()]
    asked = {"model": "kept", "messages": SAID}
    with (
        scripted_server(tmp_path, upstreams=[{"name": "box", "url": double.url}]) as running,
        _client(running) as http,
    ):
        body = {"id": "kept", "source": "inner", "upstream": "box"}
        http.post("/v1/models", json=body).raise_for_status()
        assert http.post("/v1/chat/completions", json=asked).status_code == 200
    with scripted_server(tmp_path) as running, _client(running) as http:
        assert _used(http, "kept")["requests"] == 1
        answer = http.post("/v1/chat/completions", json=asked)
        assert "no upstream 'box'" in refused(answer, 502, "upstream_misconfigured")
        (shown,) = http.get("/v1/server").json()["upstreams"]
        assert (shown["model"], shown["state"]) == ("kept", "unnamed")


def test_a_folder_cannot_claim_to_be_elsewhere(
    api: RunningServer, http: httpx2.Client, refused: "Refusal"
) -> None:
    folder = write_plausible_folder(api.data_dir.parent / "models" / "claims")
    lineage = {"upstream": "back", "model": "inner"}
    manifest = {"family": "upstream", "task": "text-generation", "lineage": lineage}
    (folder / "purvey.json").write_text(json.dumps(manifest), encoding="utf-8")
    answer = http.post("/v1/models", json={"id": "claims", "source": str(folder)})
    refused(answer, 400, "invalid_checkpoint", "source")


def test_readiness_does_not_wait_for_an_upstream(tmp_path: Path) -> None:
    nobody = {"name": "gone", "url": "http://127.0.0.1:9/v1"}
    with scripted_server(tmp_path, upstreams=[nobody]) as running, _client(running) as http:
        assert http.get("/readyz").status_code == 200
        body = {"id": "gone", "source": "x", "upstream": "gone"}
        assert http.post("/v1/models", json=body).status_code == 200


def test_the_key_is_in_no_log_and_no_answer(
    http: httpx2.Client, double: UpstreamDouble, caplog: pytest.LogCaptureFixture
) -> None:
    told = json.dumps({"error": {"message": f"the key {FIRST_KEY} may not"}}).encode()
    with caplog.at_level(logging.DEBUG):
        for status in (400, 401, 403, 422, 500):
            head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(told)}\r\n\r\n".encode()
            double.script = lambda _, head=head: [head + told]  # type: ignore[misc]  # bound now
            body = {"model": "scripted", "messages": [{"role": "user", "content": "s3cr3t words"}]}
            assert FIRST_KEY not in http.post("/v1/chat/completions", json=body).text
    for secret in (FIRST_KEY, "s3cr3t"):
        assert secret not in caplog.text
        assert not any(secret in repr(vars(record)) for record in caplog.records)
    assert FIRST_KEY not in http.get("/v1/server").text
