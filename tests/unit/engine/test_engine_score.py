"""Scores: background work, cancelled and failed as a whole."""

from typing import TYPE_CHECKING

import pytest
import torch

from purvey.contracts.engine import TextPrompt, TokenPrompt
from purvey.contracts.sampling import Sampling
from purvey.engine.greedy_text import GreedyWriter
from purvey.engine.score import Pair, Scorer
from purvey.errors import CapacityError, ContextLengthError, InternalError, InvalidValueError

if TYPE_CHECKING:
    from tests.unit.engine.conftest import Bench


PAIRS: list[Pair] = [
    (TextPrompt(text="the cat"), TextPrompt(text=" sat on the mat")),
    (TokenPrompt(tokens=(9,)), TokenPrompt(tokens=(4, 5, 6))),
    (TextPrompt(text="a dog"), TokenPrompt(tokens=())),
]


@pytest.fixture
def scorer(bench: "Bench") -> Scorer:
    """A scorer on the bench."""
    return Scorer(bench.core, bench.door.encode_pair)


def test_every_output_token_has_a_logprob(bench: "Bench", scorer: Scorer) -> None:
    future = scorer.submit(PAIRS)
    bench.finish()
    scores = future.result(0)
    assert [len(tokens) for tokens in scores] == [
        len(bench.door.encode_output(output)) for _, output in PAIRS
    ]
    assert all(logprob < 0 for tokens in scores for logprob in tokens)


def test_scores_are_those_of_the_definition(bench: "Bench", scorer: Scorer) -> None:
    """Against one dense pass of the same weights; float32 sums in another order, 1e-4."""
    from purvey.models.decoder import Decoder

    decoder = Decoder(bench.runner._decoder.config).eval()
    decoder.reset_parameters(torch.Generator().manual_seed(7))
    prompt, output = [3, 1, 4, 1, 5] * 20, [9, 2, 6] * 11
    pair = (TokenPrompt(tokens=tuple(prompt)), TokenPrompt(tokens=tuple(output)))
    future = scorer.submit([pair])
    bench.finish()
    with torch.no_grad():
        logp_TV = decoder(torch.tensor([prompt + output]))[0].log_softmax(-1)
    rows = range(len(prompt) - 1, len(prompt) + len(output) - 1)
    expected = [float(logp_TV[row, token]) for row, token in zip(rows, output, strict=True)]
    assert future.result(0)[0] == pytest.approx(expected, abs=1e-4)


def test_nothing_to_score(bench: "Bench", scorer: Scorer) -> None:
    assert scorer.submit([]).result(0) == []


def test_one_refused_pair_refuses_all_before_any_work(bench: "Bench", scorer: Scorer) -> None:
    with pytest.raises(ContextLengthError):
        scorer.submit([PAIRS[0], (TokenPrompt(tokens=(1,) * 300), TextPrompt(text="x"))])
    assert bench.core.stats().waiting == 0


def test_cancelling_the_future_frees_everything(bench: "Bench", scorer: Scorer) -> None:
    long: Pair = (TokenPrompt(tokens=(1,) * 200), TokenPrompt(tokens=(2,) * 50))
    future = scorer.submit([long] * 4)
    bench.core.step()
    assert future.cancel()
    bench.finish()


def test_too_much_background_work_is_refused_whole(
    bench: "Bench", scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purvey.engine.inbox.MAX_BACKGROUND", 2)
    with pytest.raises(CapacityError):
        scorer.submit(PAIRS)
    bench.finish()


def test_more_pairs_than_are_ever_held_are_not_to_be_retried(
    bench: "Bench", scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purvey.engine.score.MAX_BACKGROUND", 2)
    with pytest.raises(InvalidValueError, match="3 outputs; at most 2") as caught:
        scorer.submit(PAIRS)
    assert caught.value.param == "questions"
    assert bench.core.stats().waiting == 0


def test_more_tokens_than_are_ever_held_are_not_to_be_retried(
    bench: "Bench", scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purvey.engine.score.MAX_BACKGROUND_TOKENS", 9)
    with pytest.raises(InvalidValueError, match="tokens; at most 9") as caught:
        scorer.submit(PAIRS)
    assert caught.value.param == "questions"
    assert bench.core.stats().waiting == 0


def test_a_prompt_that_many_outputs_follow_is_read_once(bench: "Bench", scorer: Scorer) -> None:
    prompt = list(range(70))
    pairs = [(prompt, [i, i + 1]) for i in range(3)]
    one_by_one = []
    for pair in pairs:
        future = scorer.submit_encoded([pair], salt=str(pair))
        bench.finish()
        one_by_one += future.result(0)
    assert bench.core.stats().prefix_hit_tokens == 0
    future = scorer.submit_encoded(pairs, salt="p")
    bench.finish()
    assert future.result(0) == one_by_one
    assert bench.core.stats().prefix_hit_tokens == 2 * 64


def test_an_error_ends_the_submission_once(
    bench: "Bench", scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("purvey.engine.score.logprobs", broken)
    future = scorer.submit(PAIRS)
    bench.finish()
    with pytest.raises(InternalError):
        future.result(0)


def test_an_interactive_request_overtakes_scores(bench: "Bench", scorer: Scorer) -> None:
    long: Pair = (TokenPrompt(tokens=(1,) * 200), TokenPrompt(tokens=(2,) * 50))
    future = scorer.submit([long] * 8)
    bench.core.step()
    bench.ask("chat", sampling=Sampling(temperature=0.0, max_tokens=4))
    for _ in range(4):
        bench.core.step()
    assert bench.ended("chat").completion_tokens == 4
    assert not future.done()
    bench.finish()


def test_a_greedy_text_is_that_of_a_generation(bench: "Bench") -> None:
    writer = GreedyWriter(bench.core, bench.door)
    future = writer.submit(TextPrompt(text="the cat"), 12)
    bench.finish()
    bench.ask(
        "a",
        prompt=TextPrompt(text="the cat"),
        sampling=Sampling(temperature=0.0, max_tokens=12),
    )
    bench.finish()
    assert future.result(0) == bench.text("a") != ""


def test_a_stopped_engine_cancels_a_greedy_text(bench: "Bench") -> None:
    future = GreedyWriter(bench.core, bench.door).submit(TextPrompt(text="the cat"), 12)
    bench.core.stop()
    bench.core.run()
    assert future.cancelled()
