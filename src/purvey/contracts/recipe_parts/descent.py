"""Gradient descent: the rule, and its rate over the run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from purvey.contracts.recipe_parts.part import Fraction, Part, refuse_without_effect


class OptimizerConfig(Part):
    """Gradient descent."""

    name: Literal["sgd", "adamw", "muon"] = "adamw"
    """Which rule updates the weights; Muon (Jordan et al. 2024) those of hidden linear layers."""
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1e-3
    """Peak learning rate, after warm-up. Muon's steps are scaled to be as long as AdamW's."""
    momentum: Fraction = 0.9
    """SGD and Muon only."""
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.95)
    """AdamW (Loshchilov and Hutter 2019), also for what Muon leaves to it."""
    weight_decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Decay of matrices; decoupled but for SGD. Biases and norms are left alone."""

    @model_validator(mode="after")
    def _all_used(self) -> "OptimizerConfig":
        unused = {"sgd": ("betas",), "adamw": ("momentum",), "muon": ()}
        refuse_without_effect(self, unused[self.name], why=f"optimizer.name {self.name!r}")
        return self


class ScheduleConfig(Part):
    """Learning rate over the run: linear warm-up, then one of four shapes.

    `constant`; `cosine` and `linear` fall to `final_fraction` over all that is left; `wsd` (Hu et
    al. 2024) stays at the peak and falls over the last `decay_fraction` of the run.
    """

    name: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """Shape after warm-up."""
    warmup_fraction: Fraction = 0.05
    """Share of all steps over which the rate rises linearly from 0."""
    final_fraction: Fraction = 0.1
    """Rate at the end, as a share of the peak; not of `constant`."""
    decay_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.2
    """Share of all steps over which the rate falls (`wsd` only)."""

    @model_validator(mode="after")
    def _all_used(self) -> "ScheduleConfig":
        unused = {"constant": ("final_fraction", "decay_fraction"), "wsd": ()}
        without = unused.get(self.name, ("decay_fraction",))
        refuse_without_effect(self, without, why=f"schedule.name {self.name!r}")
        if self.name == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            msg = "warmup_fraction and decay_fraction are more than the whole run together"
            raise ValueError(msg)
        return self
