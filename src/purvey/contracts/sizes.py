"""How large an architecture built anew becomes, counted before anything is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError

DECODER_COUNTS = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "mlp_size",
    "context_tokens",
)
"""Hyperparameters of a decoder that are whole numbers from 1 on."""
_HYPERPARAMETERS = "recipe.model.hyperparameters"


@dataclass(frozen=True, kw_only=True)
class DecoderSizes:
    """The numbers that fix how many parameters a new decoder has, its vocabulary aside."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    context_tokens: int
    is_tied: bool

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "DecoderSizes":
        """Fill in what the hyperparameters leave unsaid; those given are whole numbers."""
        hidden_size = given.get("hidden_size", 128)
        num_heads = given.get("num_heads", max(1, hidden_size // 32))
        return cls(
            hidden_size=hidden_size,
            num_layers=given.get("num_layers", 4),
            num_heads=num_heads,
            num_kv_heads=given.get("num_kv_heads", num_heads),
            mlp_size=given.get("mlp_size", -(-hidden_size * 8 // 96) * 32),
            context_tokens=given.get("context_tokens", 256),
            is_tied=given.get("is_tied", True),
        )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four projections, a gated MLP, two norms."""
        query_size = self.num_heads * self.head_size
        kv_size = self.num_kv_heads * self.head_size
        attention = 2 * self.hidden_size * (query_size + kv_size)
        return attention + 3 * self.hidden_size * self.mlp_size + 2 * self.hidden_size

    def num_parameters(self, vocabulary_size: int) -> int:
        """Count all parameters; a tied output head is the embedding."""
        tables = vocabulary_size * self.hidden_size * (1 if self.is_tied else 2)
        return tables + self.num_layers * self.layer_parameters + self.hidden_size

    def check(self, vocabulary_size: int) -> None:
        """Refuse a decoder that is larger than the limits table allows.

        Raises:
            InvalidValueError: Says how the number comes about.
        """
        if self.num_layers > LIMITS.new_layers:
            raise InvalidValueError(
                f"num_layers is {self.num_layers}; at most {LIMITS.new_layers} are built.",
                param=_HYPERPARAMETERS,
            )
        tables = "the embedding of" if self.is_tied else "two tables of"
        check_parameters(
            self.num_parameters(vocabulary_size),
            f"{tables} {vocabulary_size} x {self.hidden_size}, and {self.num_layers} layers of "
            f"{self.layer_parameters}",
        )


def check_parameters(num_parameters: int, arithmetic: str) -> None:
    """Refuse more parameters than the limits table allows.

    Raises:
        InvalidValueError: Names the number and how it comes about.
    """
    if num_parameters > LIMITS.new_parameters:
        raise InvalidValueError(
            f"the model would have {num_parameters} parameters ({arithmetic}); at most "
            f"{LIMITS.new_parameters} are built.",
            param=_HYPERPARAMETERS,
        )


def check_new_decoder(hyperparameters: Mapping[str, Any], *, vocabulary_size: int) -> None:
    """Refuse a decoder that is too large; what is no number is left to who builds it.

    Raises:
        InvalidValueError: It has too many layers or parameters.
    """
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    counts = [given[name] for name in DECODER_COUNTS if name in given]
    if all(type(count) is int and count > 0 for count in counts):
        DecoderSizes.of(given).check(vocabulary_size)
