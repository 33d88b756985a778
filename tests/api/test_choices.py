"""Several answers to one request, and what they are asked to look like, by the official client."""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import httpx2
import pytest
from openai import OpenAI
from pydantic import BaseModel

from purvey.contracts.engine import Generate
from purvey.contracts.sampling import ChoiceGrammar, JsonGrammar, RegexGrammar, Sampling
from purvey.errors import CapacityError
from purvey.testing.scripted_engine import ScriptedEngine
from tests.api.test_streams import wait_until

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

HELLO: Any = [{"role": "user", "content": "hello"}]  # the SDK's union of message types
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def engine(
    http: httpx2.Client, echo: str, engine_of: Callable[[str], ScriptedEngine]
) -> Iterator[ScriptedEngine]:
    """The engine of `echo`, loaded, alive, and asked nothing yet."""
    http.post(CHAT, json={"model": echo, "messages": HELLO}).raise_for_status()
    engine = engine_of(echo)
    engine.requests.clear()
    engine.cancelled.clear()
    yield engine
    engine.gate.open()


def _asked(engine: ScriptedEngine) -> list[Sampling]:
    return [one.sampling for one in engine.requests if isinstance(one, Generate)]


def test_each_choice_has_its_number_and_the_prompt_is_counted_once(sdk: OpenAI, echo: str) -> None:
    one = sdk.chat.completions.create(model=echo, messages=HELLO)
    three = sdk.chat.completions.create(model=echo, messages=HELLO, n=3, logprobs=True)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert {choice.message.content for choice in three.choices} == {"hello"}
    assert all(c.logprobs and len(c.logprobs.content or []) == 5 for c in three.choices)
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens


def test_choices_have_seeds_of_their_own_that_the_request_decides(
    sdk: OpenAI, echo: str, engine: ScriptedEngine
) -> None:
    for n in (1, 3, 3):
        sdk.chat.completions.create(model=echo, messages=HELLO, n=n, seed=7)
    seeds = [sampling.seed for sampling in _asked(engine)]
    alone, first, again = seeds[0], seeds[1:4], seeds[4:]
    assert sorted(first) == sorted(again)
    assert len(set(first)) == 3
    assert alone == 7
    assert alone in first


def test_streamed_choices_come_interleaved_under_their_numbers(sdk: OpenAI, echo: str) -> None:
    stream = sdk.chat.completions.create(
        model=echo, messages=HELLO, n=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    *parts, last = chunks
    assert last.usage is not None
    assert last.usage.completion_tokens == 15
    order = [chunk.choices[0].index for chunk in parts]
    assert order != sorted(order)
    for number in range(3):
        own = [c.choices[0] for c in parts if c.choices[0].index == number]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == "hello"
        assert [choice.finish_reason for choice in own[-2:]] == [None, "stop"]


def test_a_client_that_leaves_cancels_every_choice(
    http: httpx2.Client, echo: str, engine: ScriptedEngine
) -> None:
    engine.gate.close()
    body = {"model": echo, "messages": HELLO, "n": 4}
    with pytest.raises(httpx2.ReadTimeout):
        http.post(CHAT, json=body, timeout=1.0)
    wait_until(lambda: len(set(engine.cancelled)) == 4)
    assert engine.stats.running == 0


def test_when_one_choice_fails_all_end(
    http: httpx2.Client, echo: str, engine: ScriptedEngine, refused: "Refusal"
) -> None:
    engine.refusals.append(CapacityError("1024 requests are running or waiting already."))
    answer = http.post(COMPLETIONS, json={"model": echo, "prompt": "hello", "n": 3})
    refused(answer, 503, "server_is_overloaded")
    assert engine.stats.running == 0


def test_prompts_times_n_are_numbered_prompt_by_prompt(
    sdk: OpenAI, echo: str, engine: ScriptedEngine
) -> None:
    answer = sdk.completions.create(model=echo, prompt=["ab", "xyz"], n=2, seed=3)
    assert [(c.index, c.text) for c in answer.choices] == list(
        enumerate(["ab", "ab", "xyz", "xyz"])
    )
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 10)
    seeds = sorted(sampling.seed for sampling in _asked(engine))
    assert seeds[0::2] == seeds[1::2], "a prompt's answers do not depend on its neighbours"


def test_streamed_prompts_keep_their_own_offsets(sdk: OpenAI, echo: str) -> None:
    chunks = list(
        sdk.completions.create(model=echo, prompt=[[104, 105], [97]], stream=True, logprobs=0)
    )
    for number, text in enumerate(["hi", "a"]):
        own = [c.choices[0] for c in chunks if c.choices[0].index == number]
        offsets = [o for c in own if c.logprobs for o in c.logprobs.text_offset or []]
        assert "".join(c.text for c in own) == text
        assert offsets == list(range(len(text)))


def test_every_field_reaches_the_engine(
    http: httpx2.Client, echo: str, engine: ScriptedEngine
) -> None:
    fields = {
        "top_k": 5, "min_p": 0.25, "presence_penalty": -2, "frequency_penalty": 1.5,
        "repetition_penalty": 1.25, "logit_bias": {"104": -100, "0": 3},
    }  # fmt: skip
    for path, said in ((CHAT, {"messages": HELLO}), (COMPLETIONS, {"prompt": "hello"})):
        answer = http.post(path, json={"model": echo} | said | fields).raise_for_status().json()
        assert "ello" in json.dumps(answer["choices"][0])
        assert "hello" not in json.dumps(answer["choices"][0]), "a banned token was put out"
    for got in _asked(engine):
        assert (got.top_k, got.min_p, got.repetition_penalty) == (5, 0.25, 1.25)
        assert (got.presence_penalty, got.frequency_penalty) == (-2, 1.5)
        assert got.logit_bias == ((104, -100), (0, 3))


