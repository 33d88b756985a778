"""The door refuses what cannot be served, before any work, naming the field."""

from typing import TYPE_CHECKING

import pytest

from purvey.contracts.engine import ChatMessage, ChatPrompt, Prompt, TextPrompt, TokenPrompt
from purvey.contracts.sampling import Sampling
from purvey.errors import ContextLengthError, InvalidValueError, PurveyError, UnsupportedValueError
from purvey.models.chat import ChatTemplate
from purvey.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tests.unit.engine.conftest import Bench, MakeBench


CHAT = ChatPrompt(messages=(ChatMessage(role="user", content="the cat"),))


@pytest.mark.parametrize(
    ("prompt", "error", "param"),
    [
        (TextPrompt(text=""), InvalidValueError, "prompt"),
        (TokenPrompt(tokens=()), InvalidValueError, "prompt"),
        (TokenPrompt(tokens=(1, 300)), InvalidValueError, "prompt"),
        (TokenPrompt(tokens=(-1,)), InvalidValueError, "prompt"),
        (CHAT, UnsupportedValueError, "messages"),
        (TokenPrompt(tokens=(1,) * 257), ContextLengthError, "prompt"),
        (TokenPrompt(tokens=(1,) * 249), ContextLengthError, "prompt"),
    ],
)
def test_refusals(bench: "Bench", prompt: Prompt, error: type[PurveyError], param: str) -> None:
    steps = bench.core.stats().steps
    with pytest.raises(error) as caught:
        bench.ask("a", prompt=prompt)
    assert caught.value.param == param
    assert bench.core.stats().steps == steps
    assert bench.replies["a"] == []


def test_the_longest_request_fits_exactly(bench: "Bench") -> None:
    bench.ask("a", prompt=TokenPrompt(tokens=(1,) * 248))
    bench.finish()
    assert bench.ended("a").completion_tokens == 8


def test_without_a_limit_the_context_is_filled(bench: "Bench") -> None:
    prompt = TokenPrompt(tokens=(1,) * 250)
    bench.ask("a", prompt=prompt, sampling=Sampling(temperature=0.0))
    bench.finish()
    assert (bench.ended("a").completion_tokens, bench.ended("a").reason) == (6, "length")
    with pytest.raises(ContextLengthError):
        bench.ask("b", prompt=TokenPrompt(tokens=(1,) * 256), sampling=Sampling())


def test_what_exceeds_the_whole_cache_is_refused(
    make_bench: "MakeBench",
) -> None:
    bench = make_bench(num_blocks=2)
    with pytest.raises(ContextLengthError, match="the cache holds 32") as caught:
        bench.ask("a", sampling=Sampling(max_tokens=60))
    assert "kv_cache_bytes" in caught.value.text


@pytest.mark.parametrize(("num_prompt", "num_new"), [(1, 32), (30, 3), (32, 1)])
def test_without_a_limit_the_cache_is_filled(
    make_bench: "MakeBench", num_prompt: int, num_new: int
) -> None:
    bench = make_bench(num_blocks=2)
    prompt = TokenPrompt(tokens=(1,) * num_prompt)
    bench.ask("a", prompt=prompt, sampling=Sampling(temperature=0.0))
    bench.finish()
    assert (bench.ended("a").completion_tokens, bench.ended("a").reason) == (num_new, "length")


def test_a_prompt_that_leaves_no_room_in_the_cache_is_refused(make_bench: "MakeBench") -> None:
    bench = make_bench(num_blocks=2)
    prompt = TokenPrompt(tokens=(1,) * 33)
    with pytest.raises(ContextLengthError, match="the cache holds 32") as caught:
        bench.ask("a", prompt=prompt, sampling=Sampling(temperature=0.0))
    assert caught.value.param == "prompt"


def test_refusals_do_not_quote_the_prompt(bench: "Bench") -> None:
    with pytest.raises(ContextLengthError) as caught:
        bench.ask("a", prompt=TextPrompt(text="canary-7f3a " * 200))
    assert "canary" not in caught.value.text


def test_a_conversation_is_rendered(bench: "Bench", tokenizer: Tokenizer) -> None:
    bench.ask("a", prompt=CHAT, voice=bench.door.voice_of(ChatTemplate.default(tokenizer)))
    bench.finish()
    assert bench.started("a").prompt_tokens > len(tokenizer.encode("the cat"))


def test_a_pair_must_fit_together(bench: "Bench") -> None:
    prompt, output = TokenPrompt(tokens=(1,) * 200), TokenPrompt(tokens=(2,) * 56)
    assert bench.door.encode_pair((prompt, output)) == ([1] * 200, [2] * 56)
    with pytest.raises(ContextLengthError):
        bench.door.encode_pair((prompt, TokenPrompt(tokens=(2,) * 57)))


def test_an_output_continues_its_prompt(bench: "Bench", tokenizer: Tokenizer) -> None:
    pair = (TextPrompt(text="the cat"), TextPrompt(text=" sat on"))
    prompt, output = bench.door.encode_pair(pair)
    assert tokenizer.decode([*prompt, *output]) == "the cat sat on"
