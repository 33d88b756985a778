"""The shape of a decoder: everything that fixes its parameters and its arithmetic.

`families.py` reads it from a Hugging Face `config.json` and writes it as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from purvey.contracts.model import DecoderFamily
from purvey.contracts.sizes import DECODER_COUNTS, DecoderSizes
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.attention.base import AttentionRule
from purvey.models.folder.config_fields import Fields

Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1's stretching of rotary wavelengths.

    Args:
        factor: By how much long wavelengths are stretched.
        low_frequency_factor: Wavelengths above `original_context / low` are stretched fully.
        high_frequency_factor: Wavelengths below `original_context / high` stay.
        original_context_tokens: Context before stretching.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context_tokens: int


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): slow rotations stretched, fast ones kept, a ramp between.

    Args:
        factor: By how much slow rotations are stretched.
        original_context_tokens: Context before stretching.
        fast_turns: Rotations within that context from which on they are kept.
        slow_turns: Rotations up to which they are stretched fully.
        magnitude: Factor on cosine and sine, which sharpens attention.
        is_truncated: Whether the ramp begins and ends at whole dimensions.
    """

    factor: float
    original_context_tokens: int
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    magnitude: float = 1.0
    is_truncated: bool = True


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, kw_only=True)
class Rope:
    """A rotary embedding: base of its wavelengths, and their stretching, if any."""

    theta: float = 10_000.0
    scaling: RopeScaling | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that fixes a decoder's parameters and arithmetic.

    Args:
        family: Whose weight names and defaults it follows.
        vocabulary_size: Rows of the embedding; may exceed the tokenizer's.
        hidden_size: Width of the residual stream.
        mlp_size: Width inside the gated MLP.
        num_layers: Blocks.
        num_heads: Query heads.
        num_kv_heads: Key/value heads; divides `num_heads`.
        head_size: Width of one head; even.
        context_tokens: Longest prompt plus output.
        rope: Rotary embedding of layers that see everything, and of all where `local_rope` is None.
        local_rope: Rotary embedding of layers with a window.
        unrotated_layers: Layers without a rotary embedding.
        windows: Per layer, how many positions a query sees, its own included; None sees all.
            Empty where no layer has a window.
        activation: Of the gated MLP.
        norm_epsilon: Added to the mean square in RMSNorm.
        norm_offset: Added to the gain of every norm (Gemma stores it less 1).
        has_qk_norm: Queries and keys are normalised, head by head, before rotation.
        has_output_norms: What attention and MLP add to the stream is normalised too.
        is_tied: The output head is the embedding.
        has_qkv_bias: Query, key and value projections have a bias.
        has_output_bias: The attention's output projection has one.
        has_mlp_bias: The MLP's projections have one.
        embedding_scale: Factor on embedded tokens.
        attention_scale: Factor on attention's scores; None is `head_size ** -0.5`.
        attention_softcap: Bound that scores approach by tanh, if any.
        logit_softcap: Bound that logits approach by tanh, if any.
        bos_id: Begin token, if any.
        eos_ids: Tokens that end an output.
        initializer_std: Standard deviation of fresh weights.
    """

    family: DecoderFamily = "llama"
    vocabulary_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    context_tokens: int
    rope: Rope = Rope()
    local_rope: Rope | None = None
    unrotated_layers: tuple[int, ...] = ()
    windows: tuple[int | None, ...] = ()
    activation: Activation = "silu"
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0
    has_qk_norm: bool = False
    has_output_norms: bool = False
    is_tied: bool = True
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_mlp_bias: bool = False
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    initializer_std: float = 0.02

    @classmethod
    def from_hyperparameters(
        cls,
        hyperparameters: Mapping[str, Any],
        *,
        vocabulary_size: int,
        bos_id: int | None,
        eos_ids: tuple[int, ...],
    ) -> "DecoderConfig":
        """Build a new decoder's shape from a recipe's `model.hyperparameters`.

        Known names: `hidden_size` (128), `num_layers` (4), `num_heads` (hidden_size / 32),
        `num_kv_heads` (num_heads), `mlp_size` (8/3 of hidden_size, rounded up to 32),
        `context_tokens` (256), `rope_theta` (10,000), `is_tied` (true).

        Raises:
            InvalidValueError: A name is unknown or a value impossible, and `param` names it; or
                the model would be larger than the limits table allows.
        """
        fields = Fields(hyperparameters, error=InvalidValueError, at="model.hyperparameters.")
        fields.refuse_unknown(_HYPERPARAMETERS)
        given: dict[str, Any] = {
            name: fields.count(name)
            for name in DECODER_COUNTS
            if hyperparameters.get(name) is not None
        }
        sizes = DecoderSizes.of({**given, "is_tied": fields.flag("is_tied", default=True)})
        if sizes.hidden_size % sizes.num_heads:
            raise fields.refusal("num_heads", f"must divide hidden_size {sizes.hidden_size}")
        sizes.check(vocabulary_size)
        config = cls(
            vocabulary_size=vocabulary_size,
            hidden_size=sizes.hidden_size,
            mlp_size=sizes.mlp_size,
            num_layers=sizes.num_layers,
            num_heads=sizes.num_heads,
            num_kv_heads=sizes.num_kv_heads,
            head_size=sizes.head_size,
            context_tokens=sizes.context_tokens,
            rope=Rope(theta=fields.number("rope_theta", default=10_000.0)),
            is_tied=sizes.is_tied,
            bos_id=bos_id,
            eos_ids=eos_ids,
        )
        config.check(error=InvalidValueError, at="model.hyperparameters.")
        return config

    def rule(self, layer: int) -> AttentionRule:
        """Return how a layer attends."""
        scale = self.head_size**-0.5 if self.attention_scale is None else self.attention_scale
        return AttentionRule(
            scale=scale,
            window=self.windows[layer] if self.windows else None,
            softcap=self.attention_softcap,
        )

    def rope_of(self, layer: int) -> Rope | None:
        """Return a layer's rotary embedding; None where it has none."""
        if layer in self.unrotated_layers:
            return None
        has_window = bool(self.windows) and self.windows[layer] is not None
        return self.local_rope if has_window and self.local_rope is not None else self.rope

    def with_tokens(self, *, bos_id: int | None, eos_ids: tuple[int, ...]) -> "DecoderConfig":
        """Return a copy with other begin and end tokens."""
        return replace(self, bos_id=bos_id, eos_ids=eos_ids)

    def check(
        self,
        *,
        error: type[InvalidCheckpointError | InvalidValueError] = InvalidCheckpointError,
        at: str = "",
    ) -> None:
        """Verify that the parts fit together.

        Raises:
            InvalidCheckpointError: Or the given class: heads do not divide, or a head is odd.
        """
        if self.num_heads % self.num_kv_heads:
            message = f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}"
            raise error(message, param=f"{at}num_kv_heads")
        if self.head_size % 2:
            raise error(f"the head size {self.head_size} is odd", param=f"{at}num_heads")


_HYPERPARAMETERS = (*DECODER_COUNTS, "rope_theta", "is_tied")
