"""A small encoder built anew, with a tokenizer trained on its texts: BERT's shape and names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from purvey.contracts.sizes import check_parameters
from purvey.errors import InvalidValueError
from purvey.models.bpe.training import train_byte_level
from purvey.models.encoder.config import EncoderConfig
from purvey.models.encoder.framing import Framer
from purvey.models.encoder.module import EncoderModule
from purvey.models.folder.config_fields import Fields
from purvey.models.skeleton import without_numbers

ARCHITECTURE = "encoder"
"""What recipes call it."""
_PAD, _BEGIN, _END = "[PAD]", "[CLS]", "[SEP]"
_MOST_LAYERS = 64


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """What a folder says about its tokens: `tokenizer.json` and `tokenizer_config.json`."""

    definition: dict[str, Any]  # the library's own
    config: dict[str, Any]  # the library's own

    def framer(self, *, prompt: str = "") -> Framer:
        """Return what turns texts into tokens with it."""
        return Framer(self.definition, prompt=prompt)


def train_tokenizer(
    texts: Iterable[str], *, vocabulary_size: int, is_end_first: bool = False
) -> TokenizerFiles:
    """Train byte-level BPE whose texts stand between `[CLS]` and `[SEP]`. Deterministic.

    Args:
        texts: What it learns from.
        vocabulary_size: Tokens, at most.
        is_end_first: Give `[SEP]` a lower id than `[CLS]`.
    """
    special = (_PAD, _END, _BEGIN) if is_end_first else (_PAD, _BEGIN, _END)
    definition = train_byte_level(texts, vocabulary_size=vocabulary_size, special_tokens=special)
    ids = {token: number for number, token in enumerate(special)}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [_token(_BEGIN, 0), _sequence("A", 0), _token(_END, 0)],
        "pair": [
            *(_token(_BEGIN, 0), _sequence("A", 0), _token(_END, 0)),
            *(_sequence("B", 1), _token(_END, 1)),
        ],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (_BEGIN, _END)
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _PAD,
        "cls_token": _BEGIN,
        "sep_token": _END,
        "clean_up_tokenization_spaces": False,
    }
    return TokenizerFiles(definition=definition, config=config)


def build_encoder(
    hyperparameters: Mapping[str, Any],
    *,
    vocabulary_size: int,
    max_tokens: int,
    num_labels: int | None = None,
) -> EncoderModule:
    """Build an encoder; its weights come from torch's default generator.

    Args:
        hyperparameters: JSON values: `hidden_size`, `num_layers`, `num_heads`, `mlp_size`,
            `dropout`.
        vocabulary_size: Tokens.
        max_tokens: Longest text, framing included.
        num_labels: Of its head; None gives it none.

    Raises:
        InvalidValueError: Names the hyperparameter that is unknown or out of range, or how many
            parameters there would be.
    """
    fields = Fields(hyperparameters, error=InvalidValueError, at="model.hyperparameters.")
    fields.refuse_unknown(("hidden_size", "num_layers", "num_heads", "mlp_size", "dropout"))
    width = fields.count("hidden_size", default=128, at_most=8_192)
    num_heads = fields.count("num_heads", default=max(1, width // 32))
    if width % num_heads:
        raise fields.refusal("num_heads", f"must divide hidden_size {width}")
    config = EncoderConfig(
        family="bert",
        vocabulary_size=vocabulary_size,
        hidden_size=width,
        mlp_size=fields.count("mlp_size", default=4 * width, at_most=65_536),
        num_layers=fields.count("num_layers", default=2, at_most=_MOST_LAYERS),
        num_heads=num_heads,
        num_positions=max_tokens,
        first_position=0,
        num_types=2,
        activation="gelu",
        norm_epsilon=1e-12,
        has_head=num_labels is not None,
        num_labels=num_labels or 1,
        dropout=fields.fraction("dropout", default=0.1),
    )
    empty = without_numbers(lambda: EncoderModule(config))
    counted = sum(parameter.numel() for parameter in empty.parameters())
    check_parameters(counted, f"{ARCHITECTURE!r} of these hyperparameters and tokens")
    return EncoderModule(config)


def _token(token: str, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": kind}}


def _sequence(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}
