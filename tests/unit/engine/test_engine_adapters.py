"""The bank of adapters: what it refuses, and adapters that come and go while a core runs."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from purvey.contracts.engine import Delta, Finished, Generate, Refused, Started, TextPrompt
from purvey.contracts.sampling import Sampling
from purvey.engine.adapters.bank import AdapterBank
from purvey.engine.adapters.roster import Adapter, Roster
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.output.voice import Voice
from purvey.engine.runner import Runner
from purvey.engine.score import Scorer
from purvey.errors import CapacityError, InvalidCheckpointError, PurveyError
from purvey.models.chat import ChatTemplate
from purvey.models.decoder import Decoder
from purvey.models.lora import AdapterWeights
from purvey.models.tokenizer import Tokenizer
from tests.unit.engine.conftest import CONFIG

ADAPTER_BYTES = 2**22
PROMPTS = [f"the cat sat on the mat {number} times" for number in range(8)]


def weights(
    seed: int, *, rank: int = 4, scale: float = 1.0, numbers: float = 0.3
) -> AdapterWeights:
    """Draw an adapter of two kinds of layers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * numbers

    shapes = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (32, 44)}
    pairs = {
        f"layers.{layer}.{name}": (draw(rank, inputs), draw(outputs, rank))
        for layer in range(CONFIG.num_layers)
        for name, (outputs, inputs) in shapes.items()
    }
    return AdapterWeights(rank=rank, scale=scale, pairs=pairs)


class Base:
    """A tiny base with a bank; its loop runs in a thread of its own where that is asked for."""

    def __init__(self, tokenizer: Tokenizer, *, num_blocks: int = 48) -> None:
        decoder = Decoder(CONFIG).eval()
        decoder.reset_parameters(torch.Generator().manual_seed(7))
        self.bank = AdapterBank(CONFIG, dtype=torch.float32, adapter_bytes=ADAPTER_BYTES)
        self.voices: dict[Adapter, Voice] = {}
        self.roster = Roster(self.bank.free)
        cache = KVCache(CONFIG, num_blocks=num_blocks)
        runner = Runner(FrozenDecoder(decoder), cache, self.bank)
        self.core = Core(runner, max_batch_tokens=64, roster=self.roster)
        self.door = Door(
            tokenizer,
            None,
            stop_ids=frozenset(),
            vocabulary_size=CONFIG.vocabulary_size,
            context_tokens=CONFIG.context_tokens,
            cache_tokens=self.core.cache_tokens,
        )

    def load(self, digest: str, given: AdapterWeights) -> None:
        """Load an adapter."""
        self.roster.put(self.bank.load(digest, given))

    def ask(self, name: str, prompt: str, adapter: str, done: "Answer", *, num: int = 12) -> None:
        """Submit a greedy generation."""
        held = self.roster.take(adapter) if adapter else None
        voice = self.door.voice_of(None)
        request = Generate(
            request_id=name,
            prompt=TextPrompt(text=prompt),
            sampling=Sampling(temperature=0.0, max_tokens=num),
        )
        try:
            voice = Voice(
                template=None, stop_ids=voice.stop_ids, grammars=voice.grammars, adapter=held
            )
            self.core.submit(self.door.generation(request, done, voice=voice))
        finally:
            if held is not None:
                self.roster.release(held)


class Answer:
    """What became of a request."""

    def __init__(self) -> None:
        self.text, self.ended = "", threading.Event()
        self.last: Finished | Refused | None = None

    def __call__(self, reply: Started | Delta | Finished | Refused) -> None:
        """Take a reply."""
        if isinstance(reply, Delta):
            self.text += reply.text
        elif not isinstance(reply, Started):
            self.last = reply
            self.ended.set()


@pytest.fixture
def base(tokenizer: Tokenizer) -> Iterator[Base]:
    """A base; whatever a test does, nothing may be left of its adapters."""
    built = Base(tokenizer)
    yield built
    for digest in built.roster.digests:
        built.roster.drop(digest, lambda: None)
    built.roster.check()
    built.bank.check()


