"""A recipe: the complete, validated description of a training run.

One TOML file (or JSON object) becomes a frozen `TrainConfig`; everything unsaid is resolved
to a written default, and the result is stored with its digest beside the artifact.
Misspelt fields are refused with the nearest name, absurd values before anything starts.
"""

import hashlib
import json
import tomllib
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from purvey.contracts.model import GENERATING, TrainedTask
from purvey.contracts.recipe_parts.adapting import DpoConfig, LoraConfig, check_tuning
from purvey.contracts.recipe_parts.applies import check_applies
from purvey.contracts.recipe_parts.building import InitConfig, ModelConfig, TokenizerConfig
from purvey.contracts.recipe_parts.descent import OptimizerConfig, ScheduleConfig
from purvey.contracts.recipe_parts.embedding import EmbeddingConfig, check_embedding
from purvey.contracts.recipe_parts.inputs import AugmentConfig, PreprocessConfig
from purvey.contracts.recipe_parts.looping import LoopConfig, TestConfig
from purvey.contracts.recipe_parts.parallel import ParallelConfig, check_parallel
from purvey.contracts.recipe_parts.part import Name, Part
from purvey.contracts.recipe_parts.regression import RegressionConfig, check_regression
from purvey.contracts.recipe_parts.scaling import check_scaling, scaled
from purvey.contracts.sizes import check_new_decoder
from purvey.errors import InvalidValueError


class TrainConfig(Part):
    """One whole run. Sections a task does not use must be absent or at their defaults."""

    task: TrainedTask
    """What the model is for."""
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")] | None = None
    """Name under which the trained model is registered; fine-tuned ones get an `ft:` name."""
    dataset: Name | None = None
    """Id of a prepared dataset (training jobs); fine-tuning jobs name files instead."""
    model: ModelConfig = ModelConfig()
    init: InitConfig = InitConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    lora: LoraConfig = LoraConfig()
    dpo: DpoConfig = DpoConfig()
    train: LoopConfig = LoopConfig()
    regression: RegressionConfig = RegressionConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    parallel: ParallelConfig = ParallelConfig()
    test: TestConfig = TestConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of everything random: initial weights, data order, dropout, the intervals of the test."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.train.method == "lora" and self.model.architecture is not None:
            msg = "train.method 'lora' adapts a base: set model.base instead of model.architecture"
            raise ValueError(msg)
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Keyword arguments of a new architecture, at the size that the factors ask for."""
        return scaled(self.model, task=self.task)

    def digest(self) -> str:
        """Return the hex SHA-256 of the resolved recipe's canonical JSON."""
        return self._digest_of(self)

    def learned_digest(self) -> str:
        """Return the digest without `parallel`, which changes nothing of what is learned."""
        return self._digest_of(self.model_copy(update={"parallel": ParallelConfig()}))

    @staticmethod
    def _digest_of(recipe: "TrainConfig") -> str:
        canonical = json.dumps(
            recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()


def parse_recipe(values: dict[str, Any], *, at: str = "recipe") -> TrainConfig:
    """Validate JSON values into a recipe.

    Args:
        values: What the TOML file or request holds.
        at: Prefix of the field path in error messages.

    Raises:
        InvalidValueError: Names the first field at fault; a misspelt one with the nearest name.
    """
    try:
        recipe = TrainConfig.model_validate(values)
    except ValidationError as error:
        raise first_problem(error, TrainConfig, at=at) from None
    _check_model(recipe, at=at)
    check_applies(recipe.train, task=recipe.task, at=at)
    check_regression(recipe.regression, task=recipe.task, at=at)
    check_embedding(recipe.embedding, task=recipe.task, loop=recipe.train, at=at)
    has_base = recipe.model.base is not None
    is_new_decoder = recipe.task == "text-generation" and not has_base
    check_parallel(
        recipe.parallel,
        task=recipe.task,
        loop=recipe.train,
        optimizer=recipe.optimizer,
        hyperparameters=recipe.hyperparameters if is_new_decoder else None,
        at=at,
    )
    check_tuning(recipe.train, lora=recipe.lora, dpo=recipe.dpo, has_base=has_base, at=at)
    return recipe


def parse_recipe_toml(text: str) -> dict[str, Any]:
    """Parse a recipe file's text into values.

    Raises:
        InvalidValueError: The text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidValueError(f"the recipe is not TOML: {error}", param="recipe") from None


_WORDINGS = {
    "string_pattern_mismatch": "use letters a to z, digits, '.', '_' and '-', a letter or digit "
    "first, 64 characters at most",
}
"""What to change, where pydantic's own words say less."""


def first_problem(
    error: ValidationError, schema: type[BaseModel], *, at: str = ""
) -> InvalidValueError:
    """Turn pydantic's first complaint into an error that names the field and what to change."""
    problem = error.errors(include_url=False, include_context=True)[0]
    path = [str(step) for step in problem["loc"]]
    param = ".".join([at, *path] if at else path)
    if problem["type"] == "extra_forbidden":
        meant = _suggestion(schema, path)
        return InvalidValueError(f"unknown field {param!r}.{meant}", param=param)
    wording = _WORDINGS.get(problem["type"], problem["msg"])
    return InvalidValueError(f"{param or 'the body'}: {wording}.", param=param or None)


def _check_model(recipe: TrainConfig, *, at: str) -> None:
    if recipe.model.base is not None and recipe.init.scheme != "default":
        raise InvalidValueError(
            "init.scheme fills the weights of a new architecture; model.base has its own.",
            param=f"{at}.init.scheme",
        )
    if recipe.model.language is not None and recipe.task != "speech-recognition":
        raise InvalidValueError(
            f"model.language has no effect on {recipe.task}; leave it out.",
            param=f"{at}.model.language",
        )
    check_scaling(
        recipe.model, task=recipe.task, loop=recipe.train, scheme=recipe.init.scheme, at=at
    )
    if recipe.task in GENERATING and recipe.model.base is None:
        check_new_decoder(recipe.hyperparameters, vocabulary_size=recipe.tokenizer.vocabulary_size)


def _suggestion(schema: type[BaseModel], path: list[str]) -> str:
    nearest = get_close_matches(path[-1], _fields_at(schema, path[:-1]), n=1)
    if not nearest:  # perhaps the right word in the wrong section
        everywhere = {name.rsplit(".", 1)[-1]: name for name in _all_fields(schema)}
        nearest = [everywhere[n] for n in get_close_matches(path[-1], everywhere, n=1)]
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def _all_fields(schema: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name in schema.model_fields:
        below = _fields_at(schema, [name])
        names += [f"{prefix}{name}.{leaf}" for leaf in below] if below else [f"{prefix}{name}"]
    return names


def _fields_at(schema: type[BaseModel], path: list[str]) -> list[str]:
    for step in path:
        field = schema.model_fields.get(step)
        options = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not models:
            return []
        schema = models[0]
    return list(schema.model_fields)
