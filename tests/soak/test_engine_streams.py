"""Many streams at one time on a cache that is too small for them, some of them given up.

`make soak` does it for two minutes, the suite for some seconds. Every stream that ends says what it
says alone, every one that was given up ends once, and every block comes back.
"""

import itertools
import random
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from purvey.contracts.sampling import Sampling
from purvey.engine.core import Core
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.logits import SpanLogits
from purvey.engine.request import Sequence
from purvey.engine.runner import Runner
from purvey.engine.sampling import choose
from purvey.engine.work import EndReason
from purvey.errors import PurveyError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder

CONFIG = DecoderConfig(
    vocabulary_size=131,
    hidden_size=16,
    mlp_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_size=8,
    context_tokens=256,
    initializer_std=0.3,
)
NUM_BLOCKS, NUM_STREAMS = 24, 64
_numbers = itertools.count()
Script = tuple[list[int], Sampling, bool]
"""Prompt, sampling, and whether it yields to others."""


class Stream:
    """A generation that keeps its tokens and how it ended."""

    def __init__(self, script: Script, project: str) -> None:
        prompt, sampling, is_background = self.script = script
        self.sequence = Sequence(
            request_id=str(next(_numbers)),
            tokens=list(prompt),
            num_prompt=len(prompt),
            max_new_tokens=sampling.max_tokens or 0,
            sampling=sampling,
            is_background=is_background,
            project=project,
            salt=project,
        )
        self.ends: list[object] = []
        self.is_over = threading.Event()

    def admit(self) -> None:
        """Nothing to tell."""

    def take(self, positions: range, logits: SpanLogits) -> EndReason | None:
        """Choose the next token."""
        sequence = self.sequence
        if sequence.num_pending:
            return None
        token = choose(logits.rows()[-1], sequence.sampling, position=len(sequence.tokens))
        sequence.tokens.append(token)
        return "length" if sequence.is_full else None

    def end(self, reason: EndReason) -> None:
        """Note it."""
        self._over(reason)

    def fail(self, error: PurveyError) -> None:
        """Note it."""
        self._over(error)

    def cancel(self) -> None:
        """Note it."""
        self._over("cancelled")

    def _over(self, how: object) -> None:
        self.ends.append(how)
        self.is_over.set()


def engine(num_blocks: int) -> Core:
    """Build an engine; always with the same weights."""
    decoder = Decoder(CONFIG).eval()
    decoder.reset_parameters(torch.Generator().manual_seed(5))
    runner = Runner(FrozenDecoder(decoder), KVCache(CONFIG, num_blocks=num_blocks))
    return Core(runner, max_batch_tokens=128)


def scripts(seed: int, count: int) -> list[Script]:
    """Draw what is asked: long and short, with shared beginnings, greedy and not."""
    draw = random.Random(seed)  # noqa: S311 (a seeded test)
    systems = [[draw.randrange(131) for _ in range(n)] for n in (33, 64, 80)]
    found = []
    for i in range(count):
        own = [draw.randrange(131) for _ in range(draw.choice((1, 7, 31, 60)))]
        start = draw.choice([[], *systems])
        sampling = Sampling(
            temperature=draw.choice((0.0, 1.0)), seed=i, max_tokens=draw.choice((1, 40, 100))
        )
        found.append((start + own, sampling, draw.random() < 0.2))
    return found


def soak(seconds: float, *, seed: int, num_scripts: int) -> tuple[Core, int, int]:
    """Keep `NUM_STREAMS` streams in flight for some time; return how many ended, and cancelled."""
    draw = random.Random(seed)  # noqa: S311 (a seeded test)
    asked = scripts(seed, num_scripts)
    expected = [_alone(script) for script in asked]
    core = engine(NUM_BLOCKS)
    loop = threading.Thread(target=core.run)
    loop.start()
    living: list[tuple[int, Stream]] = []
    ended = given_up = 0
    stop_at = time.monotonic() + seconds
    try:
        while time.monotonic() < stop_at or living:
            while time.monotonic() < stop_at and len(living) < NUM_STREAMS:
                number = draw.randrange(num_scripts)
                stream = Stream(asked[number], project=draw.choice("abc"))
                living.append((number, stream))
                core.submit(stream)
            if draw.random() < 0.1:
                core.cancel(draw.choice(living)[1].sequence.request_id)
            living[0][1].is_over.wait(0.01)
            for number, stream in [one for one in living if one[1].is_over.is_set()]:
                living.remove((number, stream))
                assert stream.ends in (["length"], ["cancelled"]), stream.ends
                ended += stream.ends == ["length"]
                given_up += stream.ends == ["cancelled"]
                told = len(stream.sequence.tokens)
                assert stream.sequence.tokens == expected[number][:told]
                assert stream.ends == ["cancelled"] or told == len(expected[number])
    finally:
        core.drain()
        loop.join(120)
    assert not loop.is_alive()
    return core, ended, given_up


def check(core: Core, ended: int, given_up: int) -> None:
    """All came back, and there was something to come back from."""
    core.check()
    stats = core.stats()
    assert stats.free_blocks == stats.total_blocks
    assert stats.running == stats.waiting == 0
    assert min(ended, given_up, stats.preemptions, stats.prefix_hit_tokens) > 0


def _alone(script: Script) -> list[int]:
    core = engine(num_blocks=16)
    stream = Stream(script, project="alone")
    core.submit(stream)
    while core.step():
        pass
    return stream.sequence.tokens


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_streams_on_a_small_cache_for_some_seconds() -> None:
    check(*soak(1.0, seed=11, num_scripts=12))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_streams_on_a_small_cache_for_two_minutes() -> None:
    check(*soak(120.0, seed=12, num_scripts=60))
