"""A fine-tuning job as asked for, and the recipe that it comes to."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from purvey.contracts.defaults import merged, with_recipe_defaults
from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.errors import InvalidValueError, UnsupportedValueError
from purvey.server.validation import Body, FreeForm, Metadata

Auto = Literal["auto"]
FileId = Annotated[str, Field(min_length=1, max_length=64)]
_OBJECTIVES = {"supervised": "likelihood", "dpo": "dpo"}


class Hyperparameters(Body):
    """OpenAI's three; everything else goes into `recipe`."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=LIMITS.epochs)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=LIMITS.batch_size)] = "auto"
    learning_rate_multiplier: (
        Auto | Annotated[float, Field(gt=0, le=1_000, allow_inf_nan=False)]
    ) = "auto"


class DpoHyperparameters(Hyperparameters):
    """OpenAI's four of preference tuning."""

    beta: Auto | Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = "auto"


class Supervised(Body):
    """Settings of the supervised method."""

    hyperparameters: Hyperparameters | None = None


class Dpo(Body):
    """Settings of preference tuning."""

    hyperparameters: DpoHyperparameters | None = None


class Method(Body):
    """How the model is tuned: on answers (`supervised`), or on pairs of answers (`dpo`)."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: object = Field(None, description="Not supported yet.")


class FineTuningRequest(Body):
    """A fine-tuning job as asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "tiny-english",
                "training_file": "file-0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
                "suffix": "docs",
                "hyperparameters": {"n_epochs": 3},
            }
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    training_file: FileId
    validation_file: FileId | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    metadata: Metadata | None = None
    recipe: FreeForm | None = Field(
        None, description="A partial recipe over the defaults: `extra_body={'recipe': {...}}`."
    )
    integrations: object = Field(None, description="Not supported yet: leave it out.")
    accepts_only = {"integrations": (None, [])}  # noqa: RUF012 (a ClassVar of the base)


def hyperparameters_of(body: FineTuningRequest) -> Hyperparameters:
    """Return the hyperparameters of the method, else those beside it, else all `auto`."""
    chosen: Hyperparameters | None = None
    if body.method is not None:
        settings = body.method.dpo if body.method.type == "dpo" else body.method.supervised
        chosen = settings.hyperparameters if settings is not None else None
    return chosen or body.hyperparameters or Hyperparameters()


def recipe_of(body: FineTuningRequest) -> TrainConfig:
    """Resolve the recipe of a request.

    Raises:
        UnsupportedValueError: A method that we do not have.
        InvalidValueError: Names the field, also where two of them contradict each other.
    """
    given = body.recipe or {}
    for name in ("task", "dataset", "name"):
        if name in given and not (name == "task" and given[name] == "text-generation"):
            raise InvalidValueError(
                f"a fine-tuning job's recipe does not set {name!r}.", param=f"recipe.{name}"
            )
    asked: dict[str, Any] = {"task": "text-generation", "model": {"base": body.model}}
    if body.method is not None:
        asked["train"] = {"objective": _objective(body.method, given)}
    if body.seed is not None:
        asked["seed"] = body.seed
    values = with_recipe_defaults(merged(given, asked))
    recipe = parse_recipe(_with_hyperparameters(values, hyperparameters_of(body), given))
    if recipe.model.base != body.model:
        raise InvalidValueError(
            "a fine-tuning job starts from the model that the request names.",
            param="recipe.model.base",
            hint="Name it in 'model' only.",
        )
    return recipe


def _objective(method: Method, given: dict[str, Any]) -> str:
    """Return what a method learns; settings of another method, in `recipe` too, are refused."""
    if method.type == "reinforcement":
        raise UnsupportedValueError(
            "the method 'reinforcement' is not supported yet.",
            param="method.type",
            hint="Use 'supervised' or 'dpo'.",
        )
    unused = "dpo" if method.type == "supervised" else "supervised"
    if getattr(method, unused) is not None:
        raise InvalidValueError(
            f"method.{unused} has no effect with method.type {method.type!r}; leave it out.",
            param=f"method.{unused}",
        )
    objective, loop = _OBJECTIVES[method.type], given.get("train")
    if isinstance(loop, dict) and loop.get("objective", objective) != objective:
        raise InvalidValueError(
            f"recipe.train.objective contradicts method.type {method.type!r}.",
            param="recipe.train.objective",
        )
    return objective


def _with_hyperparameters(
    values: dict[str, Any], chosen: Hyperparameters, given: dict[str, Any]
) -> dict[str, Any]:
    loop: dict[str, Any] = {}
    if chosen.n_epochs != "auto":
        loop["epochs"] = chosen.n_epochs
    if chosen.batch_size != "auto":
        loop["batch_size"] = chosen.batch_size
    over: dict[str, Any] = {"train": loop}
    if isinstance(chosen, DpoHyperparameters) and chosen.beta != "auto":
        over["dpo"] = {"beta": chosen.beta}
    if chosen.learning_rate_multiplier != "auto":
        rate = parse_recipe(values).optimizer.learning_rate
        over["optimizer"] = {"learning_rate": rate * chosen.learning_rate_multiplier}
    return merged(merged(values, over), given)  # the recipe is the more exact word
