"""`/v1/recipes/validate`: a recipe checked and resolved, with nothing started."""

from typing import Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.recipe import parse_recipe
from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body, FreeForm

routes = Routes(tag="Recipes")


class RecipeRequest(Body):
    """A recipe to check."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"recipe": {"task": "text-classification", "name": "spam"}}}
    )

    recipe: FreeForm = Field(description="As for a training job; see the recipe reference.")


class ResolvedRecipe(TypedDict):
    """The whole recipe, every default written out."""

    object: Literal["recipe"]
    recipe: dict[str, Any]
    digest: str


EXAMPLE = {
    "object": "recipe",
    "recipe": {"task": "text-classification", "name": "spam", "seed": 0},
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}


@routes.add(
    "POST",
    "/v1/recipes/validate",
    scope="training:read",
    returns=ResolvedRecipe,
    example=EXAMPLE,
)
async def validate(call: Caller, body: RecipeRequest) -> ResolvedRecipe:
    """Check a recipe and write out its defaults."""
    recipe = parse_recipe(with_recipe_defaults(body.recipe))
    return {
        "object": "recipe",
        "recipe": recipe.model_dump(mode="json"),
        "digest": recipe.digest(),
    }
