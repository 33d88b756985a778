"""Texts as a one-pass model wants them: token ids between special tokens, cut where asked.

What stands around a text, and between the two of a pair, is what the post-processor of
`tokenizer.json` puts there. Special tokens written in a text stay text. Cutting is done on ids: the
library's own truncation keeps everything that it cuts off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from purvey.errors import InvalidCheckpointError
from purvey.models.bpe.parts import parse

_PROBE = "a"


@dataclass(frozen=True, kw_only=True)
class Framed:
    """One text, or a pair, ready for the model.

    Args:
        ids: Token ids.
        types: Segment of each.
        start: Where the text begins that may be cut, the second of a pair.
        end: Where it ends.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    start: int
    end: int

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, num_tokens: int) -> "Framed | None":
        """Take tokens off the end of the text; what stands around it stays.

        Returns:
            At most `num_tokens`, or None where nothing of the text would be left.
        """
        end = self.end - max(0, len(self) - num_tokens)
        if end == self.end:
            return self
        if end <= self.start:
            return None
        return Framed(
            ids=self.ids[:end] + self.ids[self.end :],
            types=self.types[:end] + self.types[self.end :],
            start=self.start,
            end=end,
        )


def bare(ids: Sequence[int]) -> Framed:
    """Take token ids as they are."""
    return Framed(ids=tuple(ids), types=(0,) * len(ids), start=0, end=len(ids))


Special = tuple[tuple[int, int], ...]
"""Ids of special tokens, with their segments."""


class Framer:
    """Immutable; safe to share between threads.

    Args:
        definition: The content of `tokenizer.json`.
        prompt: Written before every single text.

    Raises:
        InvalidCheckpointError: The library does not accept the definition, or the post-processor
            does more than put tokens around texts.
    """

    def __init__(self, definition: dict[str, Any], *, prompt: str = "") -> None:
        self._tokenizer, self._prompt = parse(definition), prompt
        self._single = _Frame(self._tokenizer, is_pair=False)
        self._double = _Frame(self._tokenizer, is_pair=True)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def text(self, text: str) -> Framed:
        """Frame one text, behind the prompt."""
        return self._single.around([self.ids(self._prompt + text)])

    def pair(self, first: str, second: str) -> Framed:
        """Frame two texts as one input."""
        return self.around(self.ids(first), self.ids(second))

    def around(self, first: Sequence[int], second: Sequence[int]) -> Framed:
        """Frame the ids of two texts as one input."""
        return self._double.around([first, second])

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without a frame."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class _Frame:
    """Special tokens before, between and behind, learned from how a probe is framed."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, is_pair: bool) -> None:
        plain = tokenizer.encode(_PROBE, add_special_tokens=False)
        framed = tokenizer.encode(_PROBE, _PROBE if is_pair else None)
        wanted = [0] * len(plain.ids) + ([1] * len(plain.ids) if is_pair else [])
        owners = [owner for owner in framed.sequence_ids if owner is not None]
        if not plain.ids or owners != wanted:
            message = "tokenizer.json: post_processor does not keep texts whole and in order."
            raise InvalidCheckpointError(message, param="model")
        tokens = list(zip(framed.ids, framed.type_ids, strict=True))
        self._parts: list[Special] = [()] * (2 + is_pair)
        self._types = [0] * (1 + is_pair)
        number = 0
        for owner, token in zip(framed.sequence_ids, tokens, strict=True):
            if owner is None:
                self._parts[number] = (*self._parts[number], token)
            else:
                number, self._types[owner] = owner + 1, token[1]

    def around(self, texts: Sequence[Sequence[int]]) -> Framed:
        tokens = list(self._parts[0])
        start = end = 0
        for ids, kind, special in zip(texts, self._types, self._parts[1:], strict=True):
            start, end = len(tokens), len(tokens) + len(ids)
            tokens += ((token, kind) for token in ids)
            tokens += special
        ids_of, types_of = zip(*tokens, strict=True) if tokens else ((), ())
        return Framed(ids=ids_of, types=types_of, start=start, end=end)
