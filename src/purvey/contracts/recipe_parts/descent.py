"""Gradient descent: the rule, and its rate over the run."""

from typing import Annotated, Literal

from pydantic import Field

from purvey.contracts.recipe_parts.part import Fraction, Part


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
