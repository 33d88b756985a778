"""A recipe: the complete, validated description of a training run.

One TOML file (or JSON object) becomes a frozen `TrainConfig`; everything unsaid is resolved
to a written default, and the result is stored with its digest beside the artifact.
Misspelt fields are refused with the nearest name, absurd values before anything starts.
"""

import hashlib
import json
import tomllib
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import TrainedTask
from purvey.contracts.sizes import check_new_decoder
from purvey.errors import InvalidValueError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=200)]

InitScheme = Literal[
    "default", "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "normal_002"
]


class Part(BaseModel):
    """Base of every part of a recipe: frozen, nothing unknown, nothing converted silently."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class ModelConfig(Part):
    """What is trained: a registered base, or an architecture built anew.

    `architecture` is `decoder`, `text-ngrams` or `file.py:Class` under a module path;
    `hyperparameters` are its keyword arguments.
    """

    base: Name | None = None
    """Name of a registered model to start from."""
    architecture: Name | None = None
    """What to build anew: `decoder`, `text-ngrams` or `file.py:Class`."""
    hyperparameters: dict[str, Any] = {}  # keyword arguments of the architecture
    """Keyword arguments of the architecture."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if self.base is not None and self.architecture is not None:
            msg = "give either model.base or model.architecture, not both"
            raise ValueError(msg)
        return self


class InitConfig(Part):
    """Parameter initialisation by name; only for an architecture built anew.

    `kaiming_*`: He et al. 2015; `xavier_*`: Glorot and Bengio 2010; `normal_002`: N(0, 0.02);
    `default`: what the module itself does.
    """

    scheme: InitScheme = "default"
    """Which scheme fills the weights, from the recipe's seed."""


class TokenizerConfig(Part):
    """A byte-level BPE tokenizer trained on the training split (architecture `decoder`)."""

    vocabulary_size: Annotated[int, Field(ge=260, le=262_144)] = 4_096
    """Tokens, special ones included."""


class OptimizerConfig(Part):
    """Gradient descent."""

    name: Literal["sgd", "adamw"] = "adamw"
    """Which rule updates the weights."""
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1e-3
    """Peak learning rate, after warm-up."""
    momentum: Fraction = 0.9
    """SGD only."""
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.95)
    """AdamW only (Loshchilov and Hutter 2019)."""
    weight_decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Decay of matrices; decoupled for AdamW. Biases and norms are left alone."""


class ScheduleConfig(Part):
    """Learning rate over the run: linear warm-up, then constant or cosine to `final_fraction`."""

    name: Literal["constant", "cosine"] = "cosine"
    """Shape after warm-up."""
    warmup_fraction: Fraction = 0.05
    """Share of all steps over which the rate rises linearly from 0."""
    final_fraction: Fraction = 0.1
    """Rate at the end, as a share of the peak (cosine)."""


class LoraConfig(Part):
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: Annotated[int, Field(ge=1, le=LIMITS.lora_rank)] = 16
    """Rank of the update."""
    alpha: Positive = 32.0
    """The update is scaled by `alpha / rank`."""
    dropout: Fraction = 0.0
    """Probability of dropping an input of the adapter while training."""
    targets: Literal["attention", "all-linear"] = "all-linear"
    """Which projections are adapted."""


class EarlyStoppingConfig(Part):
    """Stop when the validation metric has not improved for `patience` evaluations."""

    patience: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Evaluations without improvement that are waited for."""
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Least change of the metric that counts as improvement."""


class LoopConfig(Part):
    """The training loop."""

    method: Literal["full", "lora"] = "full"
    """Train every weight, or a low-rank adapter on a frozen base."""
    epochs: Annotated[float, Field(gt=0, le=LIMITS.epochs, allow_inf_nan=False)] = 3.0
    """Passes over the training split."""
    max_steps: Annotated[int, Field(ge=1, le=LIMITS.max_steps)] | None = None
    """Stop after so many optimizer steps, if that comes first."""
    max_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 30, allow_inf_nan=False)] | None = None
    """Stop (and keep the best) after this long; such a run is not reproducible bit for bit."""
    batch_size: Annotated[int, Field(ge=1, le=LIMITS.batch_size)] = 32
    """Rows (or packed sequences) of one optimizer step."""
    sequence_tokens: Annotated[int, Field(ge=8, le=LIMITS.sequence_tokens)] = 256
    """Longest sequence of a language model's training row, in tokens."""
    clip_norm: Positive | None = 1.0
    """Largest global L2 norm of the gradient; null switches clipping off."""
    evals_per_epoch: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Evaluations on the validation split in each epoch."""
    checkpoint_interval_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = 60.0
    """Seconds between checkpoints that a killed run resumes from."""
    early_stopping: EarlyStoppingConfig | None = None
    """Null lets the run go to its end; the best checkpoint is kept either way."""


class TestConfig(Part):
    """The final test on the untouched split."""

    __test__ = False  # not a pytest class

    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1_000
    """Resamples of the test rows."""
    confidence: Annotated[float, Field(gt=0.5, lt=1, allow_inf_nan=False)] = 0.95
    """Coverage of the reported interval."""


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
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    lora: LoraConfig = LoraConfig()
    train: LoopConfig = LoopConfig()
    test: TestConfig = TestConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of everything random: initial weights, data order, dropout, the intervals of the test."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.train.method == "lora" and self.model.architecture is not None:
            msg = "train.method 'lora' adapts a base: set model.base instead of model.architecture"
            raise ValueError(msg)
        return self

    def digest(self) -> str:
        """Return the hex SHA-256 of the resolved recipe's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
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
    if recipe.task == "text-generation" and recipe.model.base is None:
        check_new_decoder(
            recipe.model.hyperparameters, vocabulary_size=recipe.tokenizer.vocabulary_size
        )


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
