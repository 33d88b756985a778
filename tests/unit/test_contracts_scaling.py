"""Sizes of one recipe: what the factors multiply, what is refused, what is resolved."""

from typing import Any

import pytest

from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.recipe import parse_recipe
from purvey.errors import InvalidValueError

DECODER: dict[str, Any] = {
    "task": "text-generation",
    "model": {"architecture": "decoder", "hyperparameters": {"hidden_size": 96, "num_heads": 4}},
}
IMAGES: dict[str, Any] = {
    "task": "image-classification",
    "model": {"architecture": "vit", "hyperparameters": {"width": 64, "depth": 2, "heads": 2}},
}
GROWN: dict[str, Any] = {"task": "text-generation", "model": {"base": "small", "width_factor": 2}}


def with_model(recipe: dict[str, Any], **more: Any) -> dict[str, Any]:
    return recipe | {"model": recipe["model"] | more}


def test_a_wider_decoder_has_more_heads_of_the_same_size() -> None:
    recipe = parse_recipe(with_model(DECODER, width_factor=4, depth_factor=3))
    assert recipe.hyperparameters == {
        "hidden_size": 384,
        "num_heads": 16,
        "num_kv_heads": 16,
        "mlp_size": 4 * 256,
        "num_layers": 12,
    }
    assert parse_recipe(DECODER).hyperparameters == DECODER["model"]["hyperparameters"]


def test_a_wider_network_has_more_of_what_it_says() -> None:
    recipe = parse_recipe(with_model(IMAGES, width_factor=2, depth_factor=3))
    assert recipe.hyperparameters == {"width": 128, "depth": 6, "heads": 4}


def test_every_size_is_a_recipe_of_its_own() -> None:
    recipes = [
        DECODER,
        with_model(DECODER, width_factor=2),
        with_model(DECODER, depth_factor=2),
        with_model(DECODER, scaling="mup"),
    ]
    assert len({parse_recipe(recipe).digest() for recipe in recipes}) == 4


def test_a_base_that_is_grown_is_trained_whole() -> None:
    assert with_recipe_defaults(GROWN)["train"]["method"] == "full"
    plain = with_model(GROWN, width_factor=1)
    assert with_recipe_defaults(plain)["train"]["method"] == "lora"


def test_a_division_is_checked_at_the_full_size() -> None:
    tensor = {"parallel": {"strategy": "tensor", "ranks": 8}}
    parse_recipe(with_model(DECODER, width_factor=2) | tensor)
    with pytest.raises(InvalidValueError, match="num_heads 4 leaves 4 over"):
        parse_recipe(DECODER | tensor)


@pytest.mark.parametrize(
    ("recipe", "param", "words"),
    [
        (with_model(DECODER, width_factor=0), "model.width_factor", "greater than"),
        (with_model(DECODER, width_factor=65), "model.width_factor", "less than"),
        (with_model(DECODER, depth_factor=1.5), "model.depth_factor", "integer"),
        (with_model(DECODER, scaling="ntk"), "model.scaling", "'mup'"),
        (with_model(DECODER, width_factor=64), "model.hyperparameters", "parameters"),
        (
            with_model(DECODER, hyperparameters={"num_layers": 16}, depth_factor=64),
            "model.hyperparameters",
            "num_layers is 1024",
        ),
        (
            with_model(DECODER, scaling="mup") | {"init": {"scheme": "normal_002"}},
            "init.scheme",
            "does not follow the width",
        ),
        (
            with_model(IMAGES, scaling="mup") | {"init": {"scheme": "xavier_normal"}},
            "init.scheme",
            "does not follow the width",
        ),
        (
            with_model(IMAGES, hyperparameters={}, width_factor=2),
            "model.width_factor",
            "model.hyperparameters.width",
        ),
        (
            with_model(IMAGES, hyperparameters={"width": 32}, depth_factor=2),
            "model.depth_factor",
            "model.hyperparameters.depth",
        ),
        (
            with_model(IMAGES, architecture="net.py:Net", width_factor=2),
            "model.width_factor",
            "not 'net.py:Net'",
        ),
        (
            {"task": "speech-recognition", "model": {"architecture": "ctc", "scaling": "mup"}},
            "model.scaling",
            "not 'ctc'",
        ),
        (
            {"task": "regression", "model": {"base": "prices", "depth_factor": 2}},
            "model.depth_factor",
            "does not grow a base of regression",
        ),
        (
            {"task": "embedding", "model": {"base": "finder", "scaling": "mup"}},
            "model.scaling",
            "language models",
        ),
        (GROWN | {"train": {"method": "lora"}}, "model.width_factor", "'full'"),
    ],
)
def test_what_is_not_scaled_is_refused_by_name(
    recipe: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidValueError, match=words) as refused:
        parse_recipe(recipe)
    assert refused.value.param == f"recipe.{param}"
