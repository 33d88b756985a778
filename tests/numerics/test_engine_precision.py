"""What a precision costs: logits, and the perplexity of a model trained on real text.

Shape letters, this file only:
    B = windows   L = tokens of each   T = tokens   V = vocabulary
"""

import math
from pydoc_data.topics import topics

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from purvey.engine.core import Core
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.linears.choice import Chosen, linears
from purvey.engine.linears.int8 import dynamic_levels
from purvey.engine.runner import Runner
from purvey.engine.score import Scorer
from purvey.models.attention.dense import DenseAttention
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.tokenizer import Tokenizer

LOW: tuple[Chosen, ...] = ("bf16", "int8", "int4")
CONFIG = DecoderConfig(
    vocabulary_size=512,
    hidden_size=96,
    mlp_size=256,
    num_layers=2,
    num_heads=3,
    num_kv_heads=1,
    head_size=32,
    context_tokens=64,
    initializer_std=0.05,
)
WINDOW = 64
STEPS, BATCH = 90, 8
LEARNING_RATE = 6e-3


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def text() -> Tensor:
    """Token ids of the reference that ships with Python, in windows `ids_BL`."""
    pages = [topics[name] for name in sorted(topics)]
    tokenizer = Tokenizer.train(pages, vocabulary_size=CONFIG.vocabulary_size)
    ids = tokenizer.encode("\n".join(pages)[:400_000])
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


@pytest.fixture(scope="module")
def trained(text: Tensor) -> dict[str, Tensor]:
    """Weights after a short training on all but the last windows."""
    torch.set_num_threads(1)
    decoder = Decoder(CONFIG)
    generator = torch.Generator().manual_seed(0)
    decoder.reset_parameters(generator)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / STEPS)
        rows = torch.randint(0, len(text) - 40, (BATCH,), generator=generator)
        loss_ = loss(decoder(text[rows]), text[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss_)
        optimizer.step()
    return decoder.state_dict()


def loss(logits_BLV: Tensor, ids_BL: Tensor) -> Tensor:
    """Mean negative log-probability of every token but the first."""
    return cross_entropy(logits_BLV[:, :-1].flatten(0, 1), ids_BL[:, 1:].flatten())


def unigram_perplexity(text_BL: Tensor) -> float:
    """Return the perplexity of who knows nothing but how often tokens occur."""
    counts_V = torch.bincount(text_BL.flatten(), minlength=CONFIG.vocabulary_size).double()
    p_V = (counts_V / counts_V.sum()).clamp_min(1e-12)
    return float((-(p_V * p_V.log()).sum()).exp())


def frozen(state: dict[str, Tensor], chosen: Chosen) -> FrozenDecoder:
    """Build the served form of a precision."""
    decoder = Decoder(CONFIG).eval()
    decoder.load_state_dict(state)
    return FrozenDecoder(decoder, linears=linears(chosen))


def logits_of(served: FrozenDecoder, ids_BL: Tensor) -> Tensor:
    """Return `logits_BLV` of whole windows."""
    positions_T = torch.arange(ids_BL.shape[1]).repeat(len(ids_BL))
    with torch.inference_mode():
        attend = DenseAttention(num_sequences=len(ids_BL))
        logits_TV = served.logits(served.hidden(ids_BL.flatten(), positions_T, attend))
    return logits_TV.view(*ids_BL.shape, -1)


def relative_error(chosen: Chosen) -> float:
    """Return the standard deviation of one layer's relative error, weights and rows Gaussian.

    A rounded factor is off by its step over sqrt(12); the largest of some hundred is 4 standard
    deviations, the range of a group of 32 as much; bfloat16 is off by 2^-9 over sqrt(3), three
    times: row, weight, result.
    """
    half = 2.0**-9
    match chosen:
        case "int8":
            rows, weights = 4 / (dynamic_levels() or 127), 4 / 127
            return math.hypot(rows, weights) / math.sqrt(12)
        case "int4":
            return math.hypot(4 / 15 / math.sqrt(12), half)
    return half


@pytest.mark.parametrize("chosen", LOW)
def test_logits_are_those_of_float32_within_the_layers_errors(
    chosen: Chosen, trained: dict[str, Tensor], text: Tensor
) -> None:
    """Bound: independent errors add up in quadrature over 4 layers a block and the head.

    The residual stream dilutes them, so this is not reached.
    """
    ids_BL = text[-8:]
    expected = logits_of(frozen(trained, "fp32"), ids_BL)
    error = (logits_of(frozen(trained, chosen), ids_BL) - expected).square().mean().sqrt()
    depth = 4 * CONFIG.num_layers + 1
    bound = relative_error(chosen) * math.sqrt(depth) * expected.square().mean().sqrt()
    assert 0 < error <= bound


@pytest.mark.parametrize(("chosen", "most"), [("bf16", 1.001), ("int8", 1.005), ("int4", 1.02)])
def test_perplexity_of_a_model_trained_on_real_text(
    chosen: Chosen, most: float, trained: dict[str, Tensor], text: Tensor
) -> None:
    held_BL = text[-40:]
    exact = loss(logits_of(frozen(trained, "fp32"), held_BL), held_BL).exp().item()
    found = loss(logits_of(frozen(trained, chosen), held_BL), held_BL).exp().item()
    assert exact < 0.8 * unigram_perplexity(text)  # it has learnt what can be lost
    assert found <= exact * most, (exact, found / exact)


@pytest.mark.parametrize("chosen", LOW)
def test_scores_do_not_depend_on_company(
    chosen: Chosen, trained: dict[str, Tensor], text: Tensor
) -> None:
    """The engine's own path: paged, packed, in a crowd, against alone; equal bits."""
    pairs = [(row[:5].tolist(), row[5 : 20 + 9 * i].tolist()) for i, row in enumerate(text[-4:])]

    def scores(chunks: list[tuple[list[int], list[int]]]) -> list[list[float]]:
        runner = Runner(frozen(trained, chosen), KVCache(CONFIG, num_blocks=32))
        core = Core(runner, max_batch_tokens=71, has_prefix_cache=False)
        future = Scorer(core, lambda *_: ([], [])).submit_encoded(chunks)
        while core.step():
            core.check()
        return future.result()

    together = scores(pairs)
    assert together == [scores([pair])[0] for pair in pairs]
