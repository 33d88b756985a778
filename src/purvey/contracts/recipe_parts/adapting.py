"""Tuning a base: a small addition to it, and answers that are preferred."""

from typing import Annotated, Literal

from pydantic import Field

from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.contracts.recipe_parts.part import Fraction, Part, Positive
from purvey.errors import InvalidValueError


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
    base_precision: Literal["fp32", "int4"] = "fp32"
    """How the frozen base's linear layers are held while training: `int4` takes 5 bits a weight."""


class DpoConfig(Part):
    """Direct preference optimisation (Rafailov et al. 2023), with `train.objective` `dpo`."""

    beta: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.1
    """How closely the tuned model is held to the base; smaller lets it go further."""
    likelihood_weight: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    """Of the better answer's mean loss per token beside the preference's (Pang et al. 2024): above
    0 it keeps both answers from becoming unlikely together."""


def check_tuning(
    loop: LoopConfig, *, lora: LoraConfig, dpo: DpoConfig, has_base: bool, at: str
) -> None:
    """Refuse settings that do not go together.

    Args:
        loop: Section `train` of a recipe.
        lora: Its section `lora`.
        dpo: Its section `dpo`.
        has_base: Whether it names `model.base`.
        at: Prefix of the fields' paths.

    Raises:
        InvalidValueError: Names the field and what to change.
    """
    if loop.objective == "dpo" and not has_base:
        raise InvalidValueError(
            "train.objective 'dpo' tunes a base: set model.base.", param=f"{at}.train.objective"
        )
    if loop.objective == "dpo" and loop.label_smoothing:
        raise InvalidValueError(
            "train.label_smoothing has no effect on train.objective 'dpo'; leave it out.",
            param=f"{at}.train.label_smoothing",
        )
    if loop.objective != "dpo" and dpo != DpoConfig():
        raise InvalidValueError(
            "section dpo has no effect without train.objective 'dpo'.", param=f"{at}.dpo"
        )
    if loop.method != "lora" and lora != LoraConfig():
        raise InvalidValueError(
            "section lora has no effect without train.method 'lora'.", param=f"{at}.lora"
        )
