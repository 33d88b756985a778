"""Structured output: which tokens may come next so that the whole output obeys a grammar.

The grammar works on bytes, as tokens do, and what a special token is called is never text. End
tokens are allowed where the grammar accepts, and nowhere else.

Shape letters, this file only:
    V = vocabulary
"""

import math
import threading
from collections.abc import Iterable

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from purvey.contracts.sampling import Grammar, param_of
from purvey.errors import InvalidValueError
from purvey.models.tokenizer import Tokenizer
from purvey.parse.grammars import GRAMMAR_LIMITS, refusal, source_of
from purvey.parse.parser import PARSER


class Grammars:
    """The grammars of one model. Safe in any thread.

    Args:
        tokenizer: The model's tokenizer.
        stop_ids: Tokens that end an output.
        vocabulary_size: Logits of one position; those beyond the tokenizer's are no tokens.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop_ids: frozenset[int], vocabulary_size: int
    ) -> None:
        self._tokenizer, self._vocabulary_size = tokenizer, vocabulary_size
        self._stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64)
        self._special_ids = sorted({*tokenizer.special_tokens.values(), *stop_ids})
        self._built: LLTokenizer | None = None
        self._lock = threading.Lock()

    def guide(self, grammar: Grammar) -> "Guide":
        """Compile a grammar for one output; may take a second, so never call it from the loop.

        Raises:
            InvalidSchemaError: It has no meaning, allows nothing, or takes too much to compile.
        """
        PARSER.check_grammar(grammar)
        source = source_of(grammar, special_tokens=self._tokenizer.special_tokens)
        matcher = LLMatcher(self._vocabulary(), source, log_level=0, limits=GRAMMAR_LIMITS)
        can_begin = any(matcher.compute_logit_bias()) or matcher.is_accepting()
        wrong = matcher.get_error()
        if wrong.startswith("NoExtension") or not (wrong or can_begin):
            raise refusal(grammar, "nothing satisfies it")
        if wrong:
            raise refusal(grammar, wrong)
        return Guide(
            matcher,
            stop_ids=self._stop_ids,
            vocabulary_size=self._vocabulary_size,
            param=param_of(grammar),
        )

    def _vocabulary(self) -> LLTokenizer:
        """Return the tokens as the library wants them, made at the first call."""
        with self._lock:
            if self._built is None:
                spelled = _Spelled(self._tokenizer, self._special_ids, self._vocabulary_size)
                self._built = LLTokenizer(
                    spelled,  # type: ignore[arg-type]  # what its `TokenizerWrapper` has, and no more
                    n_vocab=self._vocabulary_size + 1,
                    eos_token=[spelled.eos_token_id],
                )
            return self._built


class Guide:
    """Where one output stands in its grammar.

    Args:
        matcher: At the grammar's beginning; nobody else uses it.
        stop_ids: Tokens that end an output (int64).
        vocabulary_size: Logits of one position.
        param: What a refusal names.
    """

    def __init__(
        self, matcher: LLMatcher, *, stop_ids: Tensor, vocabulary_size: int, param: str
    ) -> None:
        self._matcher, self._stop_ids = matcher, stop_ids
        self._vocabulary_size, self._param = vocabulary_size, param

    @property
    def is_complete(self) -> bool:
        """Whether the output obeys the grammar and nothing can be added to it."""
        return self._matcher.is_stopped() and self._matcher.is_accepting()

    def restrict(self, logits_V: Tensor) -> Tensor:
        """Return the logits with `-inf` for every token that may not come next.

        Raises:
            InvalidValueError: The grammar has become too complex to go on.
        """
        told = self._matcher.compute_logit_bias()
        self._check()
        is_allowed_V = torch.frombuffer(bytearray(told), dtype=torch.uint8).bool()
        is_allowed_V = is_allowed_V[: self._vocabulary_size]
        is_allowed_V[self._stop_ids] = self._matcher.is_accepting()
        return logits_V.masked_fill(~is_allowed_V, -math.inf)

    def take(self, token_id: int) -> None:
        """Go on behind a token that was allowed, and is no end token.

        Raises:
            InvalidValueError: The grammar has become too complex to go on.
        """
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            message = "the grammar has become too complex on the way."
            raise InvalidValueError(message, param=self._param, hint="Make it simpler.")


class _Spelled:
    """A tokenizer as the library reads it: every token's bytes, and how text is usually cut.

    The library wants an end token; it gets one behind the vocabulary, which is never chosen.
    """

    bos_token_id = None
    is_tokenizer_wrapper = True

    def __init__(
        self, tokenizer: Tokenizer, special_ids: Iterable[int], vocabulary_size: int
    ) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = vocabulary_size
        self.tokens = [tokenizer.token_bytes(i) for i in range(vocabulary_size)] + [b""]
        self.special_token_ids = [*special_ids, vocabulary_size]

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the ids of text that follows other text."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        return self._tokenizer.encode(text, is_continuation=True)
