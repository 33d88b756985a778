"""The exactness of serving, on a CUDA device: `make gpu` where there is one."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from purvey.engine.batch import build_batch
from purvey.engine.blocks import BlockId
from purvey.engine.core import Core
from purvey.engine.request import Sequence
from purvey.models.weights import load_folder
from tests.numerics.greedy import CONFIGS, door_of, generate, prompt_of, theirs

if TYPE_CHECKING:
    from purvey.engine.cuda.runner import CudaRunner

pytestmark = pytest.mark.gpu
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_POSITIONS = 256


def _runner(folder: Path, dtype: torch.dtype, *, has_graphs: bool = True) -> "CudaRunner":
    from purvey.engine.cuda.cache import CudaCache
    from purvey.engine.cuda.decoder import CudaDecoder
    from purvey.engine.cuda.runner import CudaRunner

    device = torch.device("cuda")
    decoder = CudaDecoder(
        load_folder(folder), dtype=dtype, device=device, max_positions=MAX_POSITIONS
    )
    cache = CudaCache(decoder.config, num_blocks=80, dtype=dtype, device=device)
    return CudaRunner(decoder, cache, max_positions=MAX_POSITIONS, has_graphs=has_graphs)


def _write(family: str, folder: Path) -> None:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(CONFIGS[family]).save_pretrained(folder)


def _their_logits(folder: Path, tokens: list[int], dtype: torch.dtype) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        logits_TV: Tensor = model(torch.tensor([tokens])).logits[0].float()
    return logits_TV


def _sequence(tokens: list[int], num_prompt: int, *, number: int = 0) -> Sequence:
    sequence = Sequence(
        request_id=f"r{number}",
        tokens=list(tokens),
        num_prompt=num_prompt,
        max_new_tokens=MAX_POSITIONS - num_prompt,
        prompt_logprobs_from=0,
    )
    sequence.blocks = [BlockId(5 * number + i) for i in (3, 1, 4, 0, 2)]
    return sequence


def _logits(runner: "CudaRunner", steps: list[list[tuple[Sequence, int]]]) -> dict[str, Tensor]:
    """Run steps; return every sequence's logits, position by position."""
    found: dict[str, list[Tensor]] = {}
    for step in steps:
        for span, logits in zip(
            (batch := build_batch(step, runner.cache)).spans, runner.run(batch), strict=True
        ):
            found.setdefault(span.sequence.request_id, []).append(logits.rows())
            span.sequence.num_cached = span.end
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.mark.parametrize("family", CONFIGS)
def test_64_greedy_tokens_alone_and_in_a_crowd(family: str, tmp_path: Path) -> None:
    prompts = [prompt_of(length, seed=length) for length in (70, 33, 5, 120)]
    expected = theirs(family, prompts, tmp_path)
    for number, prompt in enumerate(prompts):
        core = Core(_runner(tmp_path, torch.float32), max_batch_tokens=80)
        alone = generate(core, door_of(core), {f"r{number}": prompt})
        assert alone[f"r{number}"] == expected[number]
    core = Core(_runner(tmp_path, torch.float32), max_batch_tokens=80)
    together = generate(core, door_of(core), {f"r{i}": prompt for i, prompt in enumerate(prompts)})
    assert list(together.values()) == expected


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("precision", DTYPES)
def test_logits_lie_within_a_bound_of_theirs(family: str, precision: str, tmp_path: Path) -> None:
    _write(family, tmp_path)
    tokens = prompt_of(75, seed=3)
    found = _logits(
        _runner(tmp_path, DTYPES[precision]), [[(s := _sequence(tokens, 70), 64)], [(s, 11)]]
    )["r0"]
    expected = _their_logits(tmp_path, tokens, torch.float32)
    error = (found - expected).abs().max()
    if precision == "fp32":
        assert error < 1e-4, error
    else:  # no farther away than they are, who round the stream as well
        assert error < (_their_logits(tmp_path, tokens, torch.bfloat16) - expected).abs().max()


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("precision", DTYPES)
def test_a_row_has_the_same_bits_in_any_company(
    family: str, precision: str, tmp_path: Path
) -> None:
    _write(family, tmp_path)
    tokens = [prompt_of(75, seed=seed) for seed in range(12)]
    alone: dict[str, Tensor] = {}
    plain = _runner(tmp_path, DTYPES[precision], has_graphs=False)
    for number in range(12):
        s = _sequence(tokens[number], 60, number=number)
        alone |= _logits(plain, [[(s, 60)], *([(s, 1)] for _ in range(15))])
    crowd = [_sequence(tokens[number], 60, number=number) for number in range(12)]
    steps = [[(s, 32) for s in crowd[:5]], [(crowd[0], 28), *((s, 32) for s in crowd[5:])]]
    steps += [[*((s, 28) for s in crowd[1:])], *([(s, 1) for s in crowd] for _ in range(14))]
    steps += [[(s, 1)] for s in crowd]
    together = _logits(_runner(tmp_path, DTYPES[precision]), steps)
    for name, logits in alone.items():
        assert torch.equal(together[name], logits), name


def test_outliers_of_a_neighbour_change_nothing(tmp_path: Path) -> None:
    from purvey.engine.cuda.linear import CudaLinear

    generator = torch.Generator().manual_seed(1)
    weight_OI = torch.randn(512, 1024, generator=generator).to("cuda", torch.bfloat16)
    x_TI = torch.randn(300, 1024, generator=generator).to("cuda", torch.bfloat16)
    linear = CudaLinear(weight_OI)
    whole = linear(x_TI).total()
    for first, last in ((0, 1), (7, 9), (63, 65), (100, 228), (299, 300)):
        wild_TI = x_TI.clone()
        wild_TI[:first] *= 1e4
        wild_TI[last:] *= 1e4
        assert torch.equal(linear(wild_TI).total()[first:last], whole[first:last])
        assert torch.equal(linear(x_TI[first:last].contiguous()).total(), whole[first:last])
