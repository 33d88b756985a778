"""An answer's text as it arrives, told apart into reasoning, content and calls.

Nothing is lost: what is announced as a call and is none comes out as content. Only marks, and
blanks beside them, are left out.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from purvey.contracts.chat.tools import CallDelta
from purvey.contracts.sampling import CallLayout
from purvey.models.answer.calls import Calls
from purvey.models.answer.layouts import THINKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(kw_only=True)
class Said:
    """What new text says: reasoning first, then content, then calls."""

    reasoning: str = ""
    content: str = ""
    calls: list[CallDelta] = field(default_factory=list)

    def __add__(self, later: "Said") -> "Said":
        """Return both."""
        return Said(
            reasoning=self.reasoning + later.reasoning,
            content=self.content + later.content,
            calls=self.calls + later.calls,
        )


@dataclass(frozen=True, kw_only=True)
class CallRules:
    """Which calls are looked for.

    Args:
        layout: How they are written.
        names: Functions that there are.
        is_certain: As for `Calls`.
        max_calls: Calls after which the answer is over, or None.
    """

    layout: CallLayout
    names: frozenset[str]
    is_certain: bool = False
    max_calls: int | None = None


class AnswerReader:
    """Reads one answer.

    Args:
        rules: Calls that are looked for; None for none.
        marks_reasoning: Whether reasoning is looked for.
        is_reasoning: Whether the prompt has begun it.
    """

    def __init__(
        self, *, rules: CallRules | None, marks_reasoning: bool, is_reasoning: bool = False
    ) -> None:
        self._rules, self._held = rules, ""
        self._read: Callable[[Said], bool]
        if marks_reasoning:
            self._read = self._reason if is_reasoning else self._begin
        else:
            self._read = self._speak
        self._calls: Calls | None = None
        self._num_calls = 0
        self._is_fresh = True  # no content yet since the beginning, reasoning, or a call
        self._drops_blanks = is_reasoning
        self.is_done = False
        """Whether the last call that may be made was made; nothing is told after it."""

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._read == self._reason

    def push(self, text: str) -> Said:
        """Take text and return what may be told of it."""
        said = Said()
        self._held += text
        while not self.is_done and self._read(said):
            pass
        return said

    def finish(self) -> Said:
        """Return the rest."""
        said = Said()
        if self.is_done:
            return said
        if self._calls is not None:
            self._leave_calls(self._calls, said)
            self._finish_speech(said)
        elif self.is_reasoning:
            said.reasoning += self._held
        else:
            self._finish_speech(said)
        self._held = ""
        return said

    def _finish_speech(self, said: Said) -> None:
        is_dropped = self._is_fresh and self._drops_blanks
        said.content += self._held.lstrip() if is_dropped else self._held

    # Each returns whether there is more to be read of what is held ----------------------------

    def _begin(self, said: Said) -> bool:
        rest = self._held.lstrip()
        if rest.startswith(THINKING[0]):
            self._held, self._read = rest.removeprefix(THINKING[0]), self._reason
            self._drops_blanks = True
            return True
        if THINKING[0].startswith(rest):
            return False
        self._read = self._speak
        return True

    def _reason(self, said: Said) -> bool:
        if self._drops_blanks:
            self._held = self._held.lstrip()
            self._drops_blanks = not self._held
        reasoning, mark, rest = self._held.partition(THINKING[1])
        if mark:
            said.reasoning += reasoning.rstrip()
            self._held, self._read, self._drops_blanks = rest, self._speak, True
            return True
        kept = self._held[: len(self._held) - _num_suspect(self._held, THINKING[1])].rstrip()
        said.reasoning += kept
        self._held = self._held[len(kept) :]
        return False

    def _speak(self, said: Said) -> bool:
        if self._is_fresh:
            rest = self._held.lstrip()
            if not rest:
                return False
            if self._drops_blanks:
                self._held = rest
            if self._rules and self._rules.layout.kind == "bare" and rest[0] == "{":
                self._enter_calls(self._rules, self._held[: len(self._held) - len(rest)], rest)
                return True
        if self._rules is None:
            self._say(self._held, said)
            self._held = ""
            return False
        content, trigger, rest = self._held.partition(self._rules.layout.trigger)
        if trigger:
            if self._is_fresh and not content.strip():
                trigger = content + trigger
            else:
                self._say(content, said)
            self._enter_calls(self._rules, trigger, rest)
            return True
        num_kept = len(self._held) - _num_suspect(self._held, self._rules.layout.trigger)
        kept = self._held[:num_kept]
        if kept and not (self._is_fresh and not kept.strip()):
            self._say(kept, said)
            self._held = self._held[num_kept:]
        return False

    def _read_calls(self, said: Said) -> bool:
        assert self._calls is not None, "calls are read in a stretch of calls"
        assert self._rules is not None, "calls are looked for by rules"
        text, self._held = self._held, ""
        said.calls += self._calls.push(text, max_calls=self._rules.max_calls)
        if self._rules.max_calls == self._calls.num_calls:
            self.is_done = True
        elif self._calls.is_over:
            self._leave_calls(self._calls, said)
            return True
        return False

    def _enter_calls(self, rules: CallRules, raw: str, rest: str) -> None:
        self._calls = Calls(
            rules.layout,
            rules.names,
            first_index=self._num_calls,
            is_certain=rules.is_certain,
            raw=raw,
        )
        self._held, self._read = rest, self._read_calls

    def _leave_calls(self, calls: Calls, said: Said) -> None:
        """Go on with content, first with what was announced as a call and is none."""
        has_called = calls.num_calls > self._num_calls
        self._num_calls, self._calls, self._read = calls.num_calls, None, self._speak
        raw, self._held = calls.take_raw(), calls.take_rest()
        self._is_fresh = self._drops_blanks = has_called
        self._say(raw, said)

    def _say(self, text: str, said: Said) -> None:
        said.content += text
        if text:
            self._is_fresh = self._drops_blanks = False


def _num_suspect(text: str, mark: str) -> int:
    """Length of the longest end of a text that begins a mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0
