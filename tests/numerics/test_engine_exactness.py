"""What the engine computes: equal to the definition, and blind to neighbours, bit for bit.

Shape letters, this file only:
    T = rows   I = input features   O = output features   V = vocabulary
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from purvey.contracts.sampling import Sampling
from purvey.engine.batch import TILE_TOKENS, Batch
from purvey.engine.core import Core
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import BLOCK_TOKENS, KVCache
from purvey.engine.linears.rows import BlockedLinear, PackedLinear, RowLinear, has_packed_kernels
from purvey.engine.logits import HostLogits, SpanLogits
from purvey.engine.request import Sequence
from purvey.engine.runner import Runner
from purvey.engine.sampling import choose
from purvey.engine.work import EndReason
from purvey.errors import PurveyError
from purvey.models.config import DecoderConfig, Rope
from purvey.models.decoder import Decoder

CONFIGS = {
    "grouped": DecoderConfig(
        vocabulary_size=331,
        hidden_size=48,
        mlp_size=172,
        num_layers=2,
        num_heads=6,
        num_kv_heads=2,
        head_size=8,
        context_tokens=256,
        initializer_std=0.2,
    ),
    "biased, head of its own": DecoderConfig(
        family="qwen2",
        vocabulary_size=259,
        hidden_size=40,
        mlp_size=100,
        num_layers=2,
        num_heads=5,
        num_kv_heads=5,
        head_size=8,
        context_tokens=256,
        initializer_std=0.2,
        is_tied=False,
        has_qkv_bias=True,
    ),
    "gemma": DecoderConfig(
        family="gemma2",
        vocabulary_size=331,
        hidden_size=48,
        mlp_size=172,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_size=8,
        context_tokens=256,
        initializer_std=0.2,
        local_rope=Rope(theta=500.0),
        unrotated_layers=(1,),
        windows=(21, None, 21),
        activation="gelu_tanh",
        norm_offset=1.0,
        has_qk_norm=True,
        has_output_norms=True,
        embedding_scale=6.9,
        attention_scale=0.3,
        attention_softcap=2.0,
        logit_softcap=9.0,
    ),
}


@pytest.fixture(autouse=True, params=[1, 2], ids=["one thread", "two threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def decoder(config: DecoderConfig) -> Decoder:
    """Build a decoder with fixed weights; biases are drawn too, so that they count."""
    built = Decoder(config).eval()
    generator = torch.Generator().manual_seed(3)
    built.reset_parameters(generator)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
    return built


class Recorder(Runner):
    """A runner that keeps the logits of every request and position."""

    def __init__(self, *arguments: Any) -> None:  # passed on as they are
        super().__init__(*arguments)
        self.logits: dict[tuple[str, int], Tensor] = {}
        self.num_rows: set[int] = set()

    def run(self, batch: Batch) -> list[HostLogits]:
        """Run and record."""
        found = super().run(batch)
        self.num_rows.add(len(batch.tokens_T))
        for span, logits in zip(batch.spans, found, strict=True):
            for position, logits_V in zip(span.wanted, logits.rows(), strict=True):
                self.logits[span.sequence.request_id, position] = logits_V
        return found


class Take:
    """Work that reads the whole prompt's logits and writes greedy tokens."""

    def __init__(self, name: str, prompt: list[int], num_new: int) -> None:
        self.sequence = Sequence(
            request_id=name,
            tokens=list(prompt),
            num_prompt=len(prompt),
            max_new_tokens=num_new,
            sampling=Sampling(temperature=0.0),
            prompt_logprobs_from=0,
        )

    def admit(self) -> None:
        """Nothing to tell."""

    def take(self, positions: range, logits: SpanLogits) -> EndReason | None:
        """Append the best token."""
        sequence = self.sequence
        if sequence.num_pending:
            return None
        best = choose(logits.rows()[-1], sequence.sampling, position=len(sequence.tokens))
        sequence.tokens.append(best)
        return "length" if sequence.is_full else None

    def end(self, reason: EndReason) -> None:
        """Nothing to tell."""

    def fail(self, error: PurveyError) -> None:
        """Tell."""
        raise error

    def cancel(self) -> None:
        """Nothing to tell."""


def engine(
    config: DecoderConfig, *, max_batch_tokens: int = 512, num_blocks: int = 96
) -> tuple[Core, Recorder]:
    """Build an engine that records."""
    recorder = Recorder(FrozenDecoder(decoder(config)), KVCache(config, num_blocks=num_blocks))
    return Core(recorder, max_batch_tokens=max_batch_tokens), recorder


def prompt_of(length: int, config: DecoderConfig, *, seed: int = 0) -> list[int]:
    """Draw token ids."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(
        0, config.vocabulary_size, (length,), generator=generator
    ).tolist()
    return ids


def run_out(core: Core) -> None:
    """Step to the end, checking every time."""
    while core.step():
        core.check()


def activated(layer: RowLinear, x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """Return the layer's rows behind each activation."""
    return layer.activated(x_TI, "silu"), layer.activated(x_TI, "gelu_tanh")


