"""The loop: every request ends once, blocks come back, neighbours survive."""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from purvey.contracts.engine import (
    Delta,
    Finished,
    Generate,
    Refused,
    Started,
    TextPrompt,
    TokenPrompt,
)
from purvey.contracts.limits import LIMITS
from purvey.contracts.sampling import Sampling
from purvey.engine.batch import Batch
from purvey.engine.core import Core
from purvey.engine.logits import HostLogits
from purvey.engine.runner import Runner
from purvey.errors import CapacityError, SettingError, ShuttingDownError
from purvey.testing.clock import FakeClock

if TYPE_CHECKING:
    from tests.unit.engine.conftest import Bench, MakeBench


POISON = 299
GREEDY_8 = Sampling(temperature=0.0, max_tokens=8)


class FragileRunner(Runner):
    """Breaks on a batch that holds the poisoned token."""

    def run(self, batch: Batch) -> list[HostLogits]:
        """Run, or break."""
        if (batch.tokens_T == POISON).any():
            raise RuntimeError("poisoned")
        return super().run(batch)


class NotANumberRunner(Runner):
    """Returns logits that are no numbers for the poisoned sequence."""

    def run(self, batch: Batch) -> list[HostLogits]:
        """Run and damage."""
        logits = super().run(batch)
        is_bad = [POISON in span.sequence.tokens for span in batch.spans]
        return [
            HostLogits(x.rows() * torch.nan) if bad else x
            for x, bad in zip(logits, is_bad, strict=True)
        ]


def test_a_generation_starts_streams_and_finishes(bench: "Bench") -> None:
    bench.ask("a")
    bench.finish()
    first, *deltas, last = bench.replies["a"]
    assert isinstance(first, Started)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert last == Finished(
        request_id="a",
        reason="length",
        prompt_tokens=first.prompt_tokens,
        completion_tokens=8,
    )


def test_the_same_text_alone_and_among_others(bench: "Bench") -> None:
    bench.ask("alone", sampling=Sampling(seed=4, max_tokens=20))
    bench.finish()
    for name in ("b", "c", "d"):
        bench.ask(name, prompt=TextPrompt(text="a dog " * 30 + name))
        bench.core.step()
    bench.ask("again", sampling=Sampling(seed=4, max_tokens=20))
    bench.finish()
    assert bench.text("again") == bench.text("alone") != ""


def test_another_seed_gives_another_text(bench: "Bench") -> None:
    for seed in (1, 2):
        bench.ask(str(seed), sampling=Sampling(seed=seed, max_tokens=20))
    bench.finish()
    assert bench.text("1") != bench.text("2")


def test_cancelling_frees_blocks_within_one_step(bench: "Bench") -> None:
    bench.ask("running", sampling=Sampling(temperature=0.0, max_tokens=100))
    bench.core.step()
    bench.ask("waiting")
    assert bench.core.stats().free_blocks < bench.core.stats().total_blocks
    bench.core.cancel("running")
    bench.core.cancel("waiting")
    bench.core.cancel("never heard of")
    assert not bench.core.step()
    bench.core.check()
    stats = bench.core.stats()
    assert (stats.free_blocks, stats.running, stats.waiting) == (stats.total_blocks, 0, 0)
    assert bench.ended("running").reason == "cancelled"


def test_when_blocks_are_short_the_youngest_waits_and_goes_on_later(
    make_bench: "MakeBench",
) -> None:
    """Each asks for two blocks in the end, and one at first; three are not enough for two."""
    names = ("a", "b", "c")
    sampling = Sampling(temperature=0.0, max_tokens=20, num_logprobs=1)
    alone = make_bench()
    alone.ask("a", sampling=sampling)
    alone.finish()
    bench = make_bench(num_blocks=3)
    for name in names:
        bench.ask(name, sampling=sampling)
    bench.core.step()
    assert (bench.core.stats().running, bench.core.stats().waiting) == (2, 1)
    ends: list[str] = []
    while bench.core.step():
        bench.core.check()
        ends += [n for n in bench.replies if n not in ends and _is_over(bench, n)]
    assert ends == ["a", "b", "c"]
    assert bench.core.stats().preemptions > 0
    for name in names:
        assert [type(reply) for reply in bench.replies[name]].count(Started) == 1
        assert bench.text(name) == alone.text("a")
        found = [token.logprob for delta in bench.deltas(name) for token in delta.tokens]
        assert found == [t.logprob for delta in alone.deltas("a") for t in delta.tokens]