def test_adapters_that_take_too_much_are_refused_with_the_arithmetic(base: Base) -> None:
    base.load("small", weights(0))
    used = base.bank.used_bytes
    numbers = 2 * ((32 + 32) + (44 + 32)) * 4096  # layers x features x ranks
    with pytest.raises(CapacityError) as raised:
        base.load("large", weights(1, rank=4096))
    wanted = f"the adapter takes {numbers * 4 / 2**20:.1f} MiB of rank 4096"
    assert wanted in raised.value.text
    assert "may take 4.0 MiB (adapter_bytes)" in raised.value.text
    assert base.bank.used_bytes == used


def test_numbers_that_overflow_are_refused_and_leave_nothing_behind(base: Base) -> None:
    for given in (weights(0, scale=1e38, numbers=1e3), weights(0, scale=float("inf"))):
        with pytest.raises(InvalidCheckpointError, match=r"q_proj.*overflow"):
            base.load("bad", given)
    base.bank.check()


def test_a_cancelled_or_refused_request_lets_go_of_its_adapter(base: Base) -> None:
    base.load("a", weights(0))
    answers = [Answer() for _ in range(3)]
    for number, answer in enumerate(answers):
        base.ask(f"r{number}", PROMPTS[0], "a", answer)
    dropped = threading.Event()
    base.roster.drop("a", dropped.set)
    base.core.step()
    base.core.cancel("r0")
    base.core.cancel("r1")
    base.core.step()
    assert not dropped.is_set()
    base.core.stop()
    base.core.run()
    assert dropped.is_set()
    base.load("b", weights(1))
    with pytest.raises(PurveyError):  # it takes nothing more
        base.ask("late", PROMPTS[0], "b", Answer())


def test_scores_are_those_of_the_adapter(base: Base) -> None:
    base.load("a", weights(0, numbers=1.0))
    scorer = Scorer(base.core, base.door.encode_pair)
    pair = (TextPrompt(text="the cat"), TextPrompt(text=" sat on"))
    plain = scorer.submit([pair])
    voice = base.door.voice_of(None)
    held = base.roster.take("a")
    adapted = scorer.submit(
        [pair],
        voice=Voice(template=None, stop_ids=voice.stop_ids, grammars=voice.grammars, adapter=held),
    )
    base.roster.release(held)
    while base.core.step():
        base.core.check()
    assert plain.result() != adapted.result()


def test_an_adapter_of_its_own_template_ends_where_that_does(tokenizer: Tokenizer) -> None:
    base = Base(tokenizer)
    template = ChatTemplate.default(tokenizer)
    assert base.door.voice_of(None).template is None
    voice = base.door.voice_of(template)
    assert voice.template is template
    assert voice.stop_ids == frozenset(tokenizer.eos_ids)


def _alone(tokenizer: Tokenizer, name: str, prompt: str) -> str:
    solo, answer = Base(tokenizer), Answer()
    if name:
        solo.load(name, weights(ord(name)))
    solo.ask("r", prompt, name, answer)
    while solo.core.step():
        solo.core.check()
    return answer.text


def test_adapters_come_and_go_under_32_streams(tokenizer: Tokenizer) -> None:
    """Every request ends, and in the very text that it has alone."""
    names = ["", "a", "b", "c"]
    asked = [(name, prompt) for name in names for prompt in PROMPTS]
    alone = {one: _alone(tokenizer, *one) for one in asked}
    assert len({alone[name, PROMPTS[0]] for name in names}) == 4, "the adapters change nothing"

    busy = Base(tokenizer)
    loop = threading.Thread(target=busy.core.run)
    loop.start()
    answers: list[tuple[str, str, Answer]] = []
    for turn in range(4):
        gone = [threading.Event() for _ in names[1:]]
        for name in names[1:]:
            busy.load(name, weights(ord(name)))
        for number, prompt in enumerate(PROMPTS):
            name, answer = names[(number + turn) % 4], Answer()
            busy.ask(f"{turn}.{number}", prompt, name, answer)
            answers.append((name, prompt, answer))
        for name, event in zip(names[1:], gone, strict=True):  # they run, or wait to
            busy.roster.drop(name, event.set)
        if turn % 2:
            assert all(event.wait(30) for event in gone)
    busy.core.drain()
    loop.join(60)
    assert len(answers) == 32
    for name, prompt, answer in answers:
        assert answer.ended.is_set()
        assert isinstance(answer.last, Finished)
        assert answer.text == alone[name, prompt]
    busy.roster.check()
    busy.bank.check()
