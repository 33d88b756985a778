"""The shape of an encoder, read from a Hugging Face `config.json`.

The file is untrusted: known fields are copied, fields that name code are refused, and fields that
would change the arithmetic in a way we do not compute are refused by name. Defaults of absent
fields are those of `transformers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from purvey.contracts.hugging_face import is_classifier, num_labels
from purvey.contracts.model import EncoderFamily
from purvey.models.config import Activation
from purvey.models.folder.config_fields import Fields

FAMILIES: tuple[EncoderFamily, ...] = get_args(EncoderFamily)
HeadActivation = Literal["tanh", "relu"]
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_NAMES = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_act": "activation",
}
"""What DistilBERT calls a field."""
_VOCABULARY: dict[EncoderFamily, int] = {
    "bert": 30_522,
    "distilbert": 30_522,
    "roberta": 50_265,
    "xlm-roberta": 250_002,
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that fixes an encoder's parameters and arithmetic.

    Args:
        family: Whose weight names it follows.
        vocabulary_size: Rows of the token embedding.
        hidden_size: Width of the residual stream.
        mlp_size: Inner width of the MLP.
        num_layers: Layers.
        num_heads: Attention heads; divides `hidden_size`.
        num_positions: Rows of the position embedding.
        first_position: Row of a text's first token.
        num_types: Rows of the segment embedding; 0 where there is none.
        activation: Of the MLP.
        norm_epsilon: Added to the variance in LayerNorm.
        has_head: Whether it ends in one score of the first token's state.
        head_activation: Between the two layers of that head.
    """

    family: EncoderFamily
    vocabulary_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_positions: int
    first_position: int
    num_types: int
    activation: Activation
    norm_epsilon: float
    has_head: bool = False
    head_activation: HeadActivation = "tanh"

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def max_tokens(self) -> int:
        """Longest text, in tokens, its framing included."""
        return self.num_positions - self.first_position


def from_hf(values: Mapping[str, Any]) -> EncoderConfig:
    """Read the content of a `config.json`.

    Raises:
        InvalidCheckpointError: The file names code, is of another family, misses a field, asks for
            arithmetic that is not implemented, or is of a classifier of several labels.
    """
    fields = Fields(values)
    fields.refuse_code()
    family: EncoderFamily = fields.choice("model_type", FAMILIES)
    _refuse_unsupported(fields)
    is_roberta, is_distilled = family in ("roberta", "xlm-roberta"), family == "distilbert"

    def name(usual: str) -> str:
        return _NAMES[usual] if is_distilled else usual

    has_head = is_classifier(values)
    if has_head and num_labels(values) != 1:
        raise fields.refusal("id2label", f"has {num_labels(values)} labels; one is scored")
    act = fields.choice(name("hidden_act"), tuple(_ACTIVATIONS), default="gelu")
    config = EncoderConfig(
        family=family,
        vocabulary_size=fields.count("vocab_size", default=_VOCABULARY[family]),
        hidden_size=fields.count(name("hidden_size"), default=768),
        mlp_size=fields.count(name("intermediate_size"), default=3_072),
        num_layers=fields.count(name("num_hidden_layers"), default=6 if is_distilled else 12),
        num_heads=fields.count(name("num_attention_heads"), default=12),
        num_positions=fields.count("max_position_embeddings", default=512),
        first_position=_padding(fields) + 1 if is_roberta else 0,
        num_types=0 if is_distilled else fields.count("type_vocab_size", default=2),
        activation=_ACTIVATIONS[act],
        norm_epsilon=1e-12 if is_distilled else fields.number("layer_norm_eps", default=1e-12),
        has_head=has_head,
        head_activation="relu" if is_distilled else "tanh",
    )
    _check(config, fields)
    return config


def _padding(fields: Fields) -> int:
    """Return the padding's id, behind which RoBERTa's positions begin."""
    given = fields.ids("pad_token_id")
    return given[0] if given else 1


def _check(config: EncoderConfig, fields: Fields) -> None:
    if config.hidden_size % config.num_heads:
        raise fields.refusal("num_attention_heads", f"does not divide {config.hidden_size}")
    if config.max_tokens < 1:
        raise fields.refusal("max_position_embeddings", "leaves no position for a token")


def _refuse_unsupported(fields: Fields) -> None:
    fields.choice("position_embedding_type", ("absolute",), default="absolute")
    for name in ("is_decoder", "add_cross_attention"):
        if fields.flag(name, default=False):
            raise fields.refusal(name, "is not implemented")
    if fields.values.get("quantization_config"):
        raise fields.refusal("quantization_config", "is not implemented; export full weights")
