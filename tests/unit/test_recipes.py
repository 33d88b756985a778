"""Every recipe of the repository is one that the server takes."""

import tomllib
from pathlib import Path

import pytest

from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.recipe import parse_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
ON_A_BASE = {"gsm8k-sft.toml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_resolves(path: Path) -> None:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    for name in ("data", "columns"):  # the command line's own
        values.pop(name, None)
    if path.name in ON_A_BASE:
        values["model"] = {"base": "some-model"}
    recipe = parse_recipe(with_recipe_defaults(values))
    assert recipe.model.base or recipe.model.architecture