def test_what_the_cache_knew_is_told_and_counted(bench: "Bench") -> None:
    prompt = TokenPrompt(tokens=tuple(range(80)))
    for name, known in (("a", 0), ("b", 64)):
        bench.ask(name, prompt=prompt)
        bench.finish()
        assert bench.started(name).cached_tokens == bench.ended(name).cached_tokens == known
    assert bench.text("a") == bench.text("b")
    stats = bench.core.stats()
    assert (stats.prefix_queried_tokens, stats.prefix_hit_tokens) == (160, 64)


def test_without_a_prefix_cache_nothing_is_known(bench: "Bench") -> None:
    core = Core(bench.runner, max_batch_tokens=64, has_prefix_cache=False)
    again = replace(bench, core=core)
    for name in "ab":
        again.ask(name, prompt=TokenPrompt(tokens=tuple(range(80))))
        again.finish()
        assert again.started(name).cached_tokens == 0


def test_a_request_whose_turn_did_not_come_in_time_is_refused(make_bench: "MakeBench") -> None:
    clock = FakeClock()
    bench = make_bench(num_blocks=2)
    bench.core = Core(bench.runner, max_batch_tokens=64, clock=clock)
    long = Sampling(temperature=0.0, max_tokens=20)
    for name, deadline_s in (("runs", 5.0), ("waits", 5.0), ("patient", None)):
        prompt = TextPrompt(text="the cat sat on the mat " * 2)
        request = Generate(
            request_id=name, prompt=prompt, sampling=long, deadline_s=deadline_s, salt=name
        )
        bench.replies[name] = []
        bench.core.submit(bench.door.generation(request, bench.replies[name].append))
        bench.core.step()
    clock.advance(5.0)
    bench.finish()
    last = bench.replies["waits"][-1]
    assert isinstance(last, Refused)
    assert last.code == "deadline_exceeded"
    assert bench.ended("runs").reason == bench.ended("patient").reason == "length"


def test_an_end_token_ends_the_output_unseen(make_bench: "MakeBench", bench: "Bench") -> None:
    bench.ask("a")
    bench.finish()
    prompt = bench.door.encode(TextPrompt(text="the cat sat on the mat"))
    first = _tokens(bench, prompt, 1)
    stopping = make_bench(stop_ids=frozenset(first))
    stopping.ask("a")
    stopping.finish()
    assert stopping.text("a") == ""
    assert (stopping.ended("a").reason, stopping.ended("a").completion_tokens) == ("stop", 1)


def test_a_stop_string_ends_the_output_before_it(bench: "Bench") -> None:
    bench.ask("whole", sampling=Sampling(temperature=0.0, max_tokens=16, num_logprobs=0))
    bench.finish()
    whole = bench.text("whole")
    stop = whole[3:5]
    bench.ask(
        "cut", sampling=Sampling(temperature=0.0, max_tokens=16, stop=(stop,), num_logprobs=0)
    )
    bench.finish()
    assert bench.text("cut") == whole[: whole.index(stop)]
    assert bench.ended("cut").reason == "stop"
    shown = b"".join(t.data for d in bench.deltas("cut") for t in d.tokens)
    assert len(shown) <= len(whole[:5].encode()) + 8


def test_logprobs_come_with_the_text_of_their_tokens(bench: "Bench") -> None:
    bench.ask("a", sampling=Sampling(temperature=0.0, max_tokens=12, num_logprobs=3))
    bench.finish()
    deltas = bench.deltas("a")
    tokens = [token for delta in deltas for token in delta.tokens]
    assert len(tokens) == sum(delta.num_tokens for delta in deltas) == 12
    assert b"".join(t.data for t in tokens).decode("utf-8", "replace") == bench.text("a")
    for token in tokens:
        assert token.alternatives[0].token_id == token.token_id
        assert token.logprob == token.alternatives[0].logprob <= 0
        assert len(token.alternatives) == 3


