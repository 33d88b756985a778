"""Weights held fast by name, and what is refused."""

import pytest
from torch import nn

from purvey.errors import InvalidValueError
from purvey.train.weights.freezing import freeze


def module() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ([], ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (["0.*"], ["1.weight", "1.bias"]),
        (["*.bias", "1.?eight"], ["0.weight"]),
        (["0.*", "0.bias"], ["1.weight", "1.bias"]),
    ],
)
def test_matching_parameters_are_held_fast(patterns: list[str], left: list[str]) -> None:
    made = module()
    num_frozen = freeze(made, patterns)
    assert [name for name, p in made.named_parameters() if p.requires_grad] == left
    assert num_frozen == sum(p.numel() for p in made.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["2.*"], r"'2\.\*' matches no trained parameter; there are 0\.weight"),
        (["*"], "nothing is left"),
    ],
)
def test_patterns_without_sense_are_refused(patterns: list[str], words: str) -> None:
    made = module()
    with pytest.raises(InvalidValueError, match=words) as refusal:
        freeze(made, patterns)
    assert refusal.value.param == "recipe.train.freeze"
    assert all(p.requires_grad for p in made.parameters())