def test_a_linear_row_has_the_same_bits_in_any_number_of_rows() -> None:
    for kind in (PackedLinear, BlockedLinear) if has_packed_kernels() else (BlockedLinear,):
        for inputs, outputs in ((48, 48), (48, 172), (172, 48), (64, 331), (256, 1000)):
            torch.manual_seed(inputs + outputs)
            layer: RowLinear = kind(torch.randn(outputs, inputs), torch.randn(outputs))
            x_TI, other_TO = torch.randn(70, inputs), torch.randn(70, outputs)
            whole = (layer(x_TI), *activated(layer, x_TI), layer.times(x_TI, other_TO))
            for start, end in ((0, 1), (69, 70), (3, 5), (7, 10), (11, 28), (1, 65)):
                x, other = x_TI[start:end], other_TO[start:end]
                part = (layer(x), *activated(layer, x), layer.times(x, other))
                for found, expected in zip(part, whole, strict=True):
                    assert torch.equal(found, expected[start:end])


def test_linear_layers_compute_what_torch_does() -> None:
    """Tolerance: 64 products of order 1 in float32, other order of summation: 64 * 2^-23 * 8."""
    torch.manual_seed(0)
    weight_OI, bias_O, x_TI = torch.randn(40, 64), torch.randn(40), torch.randn(9, 64)
    expected = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
    for kind in (PackedLinear, BlockedLinear) if has_packed_kernels() else (BlockedLinear,):
        layer: RowLinear = kind(weight_OI, bias_O)
        torch.testing.assert_close(layer(x_TI), expected, atol=6e-5, rtol=0)
        silu = torch.nn.functional.silu(expected)
        gelu = torch.nn.functional.gelu(expected, approximate="tanh")
        for found, wanted in zip(activated(layer, x_TI), (silu, gelu), strict=True):
            torch.testing.assert_close(found, wanted, atol=6e-5, rtol=0)
        torch.testing.assert_close(layer.times(x_TI, silu), expected * silu, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_decoder(name: str) -> None:
    """The dense pass of the same weights; float32 in another order of summation, 1e-4."""
    config = CONFIGS[name]
    core, recorder = engine(config, max_batch_tokens=2 * TILE_TOKENS)
    work = Take("a", prompt_of(150, config), 20)
    core.submit(work)
    run_out(core)
    tokens = work.sequence.tokens
    with torch.no_grad():
        dense_TV = decoder(config)(torch.tensor([tokens]))[0]
    found_TV = torch.stack([recorder.logits["a", p] for p in range(len(tokens) - 1)])
    torch.testing.assert_close(found_TV, dense_TV[:-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [1, 31, 33, 100])
def test_logits_have_the_same_bits_alone_and_among_any_neighbours(name: str, length: int) -> None:
    """Chunked prefill, decoding beside prefill, scattered blocks: nothing moves a bit."""
    config = CONFIGS[name]
    prompt = prompt_of(length, config)
    alone, recorded = engine(config)
    work = Take("a", prompt, 12)
    alone.submit(work)
    run_out(alone)

    crowded, mixed = engine(config, max_batch_tokens=2 * TILE_TOKENS + 7, num_blocks=60)
    for i in range(9):  # leave holes, so that blocks are no neighbours
        crowded.submit(Take(f"early-{i}", prompt_of(10 + 17 * (i % 4), config, seed=i), 1 + i))
    for _ in range(5):
        crowded.step()
    again = Take("a", prompt, 12)
    crowded.submit(again)
    for i in range(4):
        crowded.submit(Take(f"late-{i}", prompt_of(90, config, seed=50 + i), 9))
        crowded.step()
    run_out(crowded)

    assert again.sequence.tokens == work.sequence.tokens
    assert len(mixed.num_rows) > 3
    for position in range(length + 11):
        assert torch.equal(mixed.logits["a", position], recorded.logits["a", position]), position


def test_scattered_blocks_give_the_same_bits() -> None:
    config = CONFIGS["grouped"]
    prompt = prompt_of(70, config)
    found = []
    for order in (range(6), (5, 0, 3, 1, 4, 2)):
        runner = Runner(FrozenDecoder(decoder(config)), KVCache(config, num_blocks=6))
        sequence = Take("a", prompt, 1).sequence
        sequence.blocks = [_block(i) for i in order]
        found.append(_run_whole(runner, sequence))
    assert torch.equal(found[0], found[1])
    assert len(prompt) < BLOCK_TOKENS * 6


def _block(number: int) -> Any:  # a BlockId, which only the pool makes
    return number


def _run_whole(runner: Runner, sequence: Sequence) -> Tensor:
    from purvey.engine.batch import build_batch

    (logits,) = runner.run(build_batch([(sequence, sequence.num_pending)], runner.cache))
    return logits.rows()