def test_echo_shows_the_prompt_first_with_its_logprobs(bench: "Bench") -> None:
    prompt = TextPrompt(text="a dog in the fog")
    sampling = Sampling(temperature=0.0, max_tokens=2, num_logprobs=1, echo=True)
    bench.ask("a", prompt=prompt, sampling=sampling)
    bench.finish()
    echo = bench.deltas("a")[0]
    assert (echo.text, echo.num_tokens) == (prompt.text, 0)
    assert [token.token_id for token in echo.tokens] == bench.door.encode(prompt)
    assert echo.tokens[0].alternatives == ()
    assert all(len(token.alternatives) == 1 and token.logprob < 0 for token in echo.tokens[1:])


def test_no_new_tokens_still_echoes(bench: "Bench") -> None:
    sampling = Sampling(max_tokens=0, echo=True, num_logprobs=0)
    bench.ask("a", prompt=TextPrompt(text="the mat"), sampling=sampling)
    bench.ask("one", prompt=TokenPrompt(tokens=(5,)), sampling=sampling)
    bench.finish()
    assert bench.text("a") == "the mat"
    assert bench.ended("a").completion_tokens == bench.ended("one").completion_tokens == 0


@pytest.mark.parametrize("runner_type", [FragileRunner, NotANumberRunner])
def test_a_request_that_breaks_is_refused_and_its_neighbours_go_on(
    make_bench: "MakeBench", runner_type: type[Runner]
) -> None:
    alone = make_bench()
    alone.ask("good")
    alone.finish()
    bench = make_bench(runner_type=runner_type)
    bench.ask("bad", prompt=TokenPrompt(tokens=(1, POISON, 2)))
    bench.ask("good")
    bench.finish()
    refusal = bench.replies["bad"][-1]
    assert isinstance(refusal, Refused)
    assert refusal.code == "internal_error"
    assert bench.text("good") == alone.text("good")


def test_a_full_queue_refuses(bench: "Bench", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purvey.engine.inbox.LIMITS", type(LIMITS)(queued_requests=2))
    bench.ask("a")
    bench.ask("b")
    with pytest.raises(CapacityError, match="2 requests"):
        bench.ask("c")
    bench.finish()
    bench.ask("d")
    bench.finish()


def test_a_queue_full_of_tokens_refuses(bench: "Bench", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purvey.engine.inbox.LIMITS", type(LIMITS)(queued_tokens=50))
    prompt = TokenPrompt(tokens=tuple(range(20)))
    bench.ask("a", prompt=prompt)
    with pytest.raises(CapacityError, match=r"27 tokens are .* may take 27, and at most 50"):
        bench.ask("b", prompt=prompt)
    bench.finish()
    bench.ask("c", prompt=prompt)
    bench.finish()


def test_draining_finishes_what_was_accepted(bench: "Bench") -> None:
    bench.ask("a")
    loop = threading.Thread(target=bench.core.run)
    loop.start()
    bench.core.drain()
    loop.join(60)
    assert not loop.is_alive()
    assert bench.ended("a").reason == "length"
    with pytest.raises(ShuttingDownError):
        bench.ask("b")


def test_stopping_cancels_what_was_accepted(bench: "Bench") -> None:
    bench.ask("a", sampling=Sampling(max_tokens=100))
    bench.core.stop()
    bench.core.run()
    assert bench.ended("a").reason == "cancelled"
    bench.core.check()


def test_a_batch_too_small_for_a_tile_is_refused_at_start(make_bench: "MakeBench") -> None:
    with pytest.raises(SettingError) as caught:
        make_bench(max_batch_tokens=63)
    assert caught.value.param == "max_batch_tokens"


def _tokens(bench: "Bench", prompt: list[int], count: int) -> list[int]:
    sampling = Sampling(temperature=0.0, max_tokens=count, num_logprobs=0)
    bench.ask("tokens", prompt=TokenPrompt(tokens=tuple(prompt)), sampling=sampling)
    bench.finish()
    return [token.token_id for delta in bench.deltas("tokens") for token in delta.tokens]


def _is_over(bench: "Bench", name: str) -> bool:
    return bool(bench.replies[name]) and isinstance(bench.replies[name][-1], Finished)


def test_an_id_that_is_taken_is_refused_and_the_first_goes_on(bench: "Bench") -> None:
    bench.ask("a")
    bench.core.step()
    first = bench.replies.pop("a")
    bench.ask("a")
    bench.finish()
    assert [type(reply) for reply in bench.replies["a"]] == [Refused]
    assert isinstance(first[-1], Finished)
