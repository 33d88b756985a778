"""From a recording to its segments, window by window, each from where the last was understood.

Shape letters, this file only:
    N = samples
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from torch import Tensor

from purvey.contracts.speech.transcription import Word
from purvey.errors import InvalidValueError
from purvey.models.speech.asked import Asked, Compute, HeardPart
from purvey.models.speech.tape import Tape
from purvey.models.speech.whisper.aligning import token_steps
from purvey.models.speech.whisper.decoding import decode, likeliest_language
from purvey.models.speech.whisper.model import WhisperModel
from purvey.models.speech.whisper.segments import Divided, Part, divided
from purvey.models.speech.whisper.spelling import Within
from purvey.models.speech.windows import Read, pieces

_SILENT_PROBABILITY, _SILENT_LOGPROB = 0.6, -1.0
"""Nobody speaks where that is this probable and what is written is less (section 4.5)."""
_LEAST_S = 0.1
"""What is left at an end, and shorter, is not heard."""
_LEAST_ADVANCE_S = 1.0
"""A window that is understood no further begins the next one there all the same."""


def hear_windows(
    model: WhisperModel, read: Read, asked: Asked, compute: Compute
) -> Iterator[HeardPart]:
    """Yield the segments of a recording as windows are understood.

    Args:
        model: What hears.
        read: Decodes a part of the recording.
        asked: What is wanted of it.
        compute: Runs what takes long.

    Raises:
        InvalidValueError: It is empty, or cannot be decoded.
    """
    hearing = _Hearing(model, asked)
    tape = Tape(pieces(read, sample_rate_hz=model.spec.sample_rate_hz))
    while len(samples_N := tape.window(model.window_samples)):
        if tape.num_passed and len(samples_N) < _LEAST_S * model.spec.sample_rate_hz:
            return
        yield hearing.part(tape, samples_N, compute)
    if not tape.num_passed:
        raise InvalidValueError("the recording is empty.", param="file")


@dataclass(frozen=True, kw_only=True)
class _Understood:
    """A window: its parts, and of the tokens of their texts the steps at which each begins.

    `starts` has one more than there are tokens, for the end of the last; it is empty where words
    are not asked for.
    """

    cut: Divided
    starts: Sequence[int]


_SILENCE = _Understood(cut=Divided(parts=(), next_step=None), starts=())


class _Hearing:
    """One recording being heard: the language that it is taken for, and segments so far."""

    def __init__(self, model: WhisperModel, asked: Asked) -> None:
        self._model, self._asked = model, asked
        self._language = asked.language or model.language
        self._prompt = _prompt_ids(model, asked.prompt)
        self._num_segments = 0

    def part(self, tape: Tape, samples_N: Tensor, compute: Compute) -> HeardPart:
        """Hear a window, and move the tape to where the next begins."""
        model, rate_hz = self._model, self._model.spec.sample_rate_hz
        start_s, num_samples = tape.num_passed / rate_hz, len(samples_N)
        found = compute(lambda: self._understood(samples_N)) if samples_N.any() else _SILENCE
        within = Within(model=model, start_s=start_s, end_s=start_s + num_samples / rate_hz)
        words: list[Word] = []
        num_tokens = 0
        for part in found.cut.parts:
            starts = found.starts[num_tokens : num_tokens + len(part.ids) + 1]
            num_tokens += len(part.ids)
            words += self._told(within, part, starts)
        passed = num_samples
        if found.cut.next_step is not None:
            passed_s = max(_LEAST_ADVANCE_S, found.cut.next_step * model.step_s)
            passed = min(num_samples, round(passed_s * rate_hz))
        tape.skip(passed)
        return HeardPart(words=words, language=self._language)

    def _understood(self, samples_N: Tensor) -> _Understood:
        model, tokens = self._model, self._model.tokens
        states_1SD = model.states(samples_N)
        if self._language is None and tokens.languages:
            self._language = likeliest_language(model.network, states_1SD, tokens)
        prefix = tokens.prefix(self._language, self._asked.task)
        found = decode(model.network, states_1SD, [*self._prompt, *prefix], tokens)
        if found.no_speech > _SILENT_PROBABILITY and found.mean_logprob < _SILENT_LOGPROB:
            return _SILENCE
        cut = divided(found, first_moment=tokens.first_moment)
        if not self._asked.has_words or not cut.parts:
            return _Understood(cut=cut, starts=())
        num_steps = ceil(len(samples_N) / model.spec.sample_rate_hz / model.step_s)
        ids = [number for part in cut.parts for number in part.ids]
        starts = token_steps(model.network, states_1SD, prefix, ids, tokens, num_steps=num_steps)
        return _Understood(cut=cut, starts=starts)

    def _told(self, within: Within, part: Part, starts: Sequence[int]) -> list[Word]:
        """Return a segment, or its words where they are asked for; nothing where it has no text."""
        spelt = within.spelt(part, starts) if starts else within.whole(part)
        if not spelt:
            return []
        number, self._num_segments = self._num_segments, self._num_segments + 1
        return [
            Word(
                text=one.text.strip(),
                start_s=one.start_s,
                end_s=max(one.start_s, one.end_s),
                logprob=part.logprob,
                is_apart=(number > 0 or place > 0) and one.text[0].isspace(),
                segment=number,
            )
            for place, one in enumerate(spelt)
        ]


def _prompt_ids(model: WhisperModel, prompt: str) -> list[int]:
    """Return what stands before every window's output: the end of a prompt, if there is one."""
    if not prompt.strip() or model.tokens.previous is None:
        return []
    room = int(model.network.config.max_target_positions) // 2 - 1
    ids = model.tokenizer.encode(f" {prompt.strip()}")
    return [model.tokens.previous, *ids[-room:]]
