"""Every field of every body at its limit, beyond it, absurdly far beyond it, and of other types.

The table is the OpenAPI document itself, so that a new field is tried without being listed here.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import pytest
from fastapi.openapi.utils import get_openapi

from purvey.contracts.jobs import TERMINAL
from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe import TrainConfig
from purvey.server.application import RESOURCES
from tests.fuzz.world import TURNS, World
from tests.matrix.invariants import PATIENCE_S, reading
from tests.matrix.routes import JSON_ROUTES, ROUTES, TEMPLATES, method_of, path_of
from tests.matrix.schema import (
    Forms,
    Json,
    Path,
    at_limits,
    beyond_limits,
    fields_of,
    is_accepted,
    value_at,
    with_value,
)

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

PATHS = [path for _, path in JSON_ROUTES]
CREATED = ("files", "jobs", "keys", "models", "datasets", "explanations", "deployments", "feedback")
TEXT = {"type": "input_text", "text": "hi", "detail": "low"}
SAID = {"type": "message", "role": "user", "content": [TEXT | {"data": {"a": 1}}]}
SCORE = {"type": "score", "instructions": [TEXT], "levels": [{"label": "a"}, {"label": "b"}]}
CHOICE = {"type": "choice", "instructions": "?", "choices": [{"value": "a"}, {"value": "b"}]}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "n"}]
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
METADATA = {"metadata": {"who": "me"}}
TUNED = {"hyperparameters": {"n_epochs": 1}}
TUNINGS: list[Json] = [
    TUNED | METADATA,
    {"method": {"type": "supervised", "supervised": TUNED}},
    {"method": {"type": "dpo", "dpo": TUNED}},
]
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING: list[Json] = [
    {"role": "assistant", "content": None, "tool_calls": [CALLED], "reasoning_content": "hm"},
    {"role": "tool", "content": "x", "tool_call_id": "c"},
]
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
TOOLS = {
    "messages": CALLING,
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "chat_template_kwargs": {"enable_thinking": True},
}
SHOWN = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}
]
MORE: dict[str, list[Json]] = {
    "/v1/chat/completions": [
        {"messages": PARTS, "stop": ["x"], "logprobs": True} | METADATA,
        {"messages": TURNS, "stream": True, "stream_options": {"include_usage": True}},
        {"messages": TURNS, "response_format": SCHEMA_FORMAT, "logit_bias": {"104": 1}},
        {"messages": TURNS, "structured_outputs": {"choice": ["a"]}},
        TOOLS,
        {"messages": SHOWN},
    ],
    "/v1/completions": [
        {"prompt": ["hi"], "stop": ["x"]},
        {"prompt": [[104]]},
        {"prompt": "hi", "stream": True, "stream_options": {"include_usage": True}},
        {"prompt": "hi", "structured_outputs": {"choice": ["a"]}, "logit_bias": {"104": 1}},
    ],
    "/v1/embeddings": [
        {"input": ["hi"]},
        {"input": [[104]]},
        {"input": {"text": "hi"}},
        {"input": [{"text": "hi"}]},
    ],
    "/v1/rerank": [{"documents": [{"text": "hi"}]}],
    "/v1/score": [{"text_1": ["hi"], "text_2": ["hi"]}],
    "/v1/classify": [{"inputs": ["hi"]}],
    "/v1/decisions": [
        {"input": [SAID], "questions": [CHOICE | {"name": "n"}]},
        {
            "input": [SAID | {"content": [TEXT | {"data": [{"a": 1}]}]}],
            "questions": [SCORE | {"instructions": [TEXT | {"data": [{"a": 1}]}]}],
        },
    ],
    "/v1/explanations": [
        {
            "input": {"text": "win the spam prize"},
            "target": {"label": "spam", "contrast": "ham"},
            "budget": {"max_forwards": 8, "max_ms": 1},
            "faithfulness": {"random_orders": 1, "curve_points": 2},
            "include": ["curves"],
        }
    ],
    "/v1/tokenize": [{"messages": PARTS}, {"messages": CALLING}, {"messages": SHOWN}],
    "/tokenize": [{"messages": PARTS}, {"messages": CALLING}, {"messages": SHOWN}],
    "/v1/fine_tuning/jobs": TUNINGS,
    "/v1/fine_tuning/validate": TUNINGS,
    "/v1/datasets": [{"columns": {"text": "text"}, "splits": {"test": 0.2}}],
    "/v1/feedback": [METADATA],
    "/v1/training/jobs": [METADATA],
    "/v1/training/sweeps": [METADATA],
}
"""What is laid over the first accepted body of a path, so that every field has a parent."""
NAMING = {
    ("model",), ("training_file",), ("validation_file",), ("file_ids", 0), ("source",), ("id",),
    ("revision",), ("upstream",), ("task",), ("base",),
    ("target", "label"), ("target", "contrast"), ("name",), ("questions", 0, "choices", 0, "value"),
    ("questions", 0, "choices"), ("questions", 0, "levels"), ("questions",),
    ("questions", 0, "levels", 0, "label"), ("prompt", 0), ("prompt", 0, 0),
    ("response_format", "type"), ("response_format", "json_schema"),
    ("structured_outputs", "regex"), ("structured_outputs", "choice"),
    ("splits", "validation"), ("splits", "test"), ("splits", "time"), ("dimensions",),
    ("truncate_prompt_tokens",),
    ("input", 0), ("input", 0, 0), ("input", "image"), ("input", 0, "image"),
    ("tools",), ("tools", 0, "function", "name"),
    ("max_trials",), ("parallel",),
    ("tool_choice",), ("tool_choice", "function", "name"), ("messages", 0, "tool_calls"),
    ("messages", 0, "tool_call_id"), ("messages", 0, "tool_calls", 0, "function", "arguments"),
}  # fmt: skip
"""Fields that must also fit something else, or name it: of that the document says nothing."""


@cache
def _document() -> Json:
    """Return the document, made at its first use: collecting tests needs none of it."""
    routes = [route.documented() for resource in RESOURCES for route in resource]
    return get_openapi(title="", version="", routes=routes)


@pytest.fixture(scope="module")
def furnished(_running: "Held") -> Iterator[World]:
    found = World(_running.server)
    for path in PATHS:  # what is made at the first use is made before anything is counted
        found.bodies(path)
    yield found
    found.close()


def _bodies(furnished: World, path: str) -> list[Json]:
    accepted = furnished.bodies(path)
    if "prompt" in accepted[0]:  # either a prompt or messages
        plain = {"model": accepted[0]["model"]}
    else:
        plain = {k: v for k, v in accepted[0].items() if k != "input" or path != "/v1/classify"}
    return [*accepted, *(plain | more for more in MORE.get(path, ()))]


def _schema(path: str) -> Json:
    content = _document()["paths"][TEMPLATES[path]]["post"]["requestBody"]["content"]
    return content["application/json"]["schema"]


def _placed(bodies: list[Json], path: Path) -> tuple[Json, Json]:
    """Return the body that the field is tried in, and what it has there."""
    for body in bodies:
        try:
            return body, value_at(body, path)
        except LookupError:
            continue
    for body in bodies:
        try:
            with_value(body, path, None)
        except LookupError:
            continue
        return body, None
    raise AssertionError(f"no body has a place for {path}: add one to MORE")


def _num_rows(held: "Held") -> dict[str, int]:
    with reading(held.data_dir) as db:
        return {t: db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in CREATED}  # noqa: S608 (constants)


def _wait_until_jobs_end(held: "Held") -> None:
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
    while True:
        with reading(held.data_dir) as db:
            statuses = {row["status"] for row in db.execute("SELECT DISTINCT status FROM jobs")}
        if statuses <= TERMINAL:
            return
        assert time.monotonic() < deadline, statuses
        pause.wait(0.02)


def _names(param: str | None, path: Path) -> bool:
    """Tell whether a refusal names the field, or what it is in, or what is in it."""
    named, dotted = param or "", ".".join(map(str, path))
    return bool(named) and (
        f"{named}.".startswith(f"{dotted}.") or f"{dotted}.".startswith(f"{named}.")
    )


def _shown(value: Json) -> str:
    return repr(value)[:60]


@pytest.mark.row("INP-11")
@pytest.mark.parametrize("path", PATHS)
def test_beyond_its_limits_every_field_is_refused_by_name(
    held: "Held", furnished: World, path: str
) -> None:
    bodies = _bodies(furnished, path)
    before, num_asked, faults, num_tried = _num_rows(held), held.num_engine_requests, [], 0
    for field, forms in fields_of(_document(), _schema(path)).items():
        body, present = _placed(bodies, field)
        for value in beyond_limits(forms, present):
            num_tried += 1
            answer = held.http.post(path, json=with_value(body, field, value))
            error = answer.json().get("error", {})
            if answer.status_code != 400 or not _names(error.get("param"), field):
                faults.append(f"{field} {_shown(value)}: {answer.status_code} {error}")
    assert not faults, "\n".join(faults[:20])
    assert num_tried > 5
    assert held.num_engine_requests == num_asked, "an engine has seen what was refused"
    assert _num_rows(held) == before


@pytest.mark.row("INP-11")
@pytest.mark.parametrize("path", PATHS)
def test_at_its_limits_no_field_is_refused(held: "Held", furnished: World, path: str) -> None:
    bodies, faults = _bodies(furnished, path), []
    for field, forms in fields_of(_document(), _schema(path)).items():
        body, present = _placed(bodies, field)
        for value in at_limits(forms, present):
            answer = held.http.post(path, json=with_value(body, field, value))
            error = answer.json().get("error", {}) if answer.status_code == 400 else {}
            is_wrong = error.get("code") == "invalid_value" and field not in NAMING
            if is_wrong and _names(error.get("param"), field):
                faults.append(f"{field} {_shown(value)}: {error}")
    _wait_until_jobs_end(held)
    assert not faults, "\n".join(faults[:20])


def _long(num_chars: int) -> str:
    return "x" * num_chars


HALF = LIMITS.prompt_chars // 2 + 1
COLUMNS = {f"c{i}": "text" for i in range(LIMITS.dataset_columns + 1)}
SPAM = CHOICE | {"choices": [{"value": "ham"}, {"value": "spam"}]}
SPARE = LIMITS.json_values // 4
TOTALS: dict[str, tuple[str, str, Json]] = {
    "a conversation": (
        "/v1/chat/completions", "messages",
        {"messages": [{"role": "user", "content": _long(HALF)}] * 2},
    ),
    "a conversation in parts": (
        "/v1/chat/completions", "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": _long(HALF)}] * 2}]},
    ),
    "a tokenized conversation": (
        "/v1/tokenize", "messages",
        {"prompt": None, "messages": [{"role": "user", "content": _long(HALF)}] * 2},
    ),
    "an explained conversation": (
        "/v1/explanations", "input.messages",
        {"input": {"messages": [{"role": "user", "content": _long(HALF)}] * 2}},
    ),
    "a prompt": ("/v1/completions", "prompt", {"prompt": _long(LIMITS.prompt_chars + 1)}),
    "a classified text": ("/v1/classify", "input", {"input": _long(LIMITS.prompt_chars + 1)}),
    "the second of two": (
        "/v1/classify", "inputs.1",
        {"input": None, "inputs": ["hi", {"text": _long(LIMITS.prompt_chars + 1)}]},
    ),
    "a text that is asked about": (
        "/v1/decisions", "input", {"input": _long(LIMITS.prompt_chars + 1)}
    ),
    "a question": (
        "/v1/decisions", "questions.1.instructions",
        {"questions": [SPAM, SPAM | {"instructions": _long(LIMITS.prompt_chars + 1)}]},
    ),
    "a question in parts": (
        "/v1/decisions", "questions.0.instructions",
        {"questions": [SPAM | {"instructions": [TEXT | {"text": _long(HALF)}] * 2}]},
    ),
    "columns": ("/v1/datasets", "columns", {"columns": COLUMNS}),
    "parts of an answer": ("/v1/explanations", "include", {"include": ["curves"] * SPARE}),
    "prompts": ("/v1/completions", "prompt", {"prompt": ["hi"] * SPARE}),
    "no prompts": ("/v1/completions", "prompt", {"prompt": []}),
    "a prompt of no tokens": ("/v1/completions", "prompt", {"prompt": [[]]}),
    "two lengths": (
        "/v1/chat/completions", "max_tokens", {"max_tokens": 1, "max_completion_tokens": 1}
    ),
    "alternatives without log-probabilities": (
        "/v1/chat/completions", "top_logprobs", {"top_logprobs": 1}
    ),
}  # fmt: skip
"""Fields that are within their own limits, and together are not."""


@pytest.mark.row("INP-11")
@pytest.mark.parametrize("name", TOTALS)
def test_what_is_too_much_together_is_refused_by_name(
    held: "Held", furnished: World, name: str
) -> None:
    path, param, over = TOTALS[name]
    body = furnished.bodies(path)[0] | over
    before, num_asked = _num_rows(held), held.num_engine_requests
    answer = held.http.post(path, json={k: v for k, v in body.items() if v is not None})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert (_num_rows(held), held.num_engine_requests) == (before, num_asked)


ABSENT = {
    "prompt_embeds", "image_embeds", "input_embeds", "inputs_embeds", "embeddings", "tensors",
    "multi_modal_data", "best_of", "min_tokens", "n_discard", "n_keep", "n_predict", "top_k",
    "min_p", "guided_json", "guided_regex", "guided_grammar", "structured_outputs", "grammar",
    "chat_template", "chat_template_kwargs", "mm_processor_kwargs", "lora_path", "adapter",
    "priority", "cache_salt", "kv_transfer_params", "logits_processors", "trust_remote_code",
    "__class__", "model_config", "__proto__", "constructor",
}  # fmt: skip
"""What other servers take beside OpenAI's fields, and have been broken by."""


