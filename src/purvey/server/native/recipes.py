"""`/v1/recipes/validate`, `/v1/fine_tuning/validate`: what is asked, resolved, and would take."""

from typing import Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.estimating.needs import Estimated, sum_in_words
from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.server.native.training_jobs import check_module, check_run, draft_of
from purvey.server.openai import fine_tuning
from purvey.server.openai.fine_tuning_request import FineTuningRequest
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body, FreeForm

routes = Routes(tag="Recipes")


class RecipeRequest(Body):
    """A recipe to check."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"recipe": {"task": "text-classification", "name": "spam"}}}
    )

    recipe: FreeForm = Field(description="As for a training job; see the recipe reference.")
    estimate: bool = Field(
        True, description="Of a recipe that names its dataset, say what its run would take."
    )


class Need(TypedDict):
    """Bytes by what takes them, their sum, and whether there is room for it."""

    parts: dict[str, int]
    total_bytes: int
    free_bytes: int
    fits: bool
    arithmetic: str


class Span(TypedDict):
    """Seconds, from and to, of all steps; measured on this machine, or by arithmetic alone."""

    steps: int
    low_s: float
    high_s: float
    is_measured: bool


class Estimates(TypedDict):
    """What a run would take."""

    parameters: int
    trained_parameters: int
    memory: Need
    disk: Need
    time: Span
    notes: list[str]


class ResolvedRecipe(TypedDict):
    """The whole recipe, every default written out."""

    object: Literal["recipe"]
    recipe: dict[str, Any]
    digest: str
    estimates: Estimates | None


EXAMPLE: dict[str, Any] = {  # JSON values
    "object": "recipe",
    "recipe": {"task": "text-classification", "name": "spam", "seed": 0},
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "estimates": {
        "parameters": 1_048_706,
        "trained_parameters": 1_048_706,
        "memory": {
            "parts": {"process": 314_572_800, "weights": 4_194_824, "gradients": 4_194_824},
            "total_bytes": 322_962_448,
            "free_bytes": 8_589_934_592,
            "fits": True,
            "arithmetic": "process 300.0 MiB + weights 4.0 MiB + gradients 4.0 MiB = 308.0 MiB",
        },
        "disk": {
            "parts": {"checkpoints": 37_753_416, "model": 4_194_824},
            "total_bytes": 41_948_240,
            "free_bytes": 85_899_345_920,
            "fits": True,
            "arithmetic": "checkpoints 36.0 MiB + model 4.0 MiB = 40.0 MiB",
        },
        "time": {"steps": 1_400, "low_s": 6.1, "high_s": 14.8, "is_measured": True},
        "notes": ["Early stopping may end the run sooner."],
    },
}


@routes.add(
    "POST",
    "/v1/recipes/validate",
    scope="training:read",
    returns=ResolvedRecipe,
    example=EXAMPLE,
)
async def validate(call: Caller, body: RecipeRequest) -> ResolvedRecipe:
    """Check a recipe, write out its defaults, and say what its run would take.

    Of a recipe that names no dataset `estimates` is null. Estimates are made by a process that
    follows one step of the run without numbers and then tries a few, which takes seconds.
    """
    recipe = parse_recipe(with_recipe_defaults(body.recipe))
    estimates = None
    if body.estimate and recipe.dataset is not None:
        estimates = await _estimates(call, recipe)
    return {
        "object": "recipe",
        "recipe": recipe.model_dump(mode="json"),
        "digest": recipe.digest(),
        "estimates": estimates,
    }


@routes.add(
    "POST",
    "/v1/fine_tuning/validate",
    scope="training:read",
    returns=ResolvedRecipe,
    example=EXAMPLE,
)
async def validate_fine_tuning(call: Caller, body: FineTuningRequest) -> ResolvedRecipe:
    """Check what `/v1/fine_tuning/jobs` is given, and say what its run would take.

    The same body, checked alike, its files among it; nothing is started or stored.
    """
    draft = await fine_tuning.draft_of(call, body)
    return {
        "object": "recipe",
        "recipe": draft["recipe"],
        "digest": draft["recipe_digest"],
        "estimates": shown(await call.services.estimator.estimate(draft)),
    }


async def _estimates(call: Call, recipe: TrainConfig) -> Estimates:
    check_module(call, recipe)
    await check_run(call, recipe)
    found = await call.services.estimator.estimate(draft_of(call, recipe))
    return shown(found)


def shown(found: Estimated) -> Estimates:
    """Show what a run would take."""
    return {
        "parameters": found.parameters,
        "trained_parameters": found.trained_parameters,
        "memory": _need(found.memory.parts, free_bytes=found.memory.free_bytes),
        "disk": _need(found.disk.parts, free_bytes=found.disk.free_bytes),
        "time": {
            "steps": found.time.steps,
            "low_s": found.time.low_s,
            "high_s": found.time.high_s,
            "is_measured": found.time.is_measured,
        },
        "notes": list(found.notes),
    }


def _need(parts: dict[str, int], *, free_bytes: int) -> Need:
    total = sum(parts.values())
    return {
        "parts": parts,
        "total_bytes": total,
        "free_bytes": free_bytes,
        "fits": total <= free_bytes,
        "arithmetic": sum_in_words(parts),
    }
