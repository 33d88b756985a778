"""Which network is trained, and what its weights start from."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from purvey.contracts.recipe_parts.part import Name, Part

InitScheme = Literal[
    "default", "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "normal_002"
]

Scaling = Literal["standard", "mup"]
Factor = Annotated[int, Field(ge=1, le=64)]


class ModelConfig(Part):
    """What is trained: a registered base, or an architecture built anew.

    `architecture` is a built-in one (see the reference of architectures) or `file.py:Class` under
    a module path; `hyperparameters` are its keyword arguments.
    """

    base: Name | None = None
    """Name of a registered model to start from."""
    architecture: Name | None = None
    """What to build anew: a built-in architecture, or `file.py:Class`."""
    hyperparameters: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it; JSON values)
    """Keyword arguments of the architecture."""
    width_factor: Factor = 1
    """How many times as wide as `hyperparameters` say; a base is grown, and computes the same."""
    depth_factor: Factor = 1
    """How many times as many layers; a base is grown likewise."""
    scaling: Scaling = "standard"
    """`mup`: a learning rate found at width factor 1 serves at every other (Yang et al. 2022)."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = None
    """Of the transcripts, by its code, for a base of the Whisper family that knows several."""

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
    """A byte-level BPE tokenizer trained on the training split (`decoder` and `encoder`)."""

    vocabulary_size: Annotated[int, Field(ge=260, le=262_144)] = 4_096
    """Tokens, special ones included."""
