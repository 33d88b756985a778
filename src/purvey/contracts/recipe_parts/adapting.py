"""Training a small addition to a frozen base."""

from typing import Annotated, Literal

from pydantic import Field

from purvey.contracts.limits import LIMITS
from purvey.contracts.recipe_parts.part import Fraction, Part, Positive


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
