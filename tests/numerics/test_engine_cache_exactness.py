"""What was cached, and what was computed anew after a preemption, has the bits of a run alone.

Every comparison is of the recorded logits, bit for bit, so greedy outputs follow. Prompts end
within a tile, at its end and one past it; pools are so small that sequences lose their blocks.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from purvey.engine.batch import TILE_TOKENS, Batch
from purvey.engine.core import Core
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import BLOCK_TOKENS, KVCache
from purvey.engine.linears.choice import Chosen, linears
from purvey.engine.logits import HostLogits, SpanLogits
from purvey.engine.runner import Runner
from purvey.engine.work import EndReason
from tests.numerics.test_engine_exactness import (
    CONFIGS,
    Recorder,
    Take,
    decoder,
    prompt_of,
    run_out,
)

NUM_NEW = 24


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Counting(Recorder):
    """A recorder that counts the rows of each request; no logits are delivered twice."""

    def __init__(self, *arguments: Any) -> None:  # passed on as they are
        super().__init__(*arguments)
        self.num_computed: Counter[str] = Counter()

    def run(self, batch: Batch) -> list[HostLogits]:
        """Run, record and count."""
        before = len(self.logits)
        found = super().run(batch)
        assert len(self.logits) - before == len(batch.wanted_R)
        for span in batch.spans:
            self.num_computed[span.sequence.request_id] += span.num_tokens
        return found


def engine(
    name: str, *, num_blocks: int = 96, max_batch_tokens: int = 256, chosen: Chosen = "fp32"
) -> tuple[Core, Counting]:
    """Build an engine that records."""
    config = CONFIGS[name]
    served = FrozenDecoder(decoder(config), linears=linears(chosen))
    runner = Counting(served, KVCache(config, num_blocks=num_blocks))
    return Core(runner, max_batch_tokens=max_batch_tokens), runner


def take(
    name: str, prompt: list[int], *, num_new: int = NUM_NEW, logprobs_from: int | None = None
) -> Take:
    """Build work that wants nothing of the prompt but its last row, unless told."""
    work = Take(name, prompt, num_new)
    work.sequence.prompt_logprobs_from = logprobs_from
    return work


@cache
def solo(
    name: str, prompt: tuple[int, ...], num_new: int, logprobs_from: int | None, chosen: Chosen
) -> tuple[list[int], dict[int, torch.Tensor]]:
    """Return tokens and logits of a run alone, in a cache that knows nothing."""
    core, recorded = engine(name, chosen=chosen)
    work = take("a", list(prompt), num_new=num_new, logprobs_from=logprobs_from)
    core.submit(work)
    run_out(core)
    return work.sequence.tokens, {p: x for (_, p), x in recorded.logits.items()}


def check(work: Take, recorded: Counting, name: str, chosen: Chosen = "fp32") -> None:
    """Compare a work that has ended with a run alone."""
    sequence = work.sequence
    prompt = tuple(sequence.tokens[: sequence.num_prompt])
    wanted = (sequence.max_new_tokens, sequence.prompt_logprobs_from)
    tokens, logits = solo(name, prompt, *wanted, chosen)
    assert sequence.tokens == tokens
    found = {p: x for (r, p), x in recorded.logits.items() if r == sequence.request_id}
    assert found.keys() == logits.keys()
    assert all(torch.equal(found[p], logits[p]) for p in logits)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [65, 96])
def test_a_hit_changes_no_bit(name: str, length: int) -> None:
    core, recorded = engine(name)
    system = prompt_of(70, CONFIGS[name])
    first = take("first", system + prompt_of(20, CONFIGS[name], seed=1))
    core.submit(first)
    run_out(core)
    second = take("second", system[:65] + prompt_of(length - 65, CONFIGS[name], seed=2))
    core.submit(second)
    run_out(core)
    assert second.sequence.num_reused == 2 * TILE_TOKENS
    assert recorded.num_computed["second"] == length + NUM_NEW - 1 - 2 * TILE_TOKENS
    check(second, recorded, name)


def test_the_same_prompt_again_computes_its_last_token_at_least() -> None:
    for length in (2 * TILE_TOKENS, 2 * TILE_TOKENS + 1):
        core, recorded = engine("grouped")
        for request_id in ("first", "second"):
            work = take(request_id, prompt_of(length, CONFIGS["grouped"]))
            core.submit(work)
            run_out(core)
        assert work.sequence.num_reused == (length - 1) // TILE_TOKENS * TILE_TOKENS
        check(work, recorded, "grouped")


def test_another_salt_finds_nothing() -> None:
    core, _ = engine("grouped")
    for i, (salt, reused) in enumerate((("p1", 0), ("p2", 0), ("p1", TILE_TOKENS))):
        work = take(str(i), prompt_of(50, CONFIGS["grouped"]))
        work.sequence.salt = salt
        core.submit(work)
        run_out(core)
        assert work.sequence.num_reused == reused


def test_a_hit_ends_before_the_first_log_probability_that_is_wanted() -> None:
    core, recorded = engine("grouped")
    prompt = prompt_of(100, CONFIGS["grouped"])
    for request_id, start, reused in (("a", 90, 0), ("b", 90, 64), ("c", 97, 96), ("d", 33, 32)):
        work = take(request_id, prompt, logprobs_from=start)
        core.submit(work)
        run_out(core)
        assert work.sequence.num_reused == reused
        check(work, recorded, "grouped")


def test_sequences_that_come_together_compute_what_they_share_once() -> None:
    core, recorded = engine("grouped", max_batch_tokens=2 * TILE_TOKENS)
    system = prompt_of(128, CONFIGS["grouped"])
    works = [take(str(i), [*system, i, i + 1], num_new=4) for i in range(5)]
    for work in works:
        core.submit(work)
    run_out(core)
    assert [work.sequence.num_reused for work in works] == [0, 128, 128, 128, 128]
    for work in works:
        check(work, recorded, "grouped")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("remembers", [True, False], ids=["found again", "forgotten"])
def test_a_preemption_changes_no_bit(name: str, remembers: bool) -> None:
    """Computed anew from nothing, or from blocks that were not handed out meanwhile."""
    config = CONFIGS[name]
    runner = Counting(FrozenDecoder(decoder(config)), KVCache(config, num_blocks=12))
    core = Core(runner, max_batch_tokens=128, has_prefix_cache=remembers)
    works = [take(str(i), prompt_of(n, config, seed=i)) for i, n in enumerate((40, 64, 33, 17))]
    for work in works:
        core.submit(work)
    run_out(core)
    assert core.stats().preemptions > 0
    assert core.stats().free_blocks == 12
    for work in works:
        check(work, runner, name)


def test_log_probabilities_of_a_prompt_are_delivered_once_whatever_is_preempted() -> None:
    core, recorded = engine("grouped", num_blocks=13, max_batch_tokens=2 * TILE_TOKENS)
    delivered: dict[str, list[int]] = {}

    class Noting(Take):
        """Work that notes which positions it was given."""

        def take(self, positions: range, logits: SpanLogits) -> EndReason | None:
            """Note them."""
            delivered.setdefault(self.sequence.request_id, []).extend(positions)
            return super().take(positions, logits)

    works = [Noting(str(i), prompt_of(90, CONFIGS["grouped"], seed=i), NUM_NEW) for i in range(4)]
    for work in works:
        core.submit(work)
    run_out(core)
    assert core.stats().preemptions > 0
    for work in works:
        assert delivered[work.sequence.request_id] == list(range(90 + NUM_NEW - 1))
        check(work, recorded, "grouped")


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        *((name, "fp32") for name in CONFIGS),
        *(("grouped", low) for low in ("bf16", "int8", "int4")),
    ],
)
def test_hits_and_preemptions_together_change_no_bit(name: str, chosen: Chosen) -> None:
    """Shared beginnings, arrivals in the middle, cancellations, a pool of ten blocks."""
    config = CONFIGS[name]
    core, recorded = engine(
        name, num_blocks=10, max_batch_tokens=2 * TILE_TOKENS + 5, chosen=chosen
    )
    system = prompt_of(66, config)
    works = []
    for i, own in enumerate((3, 40, 1, 17, 29, 62, 9, 30)):
        works.append(take(str(i), system[: 33 * (i % 3)] + prompt_of(own, config, seed=i)))
        core.submit(works[-1])
        core.step()
        core.check()
        if i in (2, 5):
            core.cancel(str(i))
    run_out(core)
    assert core.stats().preemptions > 0
    assert core.stats().prefix_hit_tokens > 0
    assert core.stats().free_blocks == 10
    for i, work in enumerate(works):
        if i not in (2, 5):
            check(work, recorded, name, chosen)


def test_a_block_is_as_wide_as_the_tests_think() -> None:
    assert (BLOCK_TOKENS, TILE_TOKENS) == (16, 32)
    assert issubclass(Counting, Runner)
