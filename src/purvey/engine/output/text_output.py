"""Output text as it may be shown: whole characters, and nothing that may begin a stop string."""

from typing import Protocol


class TokenText(Protocol):
    """Text of ids that arrive one by one, such as `Tokenizer.stream()`."""

    def push(self, token_id: int) -> str:
        """Take one id and return the characters it completes, possibly none."""
        ...

    def finish(self) -> str:
        """Return what is left."""
        ...


class TextOutput:
    """Releases text up to the first stop string, and holds back what may become one.

    Invariants: the released text is a prefix of the decoded text, and no stop string, nor a
    beginning of one that the output went on to complete, was ever released. When stop
    strings overlap, the one that is complete first ends the output, wherever token borders lie.

    Args:
        text: Decoder of the output's ids.
        stop: Strings that end the output.
    """

    def __init__(self, text: TokenText, stop: tuple[str, ...]) -> None:
        self._text, self._stop = text, tuple(s for s in stop if s)
        self._held = ""
        self.num_decoded = 0
        """Characters decoded so far, released or not."""
        self.num_released = 0
        """Characters released so far."""
        self.is_stopped = False
        """Whether a stop string was met; nothing is released after it."""

    def push(self, token_id: int) -> str:
        """Take an output token and return the text that may now be shown."""
        return self._take(self._text.push(token_id))

    def finish(self) -> str:
        """Return the rest: nothing more can complete a stop string."""
        if self.is_stopped:
            return ""
        released = self._take(self._text.finish())
        if not self.is_stopped:
            released += self._release(len(self._held))
        return released

    def _take(self, new: str) -> str:
        assert not self.is_stopped, "text arrived after a stop string"
        self._held += new
        self.num_decoded += len(new)
        start = self._find_stop()
        if start is None:
            return self._release(len(self._held) - self._num_suspect())
        self.is_stopped = True
        return self._release(start)

    def _release(self, num_chars: int) -> str:
        released, self._held = self._held[:num_chars], self._held[num_chars:]
        self.num_released += num_chars
        return released

    def _find_stop(self) -> int | None:
        found = [(at + len(s), at) for s in self._stop if (at := self._held.find(s)) >= 0]
        return min(found)[1] if found else None

    def _num_suspect(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(s) - 1 for s in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-length:]) for s in self._stop):
                return length
        return 0
