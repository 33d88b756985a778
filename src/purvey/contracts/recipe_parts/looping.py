"""The loop: how long, in what portions, when it stops, and the test at its end."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe_parts.part import Fraction, Part, Positive

Pattern = Annotated[str, Field(min_length=1, max_length=200)]


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
    objective: Literal["likelihood", "dpo"] = "likelihood"
    """What a language model learns: to give its targets, or to prefer one answer to another."""
    epochs: Annotated[float, Field(gt=0, le=LIMITS.epochs, allow_inf_nan=False)] = 3.0
    """Passes over the training split."""
    max_steps: Annotated[int, Field(ge=1, le=LIMITS.max_steps)] | None = None
    """Stop after so many optimizer steps, if that comes first."""
    max_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 30, allow_inf_nan=False)] | None = None
    """Stop (and keep the best) after this long; such a run is not reproducible bit for bit."""
    batch_size: Annotated[int, Field(ge=1, le=LIMITS.batch_size)] = 32
    """Rows (or packed sequences) of one optimizer step."""
    sequence_tokens: Annotated[int, Field(ge=8, le=LIMITS.sequence_tokens)] = 256
    """Longest sequence of a language model's training row, or text of an encoder, in tokens."""
    packing: bool = True
    """Compute a batch's texts back to back, none seeing another, instead of padding them."""
    clip_norm: Positive | None = 1.0
    """Largest global L2 norm of the gradient; null switches clipping off."""
    micro_batch_size: Annotated[int, Field(ge=1, le=LIMITS.batch_size)] | None = None
    """Rows computed at once; their gradients add up to the batch's. Null computes it whole."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the products in training; weights, sums, losses and evaluations stay float32."""
    recompute_activations: bool = False
    """Keep only the borders of a language model's layers and compute the rest twice."""
    ema_decay: Fraction | None = None
    """Of a running mean of the weights, which is then what is evaluated, kept and saved."""
    freeze: Annotated[tuple[Pattern, ...], Field(strict=False, max_length=64)] = ()
    """Patterns (`layers.0.*`) of the names of parameters that keep their initial values."""
    label_smoothing: Fraction = 0.0
    """Share of each target's weight that is spread over all classes, or the vocabulary."""
    class_weights: Literal["balanced"] | None = None
    """`balanced` weighs a row by the inverse of how common its label is in training."""
    evals_per_epoch: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Evaluations on the validation split in each epoch."""
    checkpoint_interval_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = 60.0
    """Seconds between checkpoints that a killed run resumes from."""
    early_stopping: EarlyStoppingConfig | None = None
    """Null lets the run go to its end; the best checkpoint is kept either way."""

    @model_validator(mode="after")
    def _consistent(self) -> "LoopConfig":
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            msg = (
                f"micro_batch_size {self.micro_batch_size} is more than the batch_size "
                f"{self.batch_size} that it divides"
            )
            raise ValueError(msg)
        return self


class TestConfig(Part):
    """The final test on the untouched split."""

    __test__ = False  # not a pytest class

    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1_000
    """Resamples of the test rows."""
    confidence: Annotated[float, Field(gt=0.5, lt=1, allow_inf_nan=False)] = 0.95
    """Coverage of the reported interval."""
