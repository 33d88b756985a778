"""Log-probabilities of given outputs: background work that reads and never writes.

Shape letters, this file only:
    R = positions   V = vocabulary
"""

import itertools
import threading
from collections.abc import Callable
from collections.abc import Sequence as Listed
from concurrent.futures import Future

from purvey.contracts.engine import Prompt, TextPrompt, TokenPrompt
from purvey.engine.adapters.roster import Adapter
from purvey.engine.core import Core
from purvey.engine.inbox import MAX_BACKGROUND, MAX_BACKGROUND_TOKENS
from purvey.engine.logits import SpanLogits
from purvey.engine.output.voice import Voice
from purvey.engine.request import Picture, Sequence
from purvey.engine.sampling import logprobs
from purvey.engine.work import EndReason
from purvey.errors import InvalidValueError, PurveyError

Pair = tuple[Prompt, TextPrompt | TokenPrompt]
EncodePair = Callable[[Pair, Voice | None], tuple[list[int], list[int]]]
_numbers = itertools.count()


class Scorer:
    """Submits pairs of prompt and output to the loop, behind everything interactive.

    Args:
        core: The loop.
        encode: Token ids of a pair's prompt and output, by somebody's voice (None: the base's);
            refuses what does not fit.
    """

    def __init__(self, core: Core, encode: EncodePair) -> None:
        self._core, self._encode = core, encode

    def submit(
        self, pairs: Listed[Pair], *, voice: Voice | None = None, salt: str = ""
    ) -> Future[list[list[float]]]:
        """Return the natural log-probability of every output token, per pair, when known.

        Cancelling the future frees what its pairs hold within one step.

        Args:
            pairs: Prompts and outputs.
            voice: Whose log-probabilities; the caller holds its adapter.
            salt: Only what came with the same is found in the cache.

        Raises:
            PurveyError: A pair is refused, or there are more than the engine ever holds; none
                of them was submitted.
            CapacityError: Too much background work waits; those submitted are cancelled.
        """
        encoded = [self._encode(pair, voice) for pair in pairs]
        return self.submit_encoded(
            encoded, adapter=None if voice is None else voice.adapter, salt=salt
        )

    def submit_encoded(
        self,
        pairs: Listed[tuple[list[int], list[int]]],
        *,
        adapter: Adapter | None = None,
        salt: str = "",
        pictures: Listed[Picture | None] = (),
    ) -> Future[list[list[float]]]:
        """As `submit`, of token ids; with `pictures`, what each prompt begins with."""
        if len(pairs) > MAX_BACKGROUND:  # waiting would not help: they are held together
            raise InvalidValueError(
                f"one request scores {len(pairs)} outputs; at most {MAX_BACKGROUND} can be held.",
                param="questions",
                hint="Split the request.",
            )
        num_tokens = sum(len(prompt) + len(output) for prompt, output in pairs)
        if num_tokens > MAX_BACKGROUND_TOKENS:
            raise InvalidValueError(
                f"one request scores {num_tokens} tokens; at most {MAX_BACKGROUND_TOKENS} "
                "can be held.",
                param="questions",
                hint="Split the request.",
            )
        seen = pictures or [None] * len(pairs)
        scores = [
            _Score(prompt, output, salt, adapter, picture)
            for (prompt, output), picture in zip(pairs, seen, strict=True)
        ]
        result = _Result(scores, self._core)
        try:
            for score in scores:
                score.result = result
                self._core.submit(score)
        except PurveyError:
            result.future.cancel()
            raise
        result.settle()
        return result.future


class _Score:
    """Work that reads prompt and output, and keeps the output's log-probabilities."""

    result: "_Result"

    def __init__(
        self,
        prompt: list[int],
        output: list[int],
        salt: str,
        adapter: Adapter | None,
        picture: Picture | None,
    ) -> None:
        assert prompt, "an output's first token needs a token before it"
        self._sequence = Sequence(
            request_id=f"score-{next(_numbers)}",
            tokens=[*prompt, *output],
            num_prompt=len(prompt) + len(output),
            max_new_tokens=0,
            prompt_logprobs_from=len(prompt),
            is_background=True,
            project=salt,
            salt=salt,
            adapter=adapter,
            picture=picture,
        )
        self.logprobs: list[float] = []

    @property
    def sequence(self) -> Sequence:
        return self._sequence

    def admit(self) -> None:
        pass

    def take(self, positions: range, logits: SpanLogits) -> EndReason | None:
        if len(positions):
            tokens = [self._sequence.tokens[p + 1] for p in positions]
            self.logprobs += [row.chosen for row in logprobs(logits.rows(), tokens, 0)]
        return None if self._sequence.num_pending else "length"

    def end(self, reason: EndReason) -> None:
        self.result.score_ended()

    def fail(self, error: PurveyError) -> None:
        self.result.fail(error)

    def cancel(self) -> None:
        self.result.future.cancel()


class _Result:
    """The scores of one submission, awaited together."""

    def __init__(self, scores: list[_Score], core: Core) -> None:
        self.future: Future[list[list[float]]] = Future()
        self._scores, self._core = scores, core
        self._num_open = len(scores) + 1  # one for `settle`: the last may end before all are in
        self._lock = threading.Lock()
        self._is_claimed = False
        self.future.add_done_callback(self._release)

    def settle(self) -> None:
        """Learn that all scores are submitted."""
        self.score_ended()

    def score_ended(self) -> None:
        """Learn that one more is done; the last one resolves the future."""
        with self._lock:
            self._num_open -= 1
            is_last = not self._num_open
        if is_last and self._claim():
            self.future.set_result([score.logprobs for score in self._scores])

    def fail(self, error: PurveyError) -> None:
        """End the submission in an error; the other scores are cancelled."""
        if self._claim():
            self.future.set_exception(error)

    def _claim(self) -> bool:
        """Return whether the caller may resolve the future: the first one, once."""
        with self._lock:
            is_first, self._is_claimed = not self._is_claimed, True
        return is_first and self.future.set_running_or_notify_cancel()

    def _release(self, future: Future[list[list[float]]]) -> None:
        if future.cancelled() or future.exception() is not None:
            for score in self._scores:
                self._core.cancel(score.sequence.request_id)