@pytest.mark.row("INP-11")
@pytest.mark.parametrize("path", PATHS)
def test_a_field_of_another_server_is_refused_by_name(
    held: "Held", furnished: World, path: str
) -> None:
    num_asked, body = held.num_engine_requests, furnished.bodies(path)[0]
    schema = _schema(path)["$ref"].rpartition("/")[2]
    known = _document()["components"]["schemas"][schema]["properties"]
    for name in sorted(ABSENT - set(known)):
        for value in (None, {"a": 1}):
            answer = held.http.post(path, json=body | {name: value})
            assert answer.status_code == 400, (name, value)
            assert answer.json()["error"]["param"] == name
    assert held.num_engine_requests == num_asked


REFUSED: dict[str, list[Json]] = {
    "n": [0, -1, 10**9, "2", True, 1.5, [1]],
    "best_of": [2, -1, 10**9],
    "frequency_penalty": [-2.1, 2.1, 1e308, "0", True],
    "presence_penalty": [2.1, "0"],
    "logit_bias": [[], "x", 1],
    "tools": [{}, "x", 1],
    "tool_choice": ["required", "any", 1],
    "response_format": ["text", [], 1],
    "suffix": ["x", 1],
    "service_tier": ["priority", "flex", 1],
    "store": [True, 1],
}
"""OpenAI's fields with values that are not supported, or beyond all limits."""


