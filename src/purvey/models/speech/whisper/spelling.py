"""A part of a window as text with times: whole, or word by word."""

from collections.abc import Sequence
from dataclasses import dataclass

from purvey.models.speech.whisper.model import WhisperModel
from purvey.models.speech.whisper.segments import Part
from purvey.models.speech.words import is_wide


@dataclass(frozen=True, kw_only=True)
class Spelt:
    """Text as it is written, a space in front of it included, and its times."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Within:
    """A window's place in the recording; no time lies beyond its ends."""

    model: WhisperModel
    start_s: float
    end_s: float

    def moment(self, step: int | None) -> float:
        """Return the time of a step; the window's end where there is none."""
        if step is None:
            return self.end_s
        return min(self.start_s + step * self.model.step_s, self.end_s)

    def whole(self, part: Part) -> list[Spelt]:
        """Return a part as one text."""
        text = self.model.tokenizer.decode(part.ids)
        times = self.moment(part.first_step), self.moment(part.end_step)
        return [Spelt(text=text, start_s=times[0], end_s=times[1])] if text.strip() else []

    def spelt(self, part: Part, starts: Sequence[int]) -> list[Spelt]:
        """Return a part word by word: one begins with a space, or is a character of a wide script.

        Args:
            part: What was written.
            starts: The step at which each of its tokens begins, and that of its end.
        """
        stream = self.model.tokenizer.stream()
        found: list[Spelt] = []
        text, first = "", 0
        for place, number in enumerate(part.ids):
            piece = stream.push(number)
            if piece and text.strip() and (piece[0].isspace() or is_wide(piece[0])):
                found.append(self._from_to(text, starts[first], starts[place]))
                text, first = "", place
            text += piece
        text += stream.finish()
        if text.strip():
            found.append(self._from_to(text, starts[first], starts[-1]))
        return found

    def _from_to(self, text: str, first_step: int, end_step: int) -> Spelt:
        start_s, end_s = self.moment(first_step), self.moment(end_step)
        return Spelt(text=text, start_s=start_s, end_s=end_s)
