"""Calls in an output's text: where a family writes them, read as they arrive.

What is no call of a known function is given back to the character: it is content.
"""

import re
from collections.abc import Collection
from enum import Enum, auto
from typing import Any

import msgspec

from purvey.contracts.chat.tools import CallDelta
from purvey.contracts.sampling import CallLayout
from purvey.models.answer.spans import ObjectSpan

_BEGINNING = re.compile(
    r'\{\s*"name"\s*:\s*"([A-Za-z0-9_-]{1,64})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


class _Call(msgspec.Struct):
    """A call as it is written; what else it holds is left alone."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw()
    parameters: msgspec.Raw = msgspec.Raw()


class _State(Enum):
    BEFORE = auto()
    INSIDE = auto()
    ARGUMENTS = auto()
    CLOSING = auto()
    BEHIND = auto()
    OVER = auto()


class Calls:
    """One stretch of calls, behind its trigger or at its first bracket.

    Invariant: `_raw` and then `_text` are the characters that no call has been made of.

    Args:
        layout: How calls are written.
        names: Functions that there are.
        first_index: Place of the next call in the answer.
        is_certain: Whether a grammar vouches for the calls, so that arguments are told as they
            come; else a call is told once it is whole.
        raw: The trigger, as it was written.
    """

    def __init__(
        self,
        layout: CallLayout,
        names: Collection[str],
        *,
        first_index: int,
        is_certain: bool,
        raw: str,
    ) -> None:
        self._layout, self._names, self._is_certain = layout, names, is_certain
        self._index, self._raw, self._text = first_index, raw, ""
        self._is_opened = layout.kind != "list"
        self._span, self._at = ObjectSpan(), 0
        self._state = _State.BEFORE

    @property
    def num_calls(self) -> int:
        """Calls of the answer so far, unfinished ones left out."""
        return self._index

    @property
    def is_over(self) -> bool:
        """Whether no call can follow; the rest is then content."""
        return self._state is _State.OVER

    def push(self, text: str, *, max_calls: int | None) -> list[CallDelta]:
        """Take text and return what it says of calls; stops behind the last call that may be."""
        self._text += text
        news: list[CallDelta] = []
        while max_calls is None or self._index < max_calls:
            before = (self._state, len(self._text))
            self._step(news)
            if before == (self._state, len(self._text)):
                break
        return news

    def take_raw(self) -> str:
        """Return, once, what was read since the last call and is none."""
        raw, self._raw = self._raw, ""
        return raw

    def take_rest(self) -> str:
        """Return, once, what was not read; it stands behind `take_raw()`."""
        rest, self._text = self._text, ""
        return rest

    def _step(self, news: list[CallDelta]) -> None:
        match self._state:
            case _State.BEFORE:
                self._look_for_call()
            case _State.INSIDE:
                if not (self._is_certain and self._begins(news)):
                    self._read_call(news)
            case _State.ARGUMENTS:
                self._tell_arguments(news)
            case _State.CLOSING:
                self._close()
            case _State.BEHIND:
                self._look_behind()
            case _State.OVER:
                pass

    def _look_for_call(self) -> None:
        rest = self._text.lstrip()
        if not rest:
            return
        if not self._is_opened and rest[0] == "[":
            self._is_opened = True
            self._take(len(self._text) - len(rest) + 1)
        elif self._is_opened and rest[0] == "{":
            self._take(len(self._text) - len(rest))
            self._begin(_State.INSIDE)
        else:
            self._begin(_State.OVER)

    def _read_call(self, news: list[CallDelta]) -> None:
        end = self._span.find_depth(self._text, self._at, 0)
        if end is None:
            self._at = len(self._text)
            return
        call = self._parsed(self._text[:end])
        if call is None:
            self._begin(_State.OVER)
            return
        name, arguments = call
        news.append(CallDelta(index=self._index, name=name))
        news.append(CallDelta(index=self._index, arguments=arguments))
        self._finish_call(end)

    def _begins(self, news: list[CallDelta]) -> bool:
        """Tell of a call once its name and the first bracket of its arguments are there."""
        found = _BEGINNING.match(self._text)
        if found is None or found[1] not in self._names:
            return False
        news.append(CallDelta(index=self._index, name=found[1]))
        self._raw, self._text = "", self._text[found.end() :]
        self._begin(_State.ARGUMENTS)
        return True

    def _tell_arguments(self, news: list[CallDelta]) -> None:
        if not self._text:
            return
        end = self._span.find_depth(self._text, 0, 0)
        told = self._text[:end]
        news.append(CallDelta(index=self._index, arguments=told))
        self._text = self._text[len(told) :]
        if end is not None:
            self._begin(_State.CLOSING)

    def _close(self) -> None:
        """Pass over the call's own last bracket."""
        if rest := self._text.lstrip():
            self._finish_call(len(self._text) - len(rest) + 1)

    def _finish_call(self, end: int) -> None:
        self._raw, self._text = "", self._text[end:]
        self._index += 1
        self._begin(_State.BEHIND)

    def _begin(self, state: _State) -> None:
        self._state, self._span, self._at = state, ObjectSpan(), 0

    def _look_behind(self) -> None:
        """Read what closes a call, or announces another one."""
        rest = self._text.lstrip()
        match self._layout.kind:
            case "wrapped":
                if rest.startswith(self._layout.closing):
                    self._text = rest.removeprefix(self._layout.closing)
                elif self._layout.closing.startswith(rest):
                    return
                self._begin(_State.OVER)
            case "list":
                self._separate(rest, ",", end="]")
            case "bare":
                self._separate(rest, ";", end="")

    def _separate(self, rest: str, separator: str, *, end: str) -> None:
        if not rest:
            return
        if rest[0] == separator:
            self._take(len(self._text) - len(rest) + 1)
            self._begin(_State.BEFORE)
            return
        if rest[0] == end:
            self._text = rest[1:]
        self._begin(_State.OVER)

    def _take(self, end: int) -> None:
        self._raw, self._text = self._raw + self._text[:end], self._text[end:]

    def _parsed(self, text: str) -> tuple[str, str] | None:
        """Return name and arguments of a call of a known function."""
        try:
            call = msgspec.json.decode(text.encode(), type=_Call)
            given = bytes(call.arguments) or bytes(call.parameters) or b"{}"
            msgspec.json.decode(given, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        return (call.name, given.decode()) if call.name in self._names else None
