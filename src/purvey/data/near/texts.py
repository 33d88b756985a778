"""Texts that share at least `NEAR` of their character n-grams, found by MinHash.

A. Broder, "On the resemblance and containment of documents", SEQUENCES 1997: the chance that the
least hash of two sets is the same one is their Jaccard similarity J. With 16 bands of 5 hashes a
pair of J = 0.8 shares a band with probability 1 - (1 - J^5)^16 = 0.998; what shares one is compared
by its n-grams themselves. Letters of alphabets are taken by fives; Chinese, Japanese and Korean
characters, which say about as much as half a word, by twos. Case, width and blanks do not count.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from purvey.data.near.clusters import clusters

NEAR = 0.8
"""Least Jaccard similarity of the n-grams of two near texts, in [0, 1]."""
_BANDS, _ROWS = 16, 5
_LETTERS, _CHARACTERS = 5, 2
_FIRST_WIDE = 0x2E80
"""From here on are the characters of Chinese, Japanese and Korean."""
_CHUNK = 2_048
_MASK = 2**64 - 1

Hashes = NDArray[np.uint64]


def near_texts(texts: Sequence[str]) -> list[int]:
    """Return for each text the number of the first one of its cluster."""
    bands_NB = np.empty((len(texts), _BANDS), dtype=np.uint64)
    for number, text in enumerate(texts):
        bands_NB[number] = _bands(_ngrams(text))
    return clusters(bands_NB, lambda a, b: similarity(texts[a], texts[b]) >= NEAR)


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of the n-grams of two texts, in [0, 1]."""
    first, second = _ngrams(one), _ngrams(other)
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def _ngrams(text: str) -> Hashes:
    """Return the distinct n-grams' hashes, those that reach over an end of the text included.

    So a change at an end counts as much as one in the middle.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    chars_L = np.frombuffer(plain.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    is_wide = 2 * int(np.count_nonzero(chars_L >= _FIRST_WIDE)) >= len(chars_L)
    length = _CHARACTERS if is_wide else _LETTERS
    chars_L = np.pad(chars_L, length - 1)
    count = len(chars_L) - length + 1
    hashes_L = np.full(count, length, dtype=np.uint64)
    for place in range(length):
        hashes_L = (hashes_L ^ chars_L[place : place + count]) * _PRIME
        hashes_L ^= hashes_L >> _SHIFT
    return np.unique(hashes_L)


def _bands(ngrams_L: Hashes) -> Hashes:
    least_H = np.full(_BANDS * _ROWS, _MASK, dtype=np.uint64)
    for start in range(0, len(ngrams_L), _CHUNK):
        part_1L = ngrams_L[None, start : start + _CHUNK]
        hashes_HL = (part_1L ^ _XORED_H1) * _FACTORS_H1
        least_H = np.minimum(least_H, hashes_HL.min(axis=1))
    least_BR = least_H.reshape(_BANDS, _ROWS)
    bands_B = np.zeros(_BANDS, dtype=np.uint64)
    for row in range(_ROWS):
        bands_B = (bands_B ^ least_BR[:, row]) * _PRIME
        bands_B ^= bands_B >> _SHIFT
    return bands_B


def _constants(count: int, start: int) -> list[int]:
    """Return `count` well-mixed 64-bit numbers (SplitMix64, G. Steele et al., OOPSLA 2014)."""
    found, state = [], start
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        found.append(mixed ^ (mixed >> 31))
    return found


_PRIME = np.array([0x9E3779B185EBCA87], dtype=np.uint64)
_SHIFT = np.uint64(29)
_XORED_H1 = np.array(_constants(_BANDS * _ROWS, 1), dtype=np.uint64)[:, None]
_FACTORS_H1 = np.array([c | 1 for c in _constants(_BANDS * _ROWS, 2)], dtype=np.uint64)[:, None]
