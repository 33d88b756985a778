"""A tiny random language model and an engine around it, stepped by hand."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pytest
import torch

from purvey.contracts.engine import Delta, Finished, Generate, Prompt, Refused, Started, TextPrompt
from purvey.contracts.sampling import Sampling
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.output.voice import Voice
from purvey.engine.runner import Runner
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.tokenizer import Tokenizer

CONTEXT_TOKENS = 256
CONFIG = DecoderConfig(
    vocabulary_size=300,
    hidden_size=32,
    mlp_size=44,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    context_tokens=CONTEXT_TOKENS,
    initializer_std=0.3,
)
Reply = Started | Delta | Finished | Refused


@dataclass(kw_only=True)
class Bench:
    """An engine on the test bench: `replies` by request, in order."""

    core: Core
    door: Door
    runner: Runner
    replies: dict[str, list[Reply]] = field(default_factory=dict)

    def ask(
        self,
        request_id: str,
        *,
        prompt: Prompt | None = None,
        sampling: Sampling | None = None,
        voice: Voice | None = None,
    ) -> None:
        """Submit a generation."""
        request = Generate(
            request_id=request_id,
            prompt=prompt or TextPrompt(text="the cat sat on the mat"),
            sampling=sampling or Sampling(temperature=0.0, max_tokens=8),
        )
        replies = self.replies.setdefault(request_id, [])
        self.core.submit(self.door.generation(request, replies.append, voice=voice))

    def finish(self) -> None:
        """Step until nothing is left, checking the invariants after every step."""
        while self.core.step():
            self.core.check()
        self.core.check()
        stats = self.core.stats()
        assert stats.free_blocks == stats.total_blocks
        assert stats.running == stats.waiting == 0

    def text(self, request_id: str) -> str:
        """Return the text of all deltas so far."""
        return "".join(delta.text for delta in self.deltas(request_id))

    def started(self, request_id: str) -> Started:
        """Return the first reply."""
        first = self.replies[request_id][0]
        assert isinstance(first, Started)
        return first

    def deltas(self, request_id: str) -> list[Delta]:
        """Return the deltas so far."""
        return [reply for reply in self.replies[request_id] if isinstance(reply, Delta)]

    def ended(self, request_id: str) -> Finished:
        """Return the last reply of a generation that ended well."""
        last = self.replies[request_id][-1]
        assert isinstance(last, Finished)
        return last


class MakeBench(Protocol):
    """Builds an engine; always with the same weights."""

    def __call__(
        self,
        *,
        num_blocks: int = 64,
        max_batch_tokens: int = 64,
        runner_type: type[Runner] = Runner,
        stop_ids: frozenset[int] = frozenset(),
    ) -> Bench:
        """Build one."""
        ...


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Byte-level BPE with two special tokens."""
    texts = ["the cat sat on the mat", "a dog in the fog", "日本語 and 中文"] * 4
    return Tokenizer.train(texts, vocabulary_size=290)


@pytest.fixture
def make_bench(tokenizer: Tokenizer) -> MakeBench:
    """Build an engine; always with the same weights."""

    def make(
        *,
        num_blocks: int = 64,
        max_batch_tokens: int = 64,
        runner_type: type[Runner] = Runner,
        stop_ids: frozenset[int] = frozenset(),
    ) -> Bench:
        decoder = Decoder(CONFIG).eval()
        decoder.reset_parameters(torch.Generator().manual_seed(7))
        runner = runner_type(FrozenDecoder(decoder), KVCache(CONFIG, num_blocks=num_blocks))
        core = Core(runner, max_batch_tokens=max_batch_tokens)
        door = Door(
            tokenizer,
            None,
            stop_ids=stop_ids,
            vocabulary_size=CONFIG.vocabulary_size,
            context_tokens=CONTEXT_TOKENS,
            cache_tokens=core.cache_tokens,
        )
        return Bench(core=core, door=door, runner=runner)

    return make


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """An engine with its usual sizes."""
    return make_bench()
