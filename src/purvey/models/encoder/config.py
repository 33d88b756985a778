"""The shape of an encoder, read from a Hugging Face `config.json`.

The file is untrusted: known fields are copied, fields that name code are refused, and fields that
would change the arithmetic in a way we do not compute are refused by name. Defaults of absent
fields are those of `transformers`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from purvey.contracts.hugging_face import is_classifier, num_labels
from purvey.contracts.model import EncoderFamily
from purvey.models.config import Activation
from purvey.models.folder.config_fields import Fields

FAMILIES: tuple[EncoderFamily, ...] = get_args(EncoderFamily)
HeadActivation = Literal["tanh", "relu"]
_ONE_OF_SEVERAL = "single_label_classification"
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
    "hidden_dropout_prob": "dropout",
}
"""What DistilBERT calls a field."""
_WRITTEN: dict[Activation, str] = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
_CLASSES: dict[EncoderFamily, str] = {
    "bert": "Bert",
    "distilbert": "DistilBert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
}
"""How the names of the library's classes begin."""
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
        has_head: Whether it ends in scores of the first token's state.
        num_labels: How many; one ranks pairs.
        head_activation: Between the two layers of that head.
        dropout: Probability of dropping a value of what is added to the stream, while training.
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
    num_labels: int = 1
    head_activation: HeadActivation = "tanh"
    dropout: float = 0.1

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
        InvalidCheckpointError: The file names code, is of another family, misses a field, or asks
            for arithmetic that is not implemented.
    """
    fields = Fields(values)
    fields.refuse_code()
    family: EncoderFamily = fields.choice("model_type", FAMILIES)
    _refuse_unsupported(fields)
    is_roberta, is_distilled = family in ("roberta", "xlm-roberta"), family == "distilbert"

    def name(usual: str) -> str:
        return _NAMES[usual] if is_distilled else usual

    has_head = is_classifier(values)
    if has_head and num_labels(values) > 1:
        fields.choice("problem_type", (_ONE_OF_SEVERAL,), default=_ONE_OF_SEVERAL)
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
        num_labels=num_labels(values) if has_head else 1,
        head_activation="relu" if is_distilled else "tanh",
        dropout=fields.fraction(name("hidden_dropout_prob"), default=0.1),
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


def to_hf(config: EncoderConfig, *, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of a `config.json` that `transformers` reads as the same encoder.

    Args:
        config: Its shape.
        labels: What its scores are of; empty without a head.
    """
    is_distilled = config.family == "distilbert"
    written: dict[str, Any] = {  # JSON values
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": _WRITTEN[config.activation],
        "hidden_dropout_prob": config.dropout,
    }
    if is_distilled:
        written = {_NAMES[name]: value for name, value in written.items()}
        written["attention_dropout"] = config.dropout
    else:
        written["attention_probs_dropout_prob"] = config.dropout
        written |= {"type_vocab_size": config.num_types, "layer_norm_eps": config.norm_epsilon}
    written |= {
        "vocab_size": config.vocabulary_size,
        "max_position_embeddings": config.num_positions,
        "pad_token_id": max(0, config.first_position - 1),
    }
    if labels:
        written["id2label"] = {str(number): label for number, label in enumerate(labels)}
        written["label2id"] = {label: number for number, label in enumerate(labels)}
    kind = "ForSequenceClassification" if config.has_head else "Model"
    named = {"model_type": config.family, "architectures": [f"{_CLASSES[config.family]}{kind}"]}
    return named | written | {"dtype": "float32"}
