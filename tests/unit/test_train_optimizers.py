"""Each rule against its formula or torch's own, and which weights Muon moves."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.errors import InvalidValueError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.scaling.mup import decoder_reaches
from purvey.train.descent.muon import orthogonal
from purvey.train.optim import Descent, build_optimizer
from purvey.train.step import BatchLoss, update

MUON = OptimizerConfig(name="muon", learning_rate=0.1, momentum=0.8, weight_decay=0.25)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(update_OI: Tensor) -> Tensor:
    """Five Newton-Schulz steps in float64 (Jordan et al. 2024)."""
    x: Tensor = update_OI.double() / update_OI.double().norm()
    if x.shape[0] > x.shape[1]:
        return orthogonalised(update_OI.T).T
    a, b, c = COEFFICIENTS
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(4, 4), (3, 9), (9, 3)])
def test_muon_follows_its_formula(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=False)
    optimizer = build_optimizer(layer, MUON)
    weight, momentum = layer.weight.detach().double(), torch.zeros(shape, dtype=torch.float64)
    for step in range(3):
        gradient = torch.randn(shape)
        batch = BatchLoss(loss=(layer.weight * gradient).sum(), num_rows=1)
        update([batch], list(layer.parameters()), optimizer, clip_norm=None, step=step)
        momentum = 0.8 * momentum + 0.2 * gradient.double()
        direction = orthogonalised(0.2 * gradient.double() + 0.8 * momentum)
        moved = 0.1 * 0.2 * math.sqrt(max(shape)) * direction
        before, weight = weight, (1 - 0.1 * 0.25) * weight - moved
        # Five steps in float32, each of which makes small errors up to 3.4445 times as large:
        # 3.4445^5 * 2^-24 is 3e-5, and a weight of order 1 is itself rounded by 2^-24.
        error = (layer.weight.detach().double() - weight).norm() / (weight - before).norm()
        assert float(error) < 1e-4
        weight = layer.weight.detach().double()


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((20, 30), (30, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert 0.6 < float(values.min()) < float(values.max()) < 1.3


def names(optimizer: Descent) -> tuple[set[str], set[str]]:
    """Return the names of what is moved by Muon, and of the rest, after a step."""
    moved: dict[str, set[str]] = {}
    for path in optimizer.tensors():
        name, _, key = path.rpartition(".")
        moved.setdefault(name, set()).add(key)
    muon = {name for name, keys in moved.items() if keys == {"momentum_buffer"}}
    return muon, moved.keys() - muon


def small_decoder(*, is_tied: bool) -> Decoder:
    return Decoder(
        DecoderConfig(
            vocabulary_size=11,
            hidden_size=8,
            mlp_size=12,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
            head_size=4,
            context_tokens=8,
            is_tied=is_tied,
        )
    )


@pytest.mark.parametrize("is_tied", [True, False])
def test_muon_leaves_embeddings_heads_and_vectors_to_adamw(is_tied: bool) -> None:
    decoder = small_decoder(is_tied=is_tied)
    optimizer = build_optimizer(decoder, MUON)
    loss = decoder(torch.tensor([[1, 2, 3]])).square().mean()
    batch = BatchLoss(loss=loss, num_rows=1)
    update([batch], list(decoder.parameters()), optimizer, clip_norm=1.0, step=0)
    muon, rest = names(optimizer)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in muon} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert ("lm_head.weight" in rest) is not is_tied
    assert "embed_tokens.weight" in rest
    assert muon | rest == {name for name, _ in decoder.named_parameters()}


def test_a_network_without_hidden_matrices_is_refused_for_muon() -> None:
    module = nn.Sequential()
    module.add_module("table", nn.Embedding(4, 3))
    module.add_module("head", nn.Linear(3, 2))
    with pytest.raises(InvalidValueError, match="use 'adamw'") as refusal:
        build_optimizer(module, MUON)
    assert refusal.value.param == "recipe.optimizer.name"


def test_only_trained_parameters_are_moved() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[0].requires_grad_(requires_grad=False)
    optimizer = build_optimizer(module, MUON)
    held = [p for group in optimizer.groups for p in group.parameters]
    assert {id(p) for p in held} == {id(p) for p in module[1].parameters()}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("adamw", {"embed_tokens": 1.0, "q_proj": 0.25, "input_layernorm": 1.0, "norm": 0.25}),
        ("sgd", {"embed_tokens": 4.0, "q_proj": 1.0, "input_layernorm": 4.0, "norm": 0.25}),
        ("muon", {"embed_tokens": 1.0, "q_proj": 0.5, "input_layernorm": 1.0, "norm": 0.25}),
    ],
)
def test_a_wide_weight_has_a_rate_of_its_own_and_decays_as_ever(
    rule: Literal["adamw", "sgd", "muon"], expected: dict[str, float]
) -> None:
    """Table 8 of Yang et al. 2022 at four times the width, with the multiplier in the last gain."""
    decoder = small_decoder(is_tied=True)
    config = OptimizerConfig(name=rule, learning_rate=0.5, weight_decay=0.125)
    optimizer = build_optimizer(decoder, config, decoder_reaches(decoder, 4))
    optimizer.set_rate(2.0)
    names: dict[Tensor, str] = {p: n.split(".")[-2] for n, p in decoder.named_parameters()}
    rates = {names[p]: group.rate for group in optimizer.groups for p in group.parameters}
    assert {name: rates[name] / 2.0 for name in expected} == expected
    shrinking = {
        group.rate * group.weight_decay
        for group in optimizer.groups
        if group.parameters[0].dim() > 1
    }
    assert shrinking == {2.0 * 0.125}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_other_rules_are_those_of_torch_bit_for_bit(name: Literal["sgd", "adamw"]) -> None:
    ours, theirs = (nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(name=name, learning_rate=0.05, weight_decay=0.25)
    optimizer = build_optimizer(ours, config)
    matrices, vectors = ([p for p in theirs.parameters() if p.dim() == n] for n in (2, 1))
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": vectors, "weight_decay": 0.0},
    ]
    oracle: torch.optim.Optimizer
    if name == "sgd":
        oracle = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.25)
    else:
        oracle = torch.optim.AdamW(
            groups, lr=0.05, betas=config.betas, weight_decay=0.25, fused=True
        )
    for step in range(4):
        if step == 2:  # what has no gradient is passed over
            for module in (ours, theirs):
                module[0].requires_grad_(requires_grad=False)
        inputs = torch.randn(6, 5)
        loss = BatchLoss(loss=ours(inputs).square().sum(), num_rows=6)
        update([loss], list(ours.parameters()), optimizer, clip_norm=None, step=step)
        oracle.zero_grad()
        torch.autograd.backward(theirs(inputs).square().sum())
        oracle.step()
        assert all(
            torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
        )


def test_a_network_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="nothing to train") as refusal:
        build_optimizer(nn.Sequential(nn.Linear(2, 2).requires_grad_(requires_grad=False)), MUON)
    assert refusal.value.param == "recipe.model"
