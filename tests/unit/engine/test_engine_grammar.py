"""Structured output of a random model at temperature 1: what ends by itself obeys."""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from purvey.contracts.engine import Delta, Finished, Refused
from purvey.contracts.sampling import ChoiceGrammar, Grammar, JsonGrammar, RegexGrammar, Sampling
from purvey.errors import InvalidSchemaError
from purvey.models.tokenizer import Tokenizer
from purvey.server.openai.structured.schema_keywords import enforceable
from tests.unit.engine.generated_schemas import schema_of

if TYPE_CHECKING:
    from tests.unit.engine.conftest import Bench, MakeBench

STOP_IDS = frozenset({0, 1})
ANY_OBJECT = JsonGrammar(schema='{"type":"object"}')
SPECIAL = "<|endoftext|>"


@pytest.fixture
def bench(make_bench: "MakeBench") -> "Bench":
    return make_bench(stop_ids=STOP_IDS, num_blocks=400)


def _sampling(grammar: Grammar, seed: int = 0, **changes: Any) -> Sampling:  # its fields
    wanted: dict[str, Any] = {"temperature": 1.0, "max_tokens": 100} | changes
    return Sampling(grammar=grammar, seed=seed, **wanted)


def _said(bench: "Bench", sampling: Sampling) -> tuple[str, Finished]:
    name = f"r{len(bench.replies)}"
    bench.ask(name, sampling=sampling)
    bench.finish()
    return bench.text(name), bench.ended(name)


def _obedient(make_bench: "MakeBench", seeds: Iterable[int]) -> int:
    """Answer each schema once, check those that ended by themselves, and count them."""
    bench = make_bench(stop_ids=STOP_IDS, num_blocks=1_000)
    schemas = {f"r{seed}": schema_of(seed) for seed in seeds}
    for seed, (name, schema) in enumerate(schemas.items()):
        grammar = JsonGrammar(schema=enforceable(schema, "schema"))
        bench.ask(name, sampling=_sampling(grammar, seed))
    bench.finish()
    stopped = [name for name in schemas if bench.ended(name).reason == "stop"]
    for name in stopped:
        oracle = jsonschema_rs.Draft202012Validator(schemas[name], validate_formats=True)
        oracle.validate(json.loads(bench.text(name)))
    return len(stopped)


def test_answers_that_end_by_themselves_validate(make_bench: "MakeBench") -> None:
    assert _obedient(make_bench, range(40)) >= 30


@pytest.mark.faults
def test_answers_to_five_hundred_schemas_validate(make_bench: "MakeBench") -> None:
    assert sum(_obedient(make_bench, range(i, i + 50)) for i in range(1_000, 1_550, 50)) > 400


def test_an_object_is_an_object(bench: "Bench") -> None:
    for seed in range(6):
        bench.ask(f"o{seed}", sampling=_sampling(ANY_OBJECT, seed, max_tokens=60))
    bench.finish()
    for seed in range(6):
        text = bench.text(f"o{seed}")
        assert text.startswith("{")
        assert bench.ended(f"o{seed}").reason == "length" or isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "pattern", ["(ab|cd){2,4}", "[a-z]{3} [0-9]{1,2}", "日?本*[語ß]", "[0-9]+|x"]
)
def test_a_regular_expression_matches_the_whole(bench: "Bench", pattern: str) -> None:
    for seed in range(4):
        text, end = _said(bench, _sampling(RegexGrammar(pattern=pattern), seed))
        assert end.reason == "stop" or len(text) > 20
        assert end.reason == "length" or re.fullmatch(pattern, text)


def test_a_choice_is_one_of_them_to_the_letter(bench: "Bench") -> None:
    choices = ("yes", "yes, but", "no", 'a "quote"\n', "日本", "\\")
    for number in range(20):
        bench.ask(f"c{number}", sampling=_sampling(ChoiceGrammar(choices=choices), number))
    for choice in choices:
        bench.ask(choice, sampling=_sampling(ChoiceGrammar(choices=(choice,))))
    bench.finish()
    drawn = {bench.text(f"c{number}") for number in range(20)}
    assert drawn <= set(choices)
    assert len(drawn) > 2
    assert [bench.text(choice) for choice in choices] == list(choices)
    assert {bench.ended(name).reason for name in bench.replies} == {"stop"}


def test_the_name_of_a_special_token_is_text(bench: "Bench", tokenizer: Tokenizer) -> None:
    assert SPECIAL in tokenizer.special_tokens
    text, end = _said(bench, _sampling(ChoiceGrammar(choices=(SPECIAL,)), num_logprobs=0))
    assert (text, end.reason) == (SPECIAL, "stop")
    chosen = [t.token_id for d in bench.deltas("r0") for t in d.tokens]
    assert tokenizer.decode(chosen) == SPECIAL  # special ones would have been left out
    assert not {*tokenizer.special_tokens.values()} & {*chosen}


