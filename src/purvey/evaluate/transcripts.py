"""Word and character error rates: edits that turn what was heard into what was said.

Both are sums of substitutions, deletions and insertions over all rows, divided by what was said in
words or characters (spaces included); they may exceed 1. Counted by `jiwer`.

Shape letters, this file only:
    N = rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from purvey.evaluate.bootstrap import Bootstrap, row_interval
from purvey.evaluate.metrics import Floats, Ints
from purvey.evaluate.slices import Slice, sliced


@dataclass(frozen=True, kw_only=True)
class Edits:
    """Edits and true length of each row, `edits_N` and `lengths_N`."""

    counts: Ints
    lengths: Ints

    @property
    def rate(self) -> float:
        """Edits per word or character over all rows."""
        return float(self.counts.sum() / self.lengths.sum())


def word_edits(references: Sequence[str], heard: Sequence[str]) -> Edits:
    """Count edits of words, which spaces separate."""
    found = [jiwer.process_words(said, text) for said, text in zip(references, heard, strict=True)]
    return _counted(found)


def character_edits(references: Sequence[str], heard: Sequence[str]) -> Edits:
    """Count edits of characters."""
    pairs = zip(references, heard, strict=True)
    return _counted([jiwer.process_characters(said, text) for said, text in pairs])


def error_rates(references: Sequence[str], heard: Sequence[str]) -> dict[str, float]:
    """Return `wer` and `cer` of at least one row, none of which said nothing."""
    return {
        "wer": word_edits(references, heard).rate,
        "cer": character_edits(references, heard).rate,
    }


def transcription_report(
    references: Sequence[str], heard: Sequence[str], how: Bootstrap, slices: Sequence[Slice] = ()
) -> dict[str, Any]:
    """Report both rates for the untouched test rows, and how many were heard without a mistake.

    Of each slice the `wer` is told.
    """
    words, characters = word_edits(references, heard), character_edits(references, heard)
    exact_N = (characters.counts == 0).astype(np.float64)
    report: dict[str, Any] = {  # JSON values
        "wer": _rate_interval(words, how),
        "cer": _rate_interval(characters, how),
        "exact": row_interval(
            len(exact_N), lambda rows: np.asarray(exact_N[rows].mean(axis=1)), how
        ).as_json(),
    }
    if slices:
        edits, lengths = words.counts.astype(np.float64), words.lengths.astype(np.float64)
        report["slices"] = sliced(slices, "wer", edits, lengths, how)
    return report


def _counted(found: Sequence[jiwer.WordOutput | jiwer.CharacterOutput]) -> Edits:
    return Edits(
        counts=np.array([one.substitutions + one.deletions + one.insertions for one in found]),
        lengths=np.array([one.hits + one.substitutions + one.deletions for one in found]),
    )


def _rate_interval(edits: Edits, how: Bootstrap) -> dict[str, Any]:
    def rates(rows: Ints) -> Floats:
        return np.asarray(edits.counts[rows].sum(axis=1) / edits.lengths[rows].sum(axis=1))

    return row_interval(len(edits.counts), rates, how).as_json()
