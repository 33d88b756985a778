"""Rows of a split as texts that belong together: by pairs, or by label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from purvey.contracts.recipe_parts.embedding import PairColumns
from purvey.data.loader import Rows
from purvey.models.encoder.texts import TextReader
from purvey.train.vectors.pairs import Pairs

Ints = NDArray[np.int64]
_PARAM = "recipe.dataset"


class ByPair:
    """Each row belongs to its text; all texts of rows that ask the same are right for them.

    Args:
        asked: Text of each row.
        answers: Number of the text of each.
    """

    def __init__(self, asked: Sequence[str], answers: Sequence[int]) -> None:
        self._asked = list(asked)
        self._answers = np.array(answers, dtype=np.int64)
        grouped: dict[str, list[int]] = {}
        for text, answer in zip(asked, answers, strict=True):
            grouped.setdefault(text, []).append(answer)
        self._right = {text: np.unique(numbers) for text, numbers in grouped.items()}

    def partners(self, row: int) -> Ints:
        """Return the row's own text."""
        return self._answers[row : row + 1]

    def relevant(self, row: int) -> Ints:
        """Return the texts of all rows that ask the same."""
        return self._right[self._asked[row]]

    def own(self, row: int) -> int | None:
        """Return nothing: what is asked is not among what is found."""
        return None


class ByLabel:
    """A text belongs to every other one of its label.

    Args:
        labels: Label of each text.
        rows: Numbers of the texts that are searched with; each label of theirs has another text.
    """

    def __init__(self, labels: Sequence[str], rows: Sequence[int]) -> None:
        self._labels, self._rows = list(labels), list(rows)
        grouped: dict[str, list[int]] = {}
        for number, label in enumerate(labels):
            grouped.setdefault(label, []).append(number)
        self._members = {label: np.array(numbers) for label, numbers in grouped.items()}

    def partners(self, row: int) -> Ints:
        """Return the other texts of the row's label."""
        own = self._rows[row]
        members = self._members[self._labels[own]]
        others: Ints = members[members != own]
        return others

    def relevant(self, row: int) -> Ints:
        """Return the same."""
        return self.partners(row)

    def own(self, row: int) -> int | None:
        """Return the row's number among all texts."""
        return self._rows[row]


def read_pairs(rows: Rows, columns: PairColumns, reader: TextReader) -> Pairs:
    """Read a split; texts too long are cut.

    Of texts by label, those whose label has no other text are found and not searched with.

    Raises:
        InvalidValueError: A text has no tokens.
    """
    asked = rows.texts(columns.asked)
    if columns.is_label:
        return _by_label(asked, rows.texts(columns.by), reader)
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    answers = [number(text) for text in rows.texts(columns.by)]
    negatives = [number(text) for text in rows.texts(columns.negative)] if columns.negative else []
    return Pairs(
        asked=[reader.framed(text, param=_PARAM) for text in asked],
        found=[reader.framed(text, param=_PARAM) for text in numbers],
        belonging=ByPair(asked, answers),
        negatives=negatives,
    )


def _by_label(texts: Sequence[str], labels: Sequence[str], reader: TextReader) -> Pairs:
    names, counts = np.unique(np.array(labels, dtype=object), return_counts=True)
    alone = {name for name, count in zip(names, counts, strict=True) if count < 2}
    rows = [number for number, label in enumerate(labels) if label not in alone]
    framed = [reader.framed(text, param=_PARAM) for text in texts]
    return Pairs(
        asked=[framed[number] for number in rows], found=framed, belonging=ByLabel(labels, rows)
    )
