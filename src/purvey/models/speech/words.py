"""Characters with their moments to words with their times."""

import unicodedata
from collections.abc import Sequence

from purvey.contracts.speech.transcription import Word
from purvey.models.speech.decoding import Emission
from purvey.models.speech.vocabulary import Vocabulary

_WIDE = frozenset("WF")


class WordBuilder:
    """Collects characters and gives away whole words.

    A word ends at a space; in scripts that put none, each character is a word. A word begins at
    its first character and ends with the step of its last: the moments at which the network was
    surest, which may lie anywhere within, or shortly after, the sound.

    Args:
        vocabulary: The characters.
        step_s: Seconds of a step.
    """

    def __init__(self, vocabulary: Vocabulary, *, step_s: float) -> None:
        self._vocabulary, self._step_s = vocabulary, step_s
        self._open: list[Emission] = []
        self._is_first, self._has_space = True, False

    def add(self, emissions: Sequence[Emission]) -> list[Word]:
        """Take characters; return the words that are whole by now."""
        found: list[Word] = []
        for emission in emissions:
            character = self._vocabulary.decode([emission.number])
            if character == " ":
                found += self.finish()
                self._has_space = True
            elif is_wide(character):
                found += self.finish()
                self._open.append(emission)
                found += self.finish()
            else:
                self._open.append(emission)
        return found

    def finish(self) -> list[Word]:
        """Return the word that was begun, if one was."""
        if not self._open:
            return []
        first, last = self._open[0], self._open[-1]
        word = Word(
            text=self._vocabulary.decode([emission.number for emission in self._open]),
            start_s=first.step * self._step_s,
            end_s=(last.step + 1) * self._step_s,
            logprob=sum(emission.logprob for emission in self._open) / len(self._open),
            is_apart=self._has_space and not self._is_first,
        )
        self._open, self._is_first, self._has_space = [], False, False
        return [word]


def is_wide(character: str) -> bool:
    """Tell characters of scripts without spaces: Chinese, Japanese, and Korean syllables."""
    return unicodedata.east_asian_width(character) in _WIDE
