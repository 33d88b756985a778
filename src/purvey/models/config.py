"""The shape of a decoder, read from and written as a Hugging Face `config.json`.

A foreign `config.json` is untrusted: known fields are copied into our own value, fields that
name code are refused, and fields that would change the arithmetic in a way we do not compute
are refused by name rather than ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from purvey.contracts.sizes import DECODER_COUNTS, DecoderSizes
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.folder.config_fields import Fields

DecoderFamily = Literal["llama", "qwen2"]
_ARCHITECTURES: dict[DecoderFamily, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
_DEFAULT_CONTEXT: dict[DecoderFamily, int] = {"llama": 2_048, "qwen2": 32_768}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
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
        rope_theta: Base of the rotary wavelengths.
        rope_scaling: Stretching of them, if any.
        norm_epsilon: Added to the mean square in RMSNorm.
        is_tied: The output head is the embedding.
        has_qkv_bias: Query, key and value projections have a bias.
        has_output_bias: The attention's output projection has one.
        has_mlp_bias: The MLP's projections have one.
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
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-6
    is_tied: bool = True
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_mlp_bias: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    initializer_std: float = 0.02

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "DecoderConfig":
        """Read the content of a `config.json` of the Llama or Qwen2 family.

        Raises:
            InvalidCheckpointError: The file names code, is of another family, misses a field, or
                asks for arithmetic that is not implemented.
        """
        fields = Fields(values)
        fields.refuse_code()
        family = fields.choice("model_type", tuple(_ARCHITECTURES))
        _refuse_unsupported(fields)
        num_heads = fields.count("num_attention_heads")
        hidden_size = fields.count("hidden_size")
        has_bias = fields.flag("attention_bias", default=False)
        config = cls(
            family=family,
            vocabulary_size=fields.count("vocab_size"),
            hidden_size=hidden_size,
            mlp_size=fields.count("intermediate_size"),
            num_layers=fields.count("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=fields.count("num_key_value_heads", default=num_heads),
            head_size=fields.count("head_dim", default=hidden_size // num_heads),
            context_tokens=fields.count(
                "max_position_embeddings", default=_DEFAULT_CONTEXT[family]
            ),
            rope_theta=_rope(fields).number("rope_theta", default=10_000.0),
            rope_scaling=_rope_scaling(fields),
            norm_epsilon=fields.number("rms_norm_eps", default=1e-6),
            is_tied=fields.flag("tie_word_embeddings", default=False),
            has_qkv_bias=family == "qwen2" or has_bias,
            has_output_bias=family == "llama" and has_bias,
            has_mlp_bias=family == "llama" and fields.flag("mlp_bias", default=False),
            bos_id=next(iter(fields.ids("bos_token_id")), None),
            eos_ids=fields.ids("eos_token_id"),
            initializer_std=fields.number("initializer_range", default=0.02),
        )
        config.check()
        return config

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
            rope_theta=fields.number("rope_theta", default=10_000.0),
            is_tied=sizes.is_tied,
            bos_id=bos_id,
            eos_ids=eos_ids,
        )
        config.check(error=InvalidValueError, at="model.hyperparameters.")
        return config

    def to_hf(self) -> dict[str, Any]:
        """Return the content of a `config.json` that `transformers` reads (4.x and 5.x)."""
        values: dict[str, Any] = {
            "architectures": [_ARCHITECTURES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocabulary_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.mlp_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "max_position_embeddings": self.context_tokens,
            "rms_norm_eps": self.norm_epsilon,
            "initializer_range": self.initializer_std,
            "tie_word_embeddings": self.is_tied,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) or None,
            "dtype": "float32",
            "torch_dtype": "float32",
            "rope_theta": self.rope_theta,
            "rope_scaling": _scaling_to_hf(self.rope_scaling),
        }
        if self.family == "llama":
            values |= {"attention_bias": self.has_qkv_bias, "mlp_bias": self.has_mlp_bias}
        return values

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


def _refuse_unsupported(fields: Fields) -> None:
    fields.choice("hidden_act", ("silu",), default="silu")
    if fields.flag("use_sliding_window", default=False):
        raise fields.refusal("use_sliding_window", "is not implemented")
    if fields.values.get("quantization_config"):
        raise fields.refusal("quantization_config", "is not implemented; export full weights")
    if _rope(fields).number("partial_rotary_factor", default=1.0) != 1.0:
        raise fields.refusal("partial_rotary_factor", "is not implemented")


def _rope(fields: Fields) -> Fields:
    """Return the rotary fields: `rope_parameters` of transformers 5, else the 4.x ones."""
    nested = fields.section("rope_parameters") or fields.section("rope_scaling")
    return Fields({**fields.values, **nested})


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    nested = Fields(fields.section("rope_parameters") or fields.section("rope_scaling"))
    kind = nested.values.get("rope_type", nested.values.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise fields.refusal("rope_scaling", f"of type {kind!r} is not implemented")
    return RopeScaling(
        factor=nested.number("factor"),
        low_frequency_factor=nested.number("low_freq_factor"),
        high_frequency_factor=nested.number("high_freq_factor"),
        original_context_tokens=nested.count("original_max_position_embeddings"),
    )


def _scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_context_tokens,
    }
