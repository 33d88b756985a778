"""Log-probabilities of tokens, in the two shapes that OpenAI has for them."""

from collections.abc import Iterable

from typing_extensions import TypedDict

from purvey.contracts.engine import TokenLogprob


class TopLogprob(TypedDict):
    """An alternative to a token."""

    token: str
    bytes: list[int]
    logprob: float


class ChatTokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log-probabilities of an answer, token by token."""

    content: list[ChatTokenLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    """Log-probabilities of a completion; the lists are aligned.

    `text_offset` counts characters from the start of the prompt when it is echoed, else from
    the start of the output.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> ChatLogprobs:
    """Show tokens as chat answers do."""
    content: list[ChatTokenLogprob] = [
        {**_top(token), "top_logprobs": [_top(other) for other in token.alternatives]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Iterable[TokenLogprob], *, start: int = 0, has_alternatives: bool
) -> CompletionLogprobs:
    """Show tokens as completions do.

    Args:
        tokens: The tokens.
        start: Characters that precede the first one.
        has_alternatives: Whether alternatives were asked for.
    """
    listed = list(tokens)
    offsets: list[int] = []
    for token in listed:
        offsets.append(start)
        start += len(token.text)
    tops = [{other.text: other.logprob for other in token.alternatives} for token in listed]
    return {
        "tokens": [token.text for token in listed],
        "token_logprobs": [token.logprob for token in listed],
        "top_logprobs": tops if has_alternatives else None,
        "text_offset": offsets,
    }


def _top(token: TokenLogprob) -> TopLogprob:
    return {"token": token.text, "bytes": list(token.data), "logprob": token.logprob}