def test_top_k_minus_one_asks_for_nothing(
    http: httpx2.Client, echo: str, engine: ScriptedEngine
) -> None:
    http.post(CHAT, json={"model": echo, "messages": HELLO, "top_k": -1}).raise_for_status()
    assert [sampling.top_k for sampling in _asked(engine)] == [0]


class Answer(BaseModel):
    """What is parsed."""

    verdict: Literal["yes", "no"]
    score: int
    reasons: list[str]


def test_the_sdk_parses_what_its_model_asked_for(
    sdk: OpenAI, echo: str, engine: ScriptedEngine
) -> None:
    parsed = sdk.chat.completions.parse(model=echo, messages=HELLO, response_format=Answer)
    assert parsed.choices[0].message.parsed == Answer(verdict="yes", score=0, reasons=[])
    (sampling,) = _asked(engine)
    assert isinstance(sampling.grammar, JsonGrammar)
    assert set(json.loads(sampling.grammar.schema)["properties"]) == set(Answer.model_fields)


def test_each_form_reaches_the_engine_as_a_grammar(
    http: httpx2.Client, echo: str, engine: ScriptedEngine
) -> None:
    any_object = JsonGrammar(schema='{"type":"object"}')
    named = {"type": "json_schema", "json_schema": {"name": "x"}}
    forms: list[tuple[dict[str, Any], object]] = [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "json_object"}}, any_object),
        ({"response_format": named}, any_object),
        ({"structured_outputs": {"regex": "h.*"}}, RegexGrammar(pattern="h.*")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, ChoiceGrammar(choices=("a", "b"))),
    ]
    for form, _ in forms:
        http.post(CHAT, json={"model": echo, "messages": HELLO} | form).raise_for_status()
    assert [sampling.grammar for sampling in _asked(engine)] == [grammar for _, grammar in forms]
    extra = {"structured_outputs": {"choice": ["hello", "b"]}}
    answer = http.post(COMPLETIONS, json={"model": echo, "prompt": "x"} | extra).json()
    assert answer["choices"][0]["text"] == "hello"


def _schema(**schema: object) -> dict[str, Any]:
    wanted = {"name": "x", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


AT = "response_format.json_schema"
REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "keyword": (_schema(properties={"a": {"not": {}}}), "invalid_schema",
                f"{AT}.schema.properties.a.not"),
    "misspelt": (_schema(typ="object"), "invalid_schema", f"{AT}.schema.typ"),
    "no name": ({"response_format": {"type": "json_schema", "json_schema": {}}}, "invalid_value",
                f"{AT}.name"),
    "bad name": ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
                 "invalid_value", f"{AT}.name"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "invalid_value", AT),
    "needless schema": ({"response_format": {"type": "text", "json_schema": {"name": "x"}}},
                        "invalid_value", AT),
    "no type": ({"response_format": {}}, "invalid_value", "response_format.type"),
    "other type": ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
    "both": ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
             "invalid_value", "structured_outputs"),
    "neither": ({"structured_outputs": {}}, "invalid_value", "structured_outputs"),
    "two": ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "invalid_value",
            "structured_outputs"),
    "no choice": ({"structured_outputs": {"choice": []}}, "invalid_value",
                  "structured_outputs.choice"),
    "empty choice": ({"structured_outputs": {"choice": ["a", ""]}}, "invalid_value",
                     "structured_outputs.choice.1"),
    "bomb": ({"structured_outputs": {"regex": "(a{999}){999}"}}, "invalid_schema",
             "structured_outputs.regex"),
    "other form": ({"structured_outputs": {"grammar": "x"}}, "invalid_value",
                   "structured_outputs.grammar"),
    "n": ({"n": 0}, "invalid_value", "n"),
    "n above": ({"n": 129}, "invalid_value", "n"),
    "penalty": ({"presence_penalty": 2.1}, "invalid_value", "presence_penalty"),
    "bias": ({"logit_bias": {"1": -101}}, "invalid_value", "logit_bias.1"),
    "no id": ({"logit_bias": {"hello": 1}}, "invalid_value", "logit_bias.hello"),
    "unknown id": ({"logit_bias": {"1": 1, "57343": 1}}, "invalid_value", "logit_bias.57343"),
    "many ids": ({"logit_bias": {str(i): 1 for i in range(1_025)}}, "invalid_value", "logit_bias"),
    "top_k": ({"top_k": -2}, "invalid_value", "top_k"),
    "min_p": ({"min_p": 1.5}, "invalid_value", "min_p"),
    "repetition": ({"repetition_penalty": 0}, "invalid_value", "repetition_penalty"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_refused_by_place(
    http: httpx2.Client, echo: str, refused: "Refusal", name: str
) -> None:
    change, code, param = REFUSALS[name]
    refused(http.post(CHAT, json={"model": echo, "messages": HELLO} | change), 400, code, param)
