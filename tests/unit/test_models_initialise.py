"""Initialisation schemes draw the spread their papers give."""

import math

import pytest
import torch
from torch import nn

from purvey.contracts.recipe_parts.building import InitScheme
from purvey.models.initialise import initialise


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.conv = nn.Conv2d(8, 64, 5)
        self.norm = nn.BatchNorm2d(64)
        self.linear = nn.Linear(400, 600)


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def drawn(scheme: InitScheme, seed: int = 1) -> Network:
    module = network()
    initialise(module, scheme, generator=torch.Generator().manual_seed(seed))
    return module


@pytest.mark.parametrize(
    ("scheme", "linear_std", "conv_std"),
    [
        ("kaiming_normal", math.sqrt(2 / 400), math.sqrt(2 / 200)),
        ("kaiming_uniform", math.sqrt(2 / 400), math.sqrt(2 / 200)),
        ("xavier_normal", math.sqrt(2 / 1000), math.sqrt(2 / (200 + 1600))),
        ("xavier_uniform", math.sqrt(2 / 1000), math.sqrt(2 / (200 + 1600))),
        ("normal_002", 0.02, 0.02),
    ],
)
def test_spread_is_the_papers(scheme: InitScheme, linear_std: float, conv_std: float) -> None:
    module = drawn(scheme)
    linear, conv = module.linear, module.conv
    # Standard error of a standard deviation over n draws is about 1 / sqrt(2 n): under 1 % here.
    assert linear.weight.std().item() == pytest.approx(linear_std, rel=0.04)
    assert conv.weight.std().item() == pytest.approx(conv_std, rel=0.04)
    assert not linear.bias.any()
    assert conv.bias is not None
    assert not conv.bias.any()
    assert module.norm.weight.min() == module.norm.weight.max() == 1


def test_default_changes_nothing() -> None:
    for before, after in zip(network().parameters(), drawn("default").parameters(), strict=True):
        assert torch.equal(before, after)


def test_the_generator_alone_decides() -> None:
    first, same, other = drawn("xavier_normal"), drawn("xavier_normal"), drawn("xavier_normal", 2)
    assert torch.equal(first.linear.weight, same.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_embeddings_are_drawn_by_normal_only() -> None:
    before = network().embedding.weight
    assert torch.equal(drawn("kaiming_normal").embedding.weight, before)
    assert not torch.equal(drawn("normal_002").embedding.weight, before)
