"""Dividing a run among ranks: what the recipe refuses, and that it names no other run."""

from typing import Any

import pytest

from purvey.contracts.recipe import parse_recipe
from purvey.errors import InvalidValueError

LANGUAGE: dict[str, Any] = {
    "task": "text-generation",
    "model": {
        "architecture": "decoder",
        "hyperparameters": {
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 6,
            "num_kv_heads": 2,
            "mlp_size": 128,
        },
    },
    "train": {"batch_size": 8},
}
CLASSIFIER: dict[str, Any] = {"task": "text-classification", "train": {"batch_size": 8}}


def with_parallel(
    recipe: dict[str, Any], strategy: str, ranks: int | None = None
) -> dict[str, Any]:
    section = {"strategy": strategy} | ({"ranks": ranks} if ranks is not None else {})
    return recipe | {"parallel": section}


@pytest.mark.parametrize(
    ("recipe", "param", "message"),
    [
        (with_parallel(CLASSIFIER, "none", 2), "recipe.parallel", "ranks has no effect"),
        (
            with_parallel(CLASSIFIER, "ddp", 1),
            "recipe.parallel.ranks",
            "greater than or equal to 2",
        ),
        (
            with_parallel(CLASSIFIER, "ddp", 257),
            "recipe.parallel.ranks",
            "less than or equal to 256",
        ),
        (
            with_parallel(CLASSIFIER, "zero"),
            "recipe.parallel.strategy",
            "'ddp', 'fsdp' or 'tensor'",
        ),
        (
            with_parallel(CLASSIFIER, "ddp", 9),
            "recipe.parallel.ranks",
            "parallel.ranks 9 divide train.batch_size 8: 1 of them would never have a row",
        ),
        (
            with_parallel(CLASSIFIER, "fsdp"),
            "recipe.parallel.strategy",
            "use 'ddp' for text-classification",
        ),
        (
            with_parallel(LANGUAGE, "tensor", 4),
            "recipe.parallel.ranks",
            "num_heads 6 leaves 2 over",
        ),
        (
            with_parallel(LANGUAGE, "tensor", 3),
            "recipe.parallel.ranks",
            "num_kv_heads 2 leaves 2 over",
        ),
        (
            with_parallel(LANGUAGE | {"optimizer": {"name": "muon"}}, "fsdp", 2),
            "recipe.parallel.strategy",
            "Muon needs it whole",
        ),
        (
            with_parallel(
                {
                    "task": "text-generation",
                    "model": {"base": "b"},
                    "train": {"method": "lora", "batch_size": 8},
                },
                "tensor",
                2,
            ),
            "recipe.parallel.strategy",
            "does not divide adapters yet",
        ),
        (
            with_parallel(
                {
                    "task": "text-generation",
                    "model": {"base": "b"},
                    "train": {"objective": "dpo", "batch_size": 8},
                },
                "fsdp",
                2,
            ),
            "recipe.parallel.strategy",
            "does not divide train.objective 'dpo' yet",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(
    recipe: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message.replace(".", r"\.")) as refused:
        parse_recipe(recipe)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "recipe",
    [
        with_parallel(CLASSIFIER, "ddp", 8),
        with_parallel(CLASSIFIER, "ddp"),
        with_parallel(LANGUAGE, "fsdp", 8),
        with_parallel(LANGUAGE, "tensor", 2),
        with_parallel(LANGUAGE | {"optimizer": {"name": "muon"}}, "ddp", 2),
    ],
)
def test_what_can_be_divided_is_the_same_run(recipe: dict[str, Any]) -> None:
    """The digest names the recipe; what a checkpoint belongs to leaves the division out."""
    divided = parse_recipe(recipe)
    whole = parse_recipe({name: part for name, part in recipe.items() if name != "parallel"})
    assert divided.digest() != whole.digest()
    assert divided.learned_digest() == whole.learned_digest()
    other = parse_recipe(recipe | {"seed": 1})
    assert other.learned_digest() != divided.learned_digest()
