"""Text cut at special tokens, in time linear in its length."""

import re
from collections.abc import Iterable

from purvey.models.bpe.parts import SpecialToken

_WHITE_SPACE = re.compile(r"\s+")


class Splitter:
    """Finds special tokens in text; where several begin, the longest counts.

    Only their contents are searched for. White space that a token swallows is taken off
    afterwards: in the pattern, it would be tried again from each of its characters.

    Args:
        tokens: The special tokens.
    """

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def split(self, text: str) -> list[str | int]:
        """Return pieces of plain text, none empty, and the ids of the tokens between them."""
        pieces: list[str | int] = []
        position = 0
        for match in self._pattern.finditer(text):
            token, start, end = self._tokens[match[0]], match.start(), match.end()
            if start < position:  # it begins in white space that the one before swallowed
                continue
            before = text[position:start]
            before = before.rstrip() if token.eats_left else before
            pieces += [before, token.id] if before else [token.id]
            space = _WHITE_SPACE.match(text, end) if token.eats_right else None
            position = end if space is None else space.end()
        return [*pieces, text[position:]] if position < len(text) else pieces
