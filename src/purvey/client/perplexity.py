"""How well a served model foresees a text, asked of it window by window.

exp(-mean log-probability of every token given those before it in its window). It is what a
precision costs when two are compared on one text: windows do not overlap, and each begins anew.
"""

import math
from dataclasses import dataclass

from purvey.client.transport import Json, Transport
from purvey.client.values import Answer
from purvey.errors import InvalidValueError

WINDOW_TOKENS = 512
_LEAST_TOKENS = 2


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """A measurement: `num_tokens` were foreseen, in windows of `window_tokens`."""

    value: float
    num_tokens: int
    window_tokens: int


def measure(transport: Transport, model: str, text: str) -> Perplexity:
    """Return a language model's perplexity on a text.

    Raises:
        InvalidValueError: The text has fewer than two tokens.
        PurveyError: The server refuses the model or the text.
    """
    body: Json = {"model": model, "prompt": text}
    found = transport.post("/v1/tokenize", _Tokenized, body=body)
    tokens = found.tokens
    window = max(_LEAST_TOKENS, min(WINDOW_TOKENS, found.max_model_len - 1))
    starts = range(0, len(tokens) - _LEAST_TOKENS + 1, window)
    if not starts:
        raise InvalidValueError("the text has fewer than two tokens.", param="text")
    scored = [_logprobs(transport, model, tokens[start : start + window]) for start in starts]
    logprobs = [logprob for window_logprobs in scored for logprob in window_logprobs]
    return Perplexity(
        value=math.exp(-math.fsum(logprobs) / len(logprobs)),
        num_tokens=len(logprobs),
        window_tokens=window,
    )


class _Tokenized(Answer, frozen=True, kw_only=True):
    tokens: list[int]
    max_model_len: int


class _Logprobs(Answer, frozen=True, kw_only=True):
    token_logprobs: list[float]


class _Choice(Answer, frozen=True, kw_only=True):
    logprobs: _Logprobs


class _Completion(Answer, frozen=True, kw_only=True):
    choices: list[_Choice]


def _logprobs(transport: Transport, model: str, tokens: list[int]) -> list[float]:
    """Return the log-probability of each token but the first, before which there is nothing."""
    body: Json = {
        "model": model,
        "prompt": tokens,
        "max_tokens": 1,
        "temperature": 0,
        "echo": True,
        "logprobs": 0,
    }
    answer = transport.post("/v1/completions", _Completion, body=body)
    return answer.choices[0].logprobs.token_logprobs[1 : len(tokens)]
