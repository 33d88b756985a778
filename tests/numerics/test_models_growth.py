"""A grown decoder says what the small one says, here and in `transformers`, and can learn more."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from purvey.errors import InvalidValueError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel
from purvey.models.scaling.depth import deepened
from purvey.models.scaling.growth import grow
from purvey.models.scaling.width import widened
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import load_folder, save_folder
from tests.numerics.test_models_transformers import random_model, tokens

FAMILIES = (
    *("llama-biased", "llama-tied-wide-heads", "qwen3-biased-window"),
    *("smollm3-window", "gemma2", "gemma3"),
)
# Float32 sums of a few hundred terms of order 1, in another order: relative errors below 1e-5.
TOLERANCE = 1e-4


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def logits(decoder: Decoder) -> Tensor:
    found: Tensor = decoder(tokens())
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_its_logits(name: str, tmp_path: Path) -> None:
    random_model(name).save_pretrained(tmp_path / "small")
    small = load_folder(tmp_path / "small")
    expected = logits(small)
    deep = deepened(small, 3)
    assert torch.equal(logits(deep), expected), "closed layers add nothing at all"
    factor = 3 if name == "gemma2" else 2
    large = deepened(widened(small, factor, generator=chance()), 2)
    assert large.config.hidden_size == factor * small.config.hidden_size
    assert large.config.num_layers == 2 * small.config.num_layers
    scale = float(expected.abs().max())
    assert float((logits(large) - expected).abs().max()) < TOLERANCE * scale
    save_folder(large, tmp_path / "large")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "large").eval()
    with torch.no_grad():
        found = theirs(tokens()).logits
    assert float((found - expected).abs().max()) < TOLERANCE * scale
    assert torch.equal(logits(load_folder(tmp_path / "large")), logits(large))


def decoder(width: int = 16, layers: int = 1) -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocabulary_size=61,
            hidden_size=width,
            mlp_size=2 * width,
            num_layers=layers,
            num_heads=2,
            num_kv_heads=1,
            head_size=width // 2,
            context_tokens=64,
            initializer_std=0.1,
        )
    )


def puzzles(count: int, seed: int) -> Tensor:
    """Give rows `a b a+b ...`: each number is the sum of the two before, modulo 61."""
    rows = torch.randint(61, (count, 12), generator=chance(seed))
    for place in range(2, 12):
        rows[:, place] = (rows[:, place - 1] + rows[:, place - 2]) % 61
    return rows


def loss(model: Decoder, rows_BL: Tensor) -> Tensor:
    logits_BLV = model(rows_BL[:, :-1])
    return cross_entropy(logits_BLV[:, 1:].flatten(0, 1), rows_BL[:, 2:].flatten())


def train(model: Decoder, rows_BL: Tensor, *, steps: int, rate: float) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        torch.autograd.backward(loss(model, rows_BL))
        optimizer.step()
    with torch.no_grad():
        return float(loss(model, rows_BL))


def test_a_grown_decoder_learns_what_the_small_one_cannot() -> None:
    rows = puzzles(64, seed=1)
    small = decoder()
    before = train(small, rows, steps=100, rate=1e-2)
    alone = train(deepened(small, 1), rows, steps=50, rate=5e-3)
    for width, depth in ((2, 1), (1, 2)):
        grown = deepened(widened(small, width, generator=chance()), depth)
        with torch.no_grad():
            assert float(loss(grown, rows)) == pytest.approx(before, rel=TOLERANCE)
        better = train(grown, rows, steps=50, rate=5e-3)
        assert better < min(before, alone) - 0.05, (before, alone, better)


def test_copies_part_with_the_first_step_and_closed_layers_open() -> None:
    grown = deepened(widened(decoder(), 2, generator=chance()), 2)
    train(grown, puzzles(32, seed=2), steps=2, rate=1e-2)
    table = grown.embed_tokens.weight.detach()
    first, second = table.chunk(2, dim=1)
    assert float((first - second).abs().max()) > 1e-3
    opened = grown.state_dict()["layers.1.mlp.down_proj.weight"]
    assert float(opened.abs().max()) > 1e-3


def test_growing_tells_what_it_did_and_refuses_what_is_too_large() -> None:
    tokenizer = Tokenizer.train(["one two three"], vocabulary_size=260)
    small = DecoderConfig.from_hyperparameters(
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "mlp_size": 32},
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=None,
        eos_ids=tokenizer.eos_ids,
    )
    model = LanguageModel(decoder=Decoder(small).eval(), tokenizer=tokenizer, template=None)
    grown, growth = grow(model, width_factor=2, depth_factor=3, generator=chance())
    record = growth.record()
    assert record["parameters_before"] == model.num_parameters
    assert record["parameters"] == grown.num_parameters > 7 * model.num_parameters
    # Of each layer seven matrices are divided and two gains repeated; the table and the last gain.
    assert (record["kept"], record["repeated"], record["divided"]) == (0, 2 * 2 + 1, 2 * 7 + 1)
    assert record["new_layers"] == [1, 2, 4, 5]
    assert 0 < record["largest_difference"] < TOLERANCE
    assert grown.tokenizer is tokenizer
    with pytest.raises(InvalidValueError, match="layers; at most") as refused:
        grow(model, width_factor=1, depth_factor=10**6, generator=chance())
    assert refused.value.param == "recipe.model.depth_factor"
    with pytest.raises(InvalidValueError, match="parameters; at most") as refused:
        grow(model, width_factor=10**5, depth_factor=1, generator=chance())
    assert refused.value.param == "recipe.model.width_factor"
