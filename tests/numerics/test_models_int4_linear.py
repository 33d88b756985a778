"""Layers in 4 bits: the product is that of the restored weights, there and back."""

import pytest
import torch
from torch import Tensor, nn

from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.linears.int4 import GROUP_INPUTS, Int4Linear, quantise_groups
from purvey.models.lora import inject

SHAPES = [(64, 64), (7, 40), (300, 96), (1, 33)]


def layer_of(num_outputs: int, num_inputs: int, *, has_bias: bool = True) -> nn.Linear:
    torch.manual_seed(num_outputs + num_inputs)
    return nn.Linear(num_inputs, num_outputs, bias=has_bias)


def restored(layer: nn.Linear) -> Tensor:
    """Return the weights that the levels stand for, by the formula."""
    num_outputs, num_inputs = layer.weight.shape
    fill = -num_inputs % GROUP_INPUTS
    q, scale, zero = quantise_groups(nn.functional.pad(layer.weight.detach(), (0, fill)))
    groups = (q.reshape(num_outputs, -1, GROUP_INPUTS) - 8).float()
    weights = groups * scale[..., None].float() + zero[..., None].float()
    return weights.flatten(1)[:, :num_inputs]


@pytest.mark.parametrize(("num_outputs", "num_inputs"), SHAPES)
@pytest.mark.parametrize("tile_weights", [64, 2**18])
def test_output_and_gradient_are_those_of_the_restored_weights(
    num_outputs: int, num_inputs: int, tile_weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purvey.models.linears.int4._TILE_WEIGHTS", tile_weights)
    layer = layer_of(num_outputs, num_inputs)
    plain = layer_of(num_outputs, num_inputs)
    plain.weight.data = restored(layer)
    small = Int4Linear(layer)
    x = torch.randn(2, 5, num_inputs, requires_grad=True)
    y = torch.randn(2, 5, num_inputs, requires_grad=True)
    y.data.copy_(x.data)
    got, expected = small(x), plain(y)
    # float32 sums of at most 96 terms below 3 in another order: errors below 1e-5.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(got)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-4)


def test_a_weight_is_off_by_half_a_level_at_most() -> None:
    layer = layer_of(50, 128)
    groups = layer.weight.detach().reshape(50, -1, GROUP_INPUTS)
    step = (groups.amax(2) - groups.amin(2)) / 15
    off = (restored(layer).reshape(groups.shape) - groups).abs().amax(2)
    # Scale and zero in bfloat16 (8 bits) add up to a 256th of the largest of 15 levels.
    assert (off <= step * (0.5 + 15 / 256) + groups.abs().amax(2) / 256).all()


def test_a_weight_takes_five_bits_and_nothing_is_in_a_checkpoint() -> None:
    small = Int4Linear(layer_of(256, 512, has_bias=False))
    assert small.num_bytes == 256 * 512 * 5 // 8
    assert not list(small.parameters())
    assert not small.state_dict()


def test_rows_in_bfloat16_stay_so() -> None:
    small = Int4Linear(layer_of(8, 64))
    x = torch.randn(3, 64, dtype=torch.bfloat16, requires_grad=True)
    product = small(x)
    product.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocabulary_size=32,
            hidden_size=64,
            mlp_size=128,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_size=16,
            context_tokens=32,
        )
    )


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_every_linear_layer_of_a_block_is_held_in_4_bits(targets: str) -> None:
    model = decoder()
    plain = sum(m.weight.nbytes for m in model.layers.modules() if isinstance(m, nn.Linear))
    config = LoraConfig.model_validate({"rank": 2, "targets": targets, "base_precision": "int4"})
    inject(model, config, generator=torch.Generator().manual_seed(1))
    small = [m for m in model.modules() if isinstance(m, Int4Linear)]
    assert len(small) == 2 * 7
    assert sum(m.num_bytes for m in small) == plain * 5 // 32
    left = [name for name, m in model.layers.named_modules() if isinstance(m, nn.Linear)]
    assert all("lora_" in name for name in left)
    trained = {name.rsplit(".", 2)[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}
    model(torch.zeros((1, 4), dtype=torch.long)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
