"""The loop: how long, in what portions, when it stops, and the test at its end."""

from typing import Annotated, Literal

from pydantic import Field

from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe_parts.part import Part, Positive


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
