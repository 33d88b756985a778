"""Transcripts as numbers: one for each character of the training transcripts, 0 for the blank."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError

BLANK = 0
"""The output that stands for no character (Graves et al. 2006)."""
_SHOWN_CHARACTERS = 10


def normalised(text: str) -> str:
    """Return a transcript as it is learned and compared: composed (NFC), one space for any gap."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The characters that a model can write; the one at place `i` has the number `i + 1`."""

    characters: tuple[str, ...]

    @classmethod
    def of(cls, transcripts: Iterable[str]) -> "Vocabulary":
        """Collect the characters of transcripts, by code point.

        Raises:
            InvalidValueError: There are more than `LIMITS.labels`.
        """
        characters = sorted(set().union(*map(normalised, transcripts)))
        if len(characters) > LIMITS.labels:
            raise InvalidValueError(
                f"the transcripts have {len(characters)} different characters; at most "
                f"{LIMITS.labels} are accepted.",
                param="recipe.dataset",
            )
        return cls(characters=tuple(characters))

    @property
    def num_outputs(self) -> int:
        """Characters, and the blank."""
        return len(self.characters) + 1

    def encode(self, transcript: str) -> list[int]:
        """Return the numbers of a transcript's characters; unknown ones are left out."""
        numbers = self._numbers
        return [numbers[c] for c in normalised(transcript) if c in numbers]

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the characters of numbers, none of which is the blank."""
        return "".join(self.characters[number - 1] for number in numbers)

    def check_covers(self, transcripts: Iterable[str], *, whose: str) -> None:
        """Make sure that every character of transcripts can be written.

        Raises:
            InvalidValueError: One cannot; names those that are missing.
        """
        missing = self.missing(transcripts)
        if missing:
            shown = ", ".join(map(repr, missing[:_SHOWN_CHARACTERS]))
            raise InvalidValueError(
                f"{whose} cannot write {len(missing)} of the transcripts' characters: {shown}.",
                param="recipe.model.base",
                hint="Train from an architecture instead, or rewrite the transcripts.",
            )

    def missing(self, transcripts: Iterable[str]) -> list[str]:
        """Return the characters of transcripts that cannot be written, by code point."""
        return sorted(set().union(*map(normalised, transcripts)) - self._numbers.keys())

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.characters, start=1)}


def least_steps(numbers: Sequence[int]) -> int:
    """Return the fewest steps that can say a transcript: equal neighbours need a blank between."""
    repeats = sum(a == b for a, b in pairwise(numbers))
    return len(numbers) + repeats