@pytest.mark.row("INP-11")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_what_is_not_supported_is_refused_by_name(
    held: "Held", furnished: World, path: str
) -> None:
    num_asked, body = held.num_engine_requests, furnished.bodies(path)[0]
    for name, values in REFUSED.items():
        for value in values:
            answer = held.http.post(path, json=body | {name: value})
            assert answer.status_code == 400, (name, value)
            assert answer.json()["error"]["param"] == name
    assert held.num_engine_requests == num_asked


RECIPE = fields_of(TrainConfig.model_json_schema(), TrainConfig.model_json_schema())
OPEN = {("model", "hyperparameters")}
"""Fields of a recipe that the architecture checks, not the recipe."""


@pytest.mark.row("INP-11")
@pytest.mark.parametrize(
    ("path", "num_values"), [("/v1/recipes/validate", None), ("/v1/training/jobs", 1)]
)
def test_beyond_its_limits_every_field_of_a_recipe_is_refused_by_name(
    held: "Held", furnished: World, path: str, num_values: int | None
) -> None:
    """A job is checked as its recipe is alone: one value of each field shows that."""
    faults, before, num_tried = [], _num_rows(held), 0
    recipe = furnished.bodies(path)[0]["recipe"]
    for field, forms in RECIPE.items():
        for value in list(beyond_limits(forms, None))[:num_values]:
            num_tried += 1
            nested: Json = value
            for step in reversed(field):
                nested = {step: nested} if isinstance(step, str) else [nested]
            answer = held.http.post(path, json={"recipe": recipe | nested})
            error = answer.json().get("error", {})
            if answer.status_code != 400 or not _names(error.get("param"), ("recipe", *field)):
                faults.append(f"{field} {_shown(value)}: {answer.status_code} {error}")
    _wait_until_jobs_end(held)
    assert not faults, "\n".join(faults[:60])
    assert num_tried > (50 if num_values else 300)
    assert _num_rows(held) == before


