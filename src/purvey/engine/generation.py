"""One generation: chooses tokens, turns them into text, and says so.

Shape letters, this file only:
    R = positions   V = vocabulary
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from purvey.contracts.engine import Delta, Finished, Refused, Started, TokenLogprob
from purvey.engine.logits import SpanLogits
from purvey.engine.output.grammar import Guide
from purvey.engine.output.text_output import TextOutput
from purvey.engine.request import Sequence
from purvey.engine.sampling import Adjustment, RowLogprobs, checked, choose, logprobs
from purvey.engine.work import EndReason
from purvey.errors import PurveyError
from purvey.models.answer.reader import AnswerReader, Said
from purvey.models.tokenizer import Tokenizer

Reply = Callable[[Started | Delta | Finished | Refused], None]


@dataclass(frozen=True, kw_only=True)
class _HeldToken:
    """A token whose log-probability waits for its text, characters `start` to `end`."""

    token: TokenLogprob
    start: int
    end: int


class Generation:
    """Work that answers with `Started`, `Delta`s, then `Finished` or `Refused`.

    A token's log-probability is sent with the text that the token completes. Tokens that
    stand wholly inside a stop string, and the end token, are counted but not shown.

    Args:
        sequence: The prompt, its limits and its sampling.
        tokenizer: Turns tokens into text.
        stop_ids: Tokens that end the output.
        reply: Where answers go; must not block for long.
        echo: The prompt's text when it is to be shown before the output, else None.
        guide: What the output must look like, if anything.
        reader: Tells reasoning, content and calls apart, if there are to be any.
        marks: Special tokens that the reader looks for.
    """

    def __init__(
        self,
        sequence: Sequence,
        *,
        tokenizer: Tokenizer,
        stop_ids: frozenset[int],
        reply: Reply,
        echo: str | None = None,
        guide: Guide | None = None,
        reader: AnswerReader | None = None,
        marks: tuple[str, ...] = (),
    ) -> None:
        self._sequence, self._tokenizer, self._stop_ids = sequence, tokenizer, stop_ids
        self._reply, self._echo, self._guide = reply, echo, guide
        sampling = sequence.sampling
        self._num_logprobs = sampling.num_logprobs
        prompt = sequence.tokens[sequence.num_pictured : sequence.num_prompt]
        self._output = TextOutput(tokenizer.stream(after=prompt, shown=marks), sampling.stop)
        self._reader = reader
        needed = Adjustment.is_needed(sampling)
        self._adjustment = Adjustment(sampling, prompt) if needed else None
        self._prompt_logprobs: list[RowLogprobs] = []
        self._held: deque[_HeldToken] = deque()
        self._num_unsent = 0
        self._num_reasoning = 0

    @property
    def sequence(self) -> Sequence:
        """Its tokens and blocks."""
        return self._sequence

    def admit(self) -> None:
        """Tell that the prompt is admitted."""
        sequence = self._sequence
        self._reply(
            Started(
                request_id=sequence.request_id,
                prompt_tokens=sequence.num_prompt,
                cached_tokens=sequence.num_reused,
            )
        )

    def take(self, positions: range, logits: SpanLogits) -> EndReason | None:
        """Note the prompt's log-probabilities; once it is read, choose the next token."""
        sequence = self._sequence
        num_prompt_rows = max(0, min(positions.stop, sequence.num_prompt - 1) - positions.start)
        if num_prompt_rows:
            tokens = [sequence.tokens[p + 1] for p in positions[:num_prompt_rows]]
            rows = logprobs(logits.rows()[:num_prompt_rows], tokens, self._num_logprobs or 0)
            self._prompt_logprobs += rows
        if sequence.num_pending:
            return None
        if self._echo is not None:
            self._send_echo(self._echo)
        if sequence.is_full:
            return "length"
        return self._extend(logits)

    def end(self, reason: EndReason) -> None:
        """Send what was held back, then how it ended."""
        text = self._output.finish()
        self._send(text, is_last=True)
        self._reply(
            Finished(
                request_id=self._sequence.request_id,
                reason="stop" if self._output.is_stopped else reason,
                prompt_tokens=self._sequence.num_prompt,
                completion_tokens=self._sequence.num_output,
                cached_tokens=self._sequence.num_reused,
                reasoning_tokens=self._num_reasoning,
            )
        )

    def fail(self, error: PurveyError) -> None:
        """Refuse the request."""
        self._reply(
            Refused(
                request_id=self._sequence.request_id,
                code=error.code,
                message=error.text,
                param=error.param,
            )
        )

    def cancel(self) -> None:
        """Say that it ended; who cancelled over the link listens no more and ignores it."""
        self._reply(
            Finished(
                request_id=self._sequence.request_id,
                reason="cancelled",
                prompt_tokens=self._sequence.num_prompt,
                completion_tokens=self._sequence.num_output,
                cached_tokens=self._sequence.num_reused,
            )
        )

    def _extend(self, logits: SpanLogits) -> EndReason | None:
        sequence = self._sequence
        if self._obeys():  # before its first token: only an empty output obeys
            return "stop"
        token_id = self._choose(logits)
        sequence.tokens.append(token_id)
        self._num_unsent += 1
        if token_id in self._stop_ids:
            return "stop"
        self._note(token_id)
        start = self._output.num_decoded
        self._num_reasoning += self._reader is not None and self._reader.is_reasoning
        text = self._output.push(token_id)
        if self._num_logprobs is not None:
            (row,) = logprobs(logits.rows()[-1:], [token_id], self._num_logprobs)
            token = self._named(token_id, row)
            self._held.append(_HeldToken(token=token, start=start, end=self._output.num_decoded))
        self._send(text)
        if self._obeys():
            return "stop"
        is_done = self._output.is_stopped or (self._reader is not None and self._reader.is_done)
        return "stop" if is_done else "length" if sequence.is_full else None

    def _obeys(self) -> bool:
        """Tell whether the output is all that its grammar allows."""
        return self._guide is not None and self._guide.is_complete

    def _choose(self, logits: SpanLogits) -> int:
        sampling = self._sequence.sampling
        if sampling.temperature == 0 and self._adjustment is None and self._guide is None:
            return checked(*logits.best())  # the rows may stay where they are
        logits_V = logits.rows()[-1]
        if self._adjustment is not None:
            logits_V = self._adjustment.apply(logits_V)
        if self._guide is not None:
            logits_V = self._guide.restrict(logits_V)
        return choose(logits_V, sampling, position=len(self._sequence.tokens))

    def _note(self, token_id: int) -> None:
        if self._adjustment is not None:
            self._adjustment.note(token_id)
        if self._guide is not None:
            self._guide.take(token_id)

    def _send(self, text: str, *, is_last: bool = False) -> None:
        tokens, said = self._release_tokens(is_last=is_last), self._read(text, is_last=is_last)
        if not (said.content or said.reasoning or said.calls or tokens):
            return
        self._reply(
            Delta(
                request_id=self._sequence.request_id,
                text=said.content,
                num_tokens=self._num_unsent,
                tokens=tokens,
                reasoning=said.reasoning,
                calls=tuple(said.calls),
            )
        )
        self._num_unsent = 0

    def _read(self, text: str, *, is_last: bool) -> Said:
        if self._reader is None:
            return Said(content=text)
        said = self._reader.push(text)
        return said + self._reader.finish() if is_last else said

    def _release_tokens(self, *, is_last: bool) -> tuple[TokenLogprob, ...]:
        num_released, is_stopped = self._output.num_released, self._output.is_stopped
        released: list[TokenLogprob] = []
        while self._held:
            held = self._held[0]
            is_shown = held.start < num_released if is_stopped else held.end <= num_released
            if not (is_shown or (is_last and not is_stopped)):
                break
            released.append(self._held.popleft().token)
        return tuple(released)

    def _send_echo(self, text: str) -> None:
        self._echo = None
        sequence = self._sequence
        tokens: tuple[TokenLogprob, ...] = ()
        if self._num_logprobs is not None:
            first, *rest = sequence.tokens[: sequence.num_prompt]
            unknown = RowLogprobs(chosen=0.0, alternatives=())  # nothing stands before it
            rows = zip(rest, self._prompt_logprobs, strict=True)
            tokens = (self._named(first, unknown), *(self._named(t, row) for t, row in rows))
        self._reply(Delta(request_id=sequence.request_id, text=text, num_tokens=0, tokens=tokens))

    def _named(self, token_id: int, row: RowLogprobs) -> TokenLogprob:
        alternatives = tuple(self._plain(i, p) for i, p in row.alternatives)
        return msgspec.structs.replace(self._plain(token_id, row.chosen), alternatives=alternatives)

    def _plain(self, token_id: int, logprob: float) -> TokenLogprob:
        data = self._tokenizer.token_bytes(token_id)
        text = data.decode("utf-8", errors="replace")
        return TokenLogprob(token_id=token_id, text=text, data=data, logprob=logprob)
