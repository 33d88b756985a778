"""The perturbed side of a text explanation: texts whose words can be taken away."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from purvey.contracts.explain import ExplanationRequest
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.explain.parts import Part, leaves
from purvey.explain.words import (
    MOST_WORDS,
    conversation_parts,
    has_too_many_words,
    keep_words,
    text_parts,
)

PERTURBED_ROLES = ("system", "user")
BLANK = " "
"""Stands where nothing is left: an empty prompt cannot be scored, and this one says nothing."""
PLAIN = 0
"""Key of plain text, which has no turns."""

KINDS: dict[str, tuple[str, ...]] = {
    "auto": ("sentence", "word"),
    "word": ("sentence", "word"),
    "sentence": ("sentence",),
    "turn": (),
}
"""Into which finer kinds the coarsest parts are divided, by the units asked for."""


class Wording:
    """Texts by turn, the words in them, and the texts with some words taken away.

    Args:
        turns: Index of the message and its content; `PLAIN` alone for plain text.
        is_conversation: Whether the coarsest parts are turns rather than sentences.

    Raises:
        InvalidValueError: The texts have no word, or too many.
    """

    def __init__(self, turns: Sequence[tuple[int, str]], *, is_conversation: bool) -> None:
        self.texts = dict(turns)
        if has_too_many_words(self.texts.values()):
            raise InvalidValueError(
                f"the input has more than {MOST_WORDS} words; explanations take no more.",
                param="input",
                hint="Explain a shorter text.",
            )
        self.roots = conversation_parts(turns) if is_conversation else text_parts(turns[0][1])
        if not self.roots:
            raise InvalidValueError(
                "there is no word to take away.",
                param="input",
                hint="Give text, or messages with a system or user turn that is not empty.",
            )
        self._words: dict[int, list[Part]] = {turn: [] for turn in self.texts}
        for word in leaves(self.roots):
            self._words[word.turn or PLAIN].append(word)
        self.num_atoms = sum(len(words) for words in self._words.values())

    def units(self, wanted: str) -> tuple[Part, ...]:
        """Return the coarsest parts, divided no finer than the kind of unit that is wanted."""
        return _cut(self.roots, KINDS[wanted])

    def kept(self, keep_A: NDArray[np.bool_]) -> dict[int, str]:
        """Return the texts without the words whose atoms are not kept."""
        return {
            turn: keep_words(text, words, [bool(keep_A[word.atoms[0]]) for word in words])
            for (turn, text), words in zip(self.texts.items(), self._words.values(), strict=True)
        }

    def text_of(self, part: Part) -> str | None:
        """Return the words of a part."""
        return self.texts[part.turn or PLAIN][slice(*part.char)] if part.char else None


def wording_of(request: ExplanationRequest) -> Wording:
    """Return what may be perturbed: plain text, or the content of system and user turns.

    Raises:
        InvalidValueError: There is no word to take away.
        MethodUnsupportedError: A method, unit or perturbation that text does not have.
    """
    _refuse_foreign(request)
    if request.messages is None:
        return Wording([(PLAIN, request.text or "")], is_conversation=False)
    turns = [
        (number, message.content)
        for number, message in enumerate(request.messages)
        if message.role in PERTURBED_ROLES
    ]
    return Wording(turns, is_conversation=True)


def _refuse_foreign(request: ExplanationRequest) -> None:
    if request.method == "occlusion" or request.units == "patch":
        raise MethodUnsupportedError(
            "text has no patches to occlude.",
            param="method" if request.method == "occlusion" else "units",
            hint="Use method 'leave_one_out' and units 'turn', 'sentence' or 'word'.",
        )
    if request.perturbation == "mean":
        raise MethodUnsupportedError(
            "text has no mean.", param="perturbation", hint="Use 'delete'."
        )
    if request.units == "turn" and request.messages is None:
        raise MethodUnsupportedError("plain text has no turns.", param="units")


def _cut(parts: Sequence[Part], kinds: Sequence[str]) -> tuple[Part, ...]:
    return tuple(
        replace(
            part,
            children=_cut(part.children, kinds)
            if part.children and part.children[0].kind in kinds
            else (),
        )
        for part in parts
    )