def test_what_is_cut_off_says_so_and_what_is_complete_says_that(bench: "Bench") -> None:
    grammar = RegexGrammar(pattern="abcabcabc")
    whole, end = _said(bench, _sampling(grammar))
    assert (whole, end.reason) == ("abcabcabc", "stop")
    cut, cut_end = _said(bench, _sampling(grammar, max_tokens=end.completion_tokens - 1))
    assert cut_end.reason == "length"
    assert whole.startswith(cut)
    again, last = _said(bench, _sampling(grammar, max_tokens=end.completion_tokens))
    assert (again, last.reason) == (whole, "stop")


def test_an_empty_output_may_be_all_that_obeys(bench: "Bench") -> None:
    text, end = _said(bench, _sampling(RegexGrammar(pattern="a{0}")))
    assert (text, end.reason) == ("", "stop")


def test_a_model_without_an_end_token_ends_where_the_grammar_does(make_bench: "MakeBench") -> None:
    bench = make_bench(stop_ids=frozenset())
    assert _said(bench, _sampling(ChoiceGrammar(choices=("yes", "no"))))[1].reason == "stop"


def test_an_end_token_comes_only_where_the_grammar_accepts(bench: "Bench") -> None:
    """A large bias for the end token cannot bring it forward."""
    eager: dict[str, Any] = {"temperature": 0.0, "logit_bias": ((0, 100.0),)}
    grammar = RegexGrammar(pattern="[ab]{3,50}")
    text, end = _said(bench, _sampling(grammar, **eager))
    assert (len(text), end.reason) == (3, "stop")


def test_neighbours_do_not_change_an_answer(bench: "Bench") -> None:
    grammar = JsonGrammar(schema='{"type":"array","items":{"type":"integer"},"maxItems":4}')
    alone = [_said(bench, _sampling(grammar, seed))[0] for seed in range(4)]
    for seed in range(4):
        bench.ask(f"g{seed}", sampling=_sampling(grammar, seed))
        bench.ask(f"p{seed}", sampling=Sampling(seed=seed, max_tokens=20, frequency_penalty=1.0))
    bench.finish()
    assert [bench.text(f"g{seed}") for seed in range(4)] == alone


def test_a_bias_that_leaves_nothing_is_an_answer_and_the_others_go_on(bench: "Bench") -> None:
    banned = tuple((token_id, -100.0) for token_id in range(300))
    bench.ask("all", sampling=Sampling(logit_bias=banned, max_tokens=4))
    bench.ask("a", sampling=_sampling(RegexGrammar(pattern="a"), logit_bias=banned))
    bench.ask("other")
    bench.finish()
    ends = [bench.replies[name][-1] for name in ("all", "a")]
    assert [end.param for end in ends if isinstance(end, Refused)] == [
        "logit_bias",
        "structured_outputs.regex",
    ]
    assert bench.ended("other").completion_tokens == 8


def test_log_probabilities_are_the_models_own(bench: "Bench") -> None:
    changed = _sampling(ChoiceGrammar(choices=("a", "b")), num_logprobs=20, logit_bias=((5, 50.0),))
    bench.ask("plain", sampling=Sampling(max_tokens=1, num_logprobs=20))
    bench.ask("bent", sampling=changed)
    bench.finish()

    def first(name: str) -> Delta:
        return bench.deltas(name)[0]

    tops = [first(name).tokens[0].alternatives for name in ("plain", "bent")]
    assert tops[0] == tops[1]


Refusal = tuple[Grammar, str, str]
SCHEMA, REGEX = "response_format.json_schema.schema", "structured_outputs.regex"
REFUSALS: dict[str, Refusal] = {
    "no meaning": (RegexGrammar(pattern="("), REGEX, "unclosed group"),
    "looks ahead": (RegexGrammar(pattern="a(?=b)"), REGEX, "look-around"),
    "allows nothing": (JsonGrammar(schema='{"minItems":3,"maxItems":2,"type":"array"}'), SCHEMA,
                       "Unsat"),
    "refers to nothing": (JsonGrammar(schema='{"$ref":"#/$defs/none"}'), SCHEMA, "does not exist"),
    "is itself": (JsonGrammar(schema='{"$ref":"#"}'), SCHEMA, "nothing satisfies"),
    "overlaps": (
        JsonGrammar(schema='{"oneOf":[{"type":"number"},{"type":"integer"}]}'), SCHEMA, "oneOf",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_enforced_is_refused_at_the_door(bench: "Bench", name: str) -> None:
    grammar, param, reason = REFUSALS[name]
    with pytest.raises(InvalidSchemaError, match=reason) as caught:
        bench.ask("a", sampling=_sampling(grammar))
    assert caught.value.param == param
    assert len(caught.value.text) < 300
    assert bench.replies["a"] == []


def _patterns_at_once() -> dict[str, Any]:
    return {"allOf": [{"type": "string", "pattern": f".*a.{{{k}}}b.*"} for k in range(5, 25)]}


def test_a_bomb_is_refused_in_time_and_the_engine_goes_on(bench: "Bench") -> None:
    with pytest.raises(InvalidSchemaError, match="cannot be"):
        bench.ask("a", sampling=_sampling(JsonGrammar(schema=json.dumps(_patterns_at_once()))))
    assert _said(bench, _sampling(ChoiceGrammar(choices=("yes",))))[0] == "yes"
