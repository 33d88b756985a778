"""What a scripted engine knows of prompts it has seen: as the real one, by salt and whole tiles."""

from collections import deque
from itertools import takewhile

_TILE_CHARACTERS = 32
_NUM_REMEMBERED = 256


class SeenPrompts:
    """The newest prompts; a scripted token is a character."""

    def __init__(self) -> None:
        self._seen: deque[tuple[str, str]] = deque(maxlen=_NUM_REMEMBERED)

    def num_known(self, salt: str, prompt: str) -> int:
        """Count the tokens that an earlier prompt of this salt began with, and remember this one.

        The last token is never known.
        """
        shared = (_num_shared(prompt, seen) for other, seen in self._seen if other == salt)
        longest = min(max(shared, default=0), len(prompt) - 1)
        self._seen.append((salt, prompt))
        return max(0, longest) // _TILE_CHARACTERS * _TILE_CHARACTERS


def _num_shared(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
