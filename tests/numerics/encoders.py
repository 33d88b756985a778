"""Tiny random encoders as `transformers` writes them, each with a tokenizer of its own."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
DISTILBERT_SIZES = {
    "dim": 48,
    "hidden_dim": 80,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {  # classes of a library
    "bert": (BertConfig, BertModel, BertForSequenceClassification, SIZES),
    "distilbert": (
        DistilBertConfig,
        DistilBertModel,
        DistilBertForSequenceClassification,
        DISTILBERT_SIZES,
    ),
    "roberta": (RobertaConfig, RobertaModel, RobertaForSequenceClassification, SIZES),
    "xlm-roberta": (
        XLMRobertaConfig,
        XLMRobertaModel,
        XLMRobertaForSequenceClassification,
        SIZES,
    ),
}


def wordpiece() -> Tokenizer:
    """A WordPiece tokenizer of single characters, framed as BERT's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS), "[", "]", "!"]
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def byte_level() -> Tokenizer:
    """A byte-level tokenizer, framed as RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    """A Unigram tokenizer, framed as XLM-RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*((s, 0.0) for s in special), *((f"▁{c}", -2.0) for c in LETTERS)]
    pieces += [*((c, -3.0) for c in LETTERS), ("▁", -4.0), ("!", -4.0), ("<", -4.0), (">", -4.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def tokenizer_of(family: str) -> Tokenizer:
    """The tokenizer that a family comes with."""
    return {"roberta": byte_level, "xlm-roberta": unigram}.get(family, wordpiece)()


def write_encoder(
    folder: Path,
    family: str,
    *,
    is_ranker: bool = False,
    num_labels: int = 0,
    shards: str = "1GB",
    **more: Any,
) -> PreTrainedModel:
    """Write a random encoder with its tokenizer, and return it in evaluation mode.

    A ranker is a classifier of one label.
    """
    config_class, model_class, ranker_class, sizes = FAMILIES[family]
    tokenizer = tokenizer_of(family)
    pad = 1 if "roberta" in family else 0
    size = tokenizer.get_vocab_size()
    config = config_class(**{"vocab_size": size, "pad_token_id": pad, **sizes, **more})
    torch.manual_seed(5)
    model: PreTrainedModel
    num_labels = 1 if is_ranker else num_labels
    if num_labels:
        config.num_labels = num_labels
        model = ranker_class(config)
    else:
        model = model_class(config)
    with torch.no_grad():  # fresh biases are 0 and fresh gains 1: any other mistake would hide
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval().save_pretrained(folder, max_shard_size=shards)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def write_decoder(folder: Path, **more: Any) -> PreTrainedModel:
    """Write a random Llama without a head, its tokenizer ending every text in `</s>`."""
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
        tie_word_embeddings=False,
        **more,
    )
    torch.manual_seed(6)
    model = LlamaModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model
