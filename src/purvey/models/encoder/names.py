"""Tensor names of the BERT family: theirs into ours, one table per family.

Ours: `words`, `positions`, `types`, `norm`, `layers.N.{query,key,value,output,attention_norm,up,
down,mlp_norm}`, `head.{dense,out}`, each with `.weight` and, but for the embeddings, `.bias`.
"""

import re
from collections.abc import Iterator, Mapping

from purvey.contracts.model import EncoderFamily
from purvey.models.encoder.config import EncoderConfig

Shape = tuple[int, ...]
_EMBEDDINGS = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
}
_BERT_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "mlp_norm",
}
_DISTILBERT_LAYER = {
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "output",
    "sa_layer_norm": "attention_norm",
    "ffn.lin1": "up",
    "ffn.lin2": "down",
    "output_layer_norm": "mlp_norm",
}
_ROBERTA_HEAD = {"classifier.dense": "head.dense", "classifier.out_proj": "head.out"}
_HEADS: Mapping[EncoderFamily, dict[str, str]] = {
    "bert": {"pooler.dense": "head.dense", "classifier": "head.out"},
    "distilbert": {"pre_classifier": "head.dense", "classifier": "head.out"},
    "roberta": _ROBERTA_HEAD,
    "xlm-roberta": _ROBERTA_HEAD,
}
_PREFIXES: Mapping[EncoderFamily, str] = {
    "bert": "bert.",
    "distilbert": "distilbert.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
}
"""What stands before the names of a model that has a head."""
_OUR_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_MODEL = re.compile(r"(?:bert|roberta|distilbert)\.")
_LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d{1,4})\.(.+)")
_LEGACY = {"gamma": "weight", "beta": "bias"}
_UNUSED = re.compile(
    r"pooler\.|cls\.|lm_head\.|vocab_|qa_outputs\.|classifier\.|pre_classifier\."
    r"|embeddings\.(?:position_ids|token_type_ids)$"
)
"""Heads that nobody asks for, and tables that say nothing."""


def our_name(theirs: str, config: EncoderConfig) -> str | None:
    """Translate a checkpoint's tensor name; None for what is not needed, itself if unknown."""
    name = _MODEL.sub("", theirs, count=1) if _MODEL.match(theirs) else theirs
    stem, _, kind = name.rpartition(".")
    kind = _LEGACY.get(kind, kind)
    layer = _LAYER.fullmatch(stem)
    if layer is not None:
        table = _DISTILBERT_LAYER if config.family == "distilbert" else _BERT_LAYER
        inner = table.get(layer[2])
        return theirs if inner is None else f"layers.{int(layer[1])}.{inner}.{kind}"
    heads = _HEADS[config.family] if config.has_head else {}
    ours = (_EMBEDDINGS | heads).get(stem)
    if ours is not None:
        return f"{ours}.{kind}"
    return None if _UNUSED.match(name) else theirs


def expected_shapes(config: EncoderConfig) -> dict[str, Shape]:
    """List every tensor of an encoder with its shape, by our names."""
    return dict(_shapes(config))


def _shapes(config: EncoderConfig) -> Iterator[tuple[str, Shape]]:
    width, inner = config.hidden_size, config.mlp_size
    yield "words.weight", (config.vocabulary_size, width)
    yield "positions.weight", (config.num_positions, width)
    if config.num_types:
        yield "types.weight", (config.num_types, width)
    yield from _pair("norm", (width,))
    for layer in range(config.num_layers):
        at = f"layers.{layer}"
        for name in ("query", "key", "value", "output"):
            yield from _pair(f"{at}.{name}", (width, width))
        yield from _pair(f"{at}.up", (inner, width))
        yield from _pair(f"{at}.down", (width, inner))
        for name in ("attention_norm", "mlp_norm"):
            yield from _pair(f"{at}.{name}", (width,))
    if config.has_head:
        yield from _pair("head.dense", (width, width))
        yield from _pair("head.out", (config.num_labels, width))


def _pair(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def their_name(ours: str, config: EncoderConfig) -> str:
    """Translate our name of a tensor into that of a checkpoint; inverse of `our_name`."""
    stem, _, kind = ours.rpartition(".")
    prefix = _PREFIXES[config.family] if config.has_head else ""
    layer = _OUR_LAYER.fullmatch(stem)
    if layer is not None:
        is_distilled = config.family == "distilbert"
        table = _inverted(_DISTILBERT_LAYER if is_distilled else _BERT_LAYER)
        tower = "transformer" if is_distilled else "encoder"
        return f"{prefix}{tower}.layer.{layer[1]}.{table[layer[2]]}.{kind}"
    head = _inverted(_HEADS[config.family]).get(stem)
    if head is not None:  # of a head only the pooler is inside the model
        return f"{prefix if head.startswith('pooler.') else ''}{head}.{kind}"
    return f"{prefix}{_inverted(_EMBEDDINGS)[stem]}.{kind}"


def _inverted(table: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in table.items()}
