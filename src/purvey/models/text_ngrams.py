"""Text classification by hashed n-grams: a linear model's data needs, an embedding's smoothing.

A bag of hashed words, word pairs and character 1-, 2- and 3-grams is averaged into one vector
(Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"), then classified.
Characters carry languages that put no spaces between words, and misspellings.

Shape letters, this file only:
    B = texts   F = features of all texts back to back   D = embedding width   L = classes
"""

import re
import unicodedata

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

DEFAULT_BUCKETS = 2**16
DEFAULT_WIDTH = 16
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[^\W{_CJK}]+|[{_CJK}]")
_DIGIT = re.compile(r"\d")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication permutes 64-bit values
_SALTS = {"char": 11, "word": 23, "cased": 37}


class TextNgrams(nn.Module):
    """Embedding of hashed features and a linear head.

    Args:
        num_classes: Labels.
        buckets: Rows of the table; features share a row by chance.
        width: Width of the embedding.
        dropout: Share of the embedding's components dropped while training, in [0, 1).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        buckets: int = DEFAULT_BUCKETS,
        width: int = DEFAULT_WIDTH,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(buckets, width).uniform_(-1.0 / width, 1.0 / width))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, features_F: Tensor, weights_F: Tensor, offsets_B: Tensor) -> Tensor:
        """Return `logits_BL` of texts whose features lie back to back from `offsets_B` on."""
        x_BD = embedding_bag(
            features_F, self.table, offsets_B, mode="sum", per_sample_weights=weights_F
        )
        logits_BL: Tensor = self.head(self.dropout(x_BD))
        return logits_BL


def featurise(text: str, *, buckets: int, max_bytes: int) -> tuple[Tensor, Tensor]:
    """Hash a text's n-grams into buckets.

    The hash is our own arithmetic on code points, the same in every process and on every machine.

    Args:
        text: Any text; cut at `max_bytes` of UTF-8.
        buckets: Rows of the table.
        max_bytes: Longest text.

    Returns:
        `features_F` (int32) and `weights_F` (float32). A feature that occurs k times weighs
        1 + ln k; the weights of characters, and those of words, are scaled to length 1, so a long
        text is not louder than a short one.
    """
    cut = text.encode("utf-8", "surrogatepass")[:max_bytes].decode("utf-8", "ignore")
    plain = _DIGIT.sub("0", unicodedata.normalize("NFKC", cut).casefold())
    characters, words = _character_ngrams(plain), _word_ngrams(plain, cut)
    hashes = _mixed(np.concatenate([*characters, *words])) % np.uint64(buckets)
    num_characters = sum(grams.size for grams in characters)
    parts = [_weighed(hashes[:num_characters]), _weighed(hashes[num_characters:])]
    features = np.concatenate([features for features, _ in parts]).astype(np.int32)
    weights = np.concatenate([weights for _, weights in parts])
    return torch.from_numpy(features), torch.from_numpy(weights)


def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Join texts into `features_F`, `weights_F` and `offsets_B`."""
    lengths = torch.tensor([0, *(len(features) for features, _ in items[:-1])], dtype=torch.int32)
    offsets_B = lengths.cumsum(0, dtype=torch.int32)
    features_F = torch.cat([features for features, _ in items])
    weights_F = torch.cat([weights for _, weights in items])
    return features_F, weights_F, offsets_B


def _character_ngrams(plain: str) -> list[NDArray[np.uint64]]:
    codes = _codes(f" {plain} ")
    pairs = codes[:-1] * _MULTIPLIER + codes[1:]
    triples = pairs[:-1] * _MULTIPLIER + codes[2:]
    grams = (codes[1:-1], pairs, triples)
    return [gram + _salt("char", length) for length, gram in enumerate(grams)]


def _word_ngrams(plain: str, cut: str) -> list[NDArray[np.uint64]]:
    """Hash words and pairs of neighbours; words written with capitals also as they are."""
    words = _word_hashes([match[0] for match in _WORD.finditer(plain)])
    cased = _word_hashes([m[0] for m in _WORD.finditer(cut) if m[0] != m[0].casefold()])
    pairs = words[:-1] * _MULTIPLIER + words[1:]
    return [words + _salt("word", 0), pairs + _salt("word", 1), cased + _salt("cased", 0)]


def _word_hashes(words: list[str]) -> NDArray[np.uint64]:
    """Hash each word: the sum of its code points, each times a power fixed by its place."""
    if not words:
        return np.empty(0, dtype=np.uint64)
    lengths = np.array([len(word) for word in words])
    starts = np.concatenate([[0], lengths.cumsum()[:-1]])
    places = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    terms = _codes("".join(words)) * _powers(int(lengths.max()))[places]
    return np.asarray(np.add.reduceat(terms, starts), dtype=np.uint64)


def _codes(text: str) -> NDArray[np.uint64]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64) + np.uint64(1)


def _powers(count: int) -> NDArray[np.uint64]:
    """Return powers 1 to `count` of the multiplier, modulo 2^64."""
    if count > _POWERS.size:
        return np.cumprod(np.full(count, _MULTIPLIER, dtype=np.uint64), dtype=np.uint64)
    return _POWERS[:count]


_POWERS = np.cumprod(np.full(64, _MULTIPLIER, dtype=np.uint64), dtype=np.uint64)


def _salt(kind: str, length: int) -> np.uint64:
    """Return an offset that keeps equal numbers of different kinds apart."""
    return np.uint64((_SALTS[kind] + length) * int(_MULTIPLIER) % 2**64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64-bit values (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _weighed(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return distinct features and their weights, 1 + ln k scaled to length 1."""
    if not hashes.size:
        return hashes, np.empty(0, dtype=np.float32)
    ordered = np.sort(hashes)
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(is_first)
    ends = np.concatenate([starts[1:], [ordered.size]])
    weights = 1.0 + np.log(ends - starts)
    return ordered[starts], (weights / np.sqrt(weights @ weights)).astype(np.float32)