def _queries() -> list[tuple[str, str, str, Json]]:
    return [
        (path, method, parameter["name"], parameter["schema"])
        for path, methods in _document()["paths"].items()
        for method, operation in methods.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    ]


def _read_as(text: str) -> list[Json]:
    """List what a query's text may stand for: itself, a number, true or false."""
    found: list[Json] = [text]
    with suppress(ValueError):
        found.append(float(text))
        found.append(int(text))
    if text in {"1", "True"}:
        found.append(True)
    return found


def _forms(schema: Json) -> Forms:
    return fields_of(_document(), {"properties": {"it": schema}})[("it",)]


@pytest.mark.row("INP-11")
def test_beyond_its_limits_every_query_parameter_is_refused_by_name(held: "Held") -> None:
    faults, num_tried = [], 0
    for path, method, name, schema in _queries():
        forms = _forms(schema)
        texts = {str(v) for v in beyond_limits(forms, None) if isinstance(v, int | float | str)}
        for text in sorted(texts):
            if any(is_accepted(forms, value) for value in _read_as(text)):
                continue
            num_tried += 1
            answer = held.http.request(
                method, path.replace("{", "").replace("}", ""), params={name: text[:5_000]}
            )
            error = answer.json().get("error", {})
            if (answer.status_code, error.get("param")) != (400, name):
                faults.append(
                    f"{method} {path} {name}={_shown(text)}: {answer.status_code} {error}"
                )
    assert not faults, "\n".join(faults[:30])
    assert num_tried > 100


HOSTILE = ["%00", "%0d%0a", "a" * 4_096, "%ff", "..%2f..", "' OR 1=1 --"]


@pytest.mark.row("INP-11")
def test_no_id_in_a_path_is_anything_but_unknown(held: "Held") -> None:
    before = _num_rows(held)
    for route in ROUTES:
        if "{" not in route.path or "{rest" in route.path:
            continue
        for text in HOSTILE:
            answer = held.http.request(method_of(route), path_of(route, text))
            assert answer.status_code in {400, 404, 415, 501}, (route.path, text, answer.text)
    assert _num_rows(held) == before
