"""Text as turns, sentences and words, in any script.

A word is a run of characters without a space; each Chinese or Japanese character is a word
of its own, together with the punctuation that follows it. So the words cover everything in
a text but its white space.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from purvey.explain.parts import Part

_WITHOUT_SPACES = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b"  # radicals, iteration marks, numerals
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # ideographs
    "\U0001aff0-\U0001b16f\U00020000-\U0003ffff"  # kana and ideographs of the higher planes
)
_WORD = re.compile(rf"[{_WITHOUT_SPACES}][^\w\s]*|[^\s{_WITHOUT_SPACES}]+")
_ENDS_SENTENCE = re.compile(r"[.!?…]+[\"'”’)\]]*$|[。！？｡．]+[”’」』）]*$")  # noqa: RUF001
MOST_WORDS = 16_384
"""Words of one explained input: each pass over it costs time in proportion, and so do its parts."""
SENTENCE_WORDS = 24
"""A longer sentence is cut, so that refining one never needs more than this many passes."""


def has_too_many_words(texts: Iterable[str]) -> bool:
    """Tell whether there are more than `MOST_WORDS`, without looking further than that."""
    words = chain.from_iterable(_WORD.finditer(text) for text in texts)
    return next(islice(words, MOST_WORDS, None), None) is not None


def text_parts(text: str, *, turn: int | None = None, first_atom: int = 0) -> tuple[Part, ...]:
    """Divide a text into sentences and those into words; a word is an atom.

    Args:
        text: Any text; only white space gives no part.
        turn: Index of the message the text belongs to.
        first_atom: Number of the first word.
    """
    words = [
        Part(kind="word", atoms=(first_atom + number,), turn=turn, char=found.span())
        for number, found in enumerate(_WORD.finditer(text))
    ]
    return tuple(_join("sentence", run) for run in _sentences(text, words))


def conversation_parts(texts: Sequence[tuple[int, str]]) -> tuple[Part, ...]:
    """Divide the turns that may be perturbed; turns without a word are left out.

    Args:
        texts: Index of the message and its content.
    """
    turns: list[Part] = []
    num_atoms = 0
    for turn, text in texts:
        sentences = text_parts(text, turn=turn, first_atom=num_atoms)
        if sentences:
            num_atoms += sum(len(sentence.atoms) for sentence in sentences)
            turns.append(_join("turn", sentences))
    return tuple(turns)


def keep_words(text: str, words: Sequence[Part], keep: Sequence[bool]) -> str:
    """Return the text without the words that are not kept.

    A word goes with the white space after it. Characters before the first word stay.
    """
    kept: list[str] = []
    starts = [_start(word) for word in words]
    for number, start in enumerate(starts):
        if keep[number]:
            end = starts[number + 1] if number + 1 < len(starts) else len(text)
            kept.append(text[start:end])
    return text[: starts[0]] + "".join(kept) if starts else text


def _start(word: Part) -> int:
    assert word.char is not None, "a word has its place in the text"
    return word.char[0]


def _sentences(text: str, words: Sequence[Part]) -> list[list[Part]]:
    runs: list[list[Part]] = []
    is_open = False
    for word in words:
        start, end = word.char or (0, 0)
        if not is_open or len(runs[-1]) >= SENTENCE_WORDS:
            runs.append([])
        runs[-1].append(word)
        newline = "\n" in text[end : end + 2]
        is_open = not (newline or _ENDS_SENTENCE.search(text[start:end]))
    return runs


def _join(kind: str, parts: Sequence[Part]) -> Part:
    """Return a coarser part over neighbouring parts."""
    first, last = parts[0].char or (0, 0), parts[-1].char or (0, 0)
    return Part(
        kind=kind,
        atoms=tuple(atom for part in parts for atom in part.atoms),
        turn=parts[0].turn,
        char=(first[0], last[1]),
        children=tuple(parts),
    )
