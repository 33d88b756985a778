"""What a scripted embedding model or cross-encoder says: pure functions of the texts.

A token is one character. Vectors come from a digest, an image's from that of its bytes; a pair
scores the share of the first text's words that the second holds.
"""

import hashlib
import math
import struct
from collections.abc import Sequence

from purvey.contracts.embedding import Embed, Embedded, Picture, Rank, Ranked
from purvey.contracts.engine import TokenPrompt
from purvey.errors import ContextLengthError, InvalidValueError
from purvey.testing.scripted_answers import rendered

VECTOR_SIZE = 8
COMPUTE_S = 0.001
SCALE = 10.0
"""What cosines with images are multiplied by."""


def vector(given: str | bytes, dimensions: int = VECTOR_SIZE) -> tuple[float, ...]:
    """Return a vector of length 1, up to the rounding of float32."""
    data = given if isinstance(given, bytes) else given.encode("utf-8", "replace")
    digest = hashlib.sha256(data).digest()
    numbers = [byte - 127.5 for byte in digest[:dimensions]]
    length = math.sqrt(sum(number**2 for number in numbers))
    return tuple(number / length for number in numbers)


def embedded(request: Embed, *, context_tokens: int) -> Embedded:
    """Answer a request for vectors.

    Raises:
        ContextLengthError: A text is longer than the context.
        InvalidValueError: A token id is no character's, or a vector has fewer numbers.
    """
    dimensions = request.dimensions or VECTOR_SIZE
    if dimensions > VECTOR_SIZE:
        raise InvalidValueError(f"vectors have {VECTOR_SIZE} numbers.", param="dimensions")
    named = list(zip(request.inputs, request.params, strict=True))
    said = [(_text(one, name), name) for one, name in named if not isinstance(one, Picture)]
    given, names = [text for text, _ in said], [name for _, name in said]
    texts = _fitted(given, names, context_tokens, request.truncate_tokens)
    left = iter(texts)
    ready = (one.data if isinstance(one, Picture) else next(left) for one in request.inputs)
    vectors = (struct.pack(f"<{dimensions}f", *vector(one, dimensions)) for one in ready)
    return Embedded(
        request_id=request.request_id,
        vectors=tuple(vectors),
        num_tokens=sum(map(len, texts)),
        compute_s=COMPUTE_S,
    )


def ranked(request: Rank, *, context_tokens: int) -> Ranked:
    """Answer a request for scores.

    Raises:
        ContextLengthError: A pair is longer than the context.
    """
    pairs = request.pairs()
    texts = [first.text + second.text for first, second in pairs]
    names = [second.param for _, second in pairs]
    fitted = _fitted(texts, names, context_tokens, request.truncate_tokens)
    return Ranked(
        request_id=request.request_id,
        scores=tuple(overlap(first.text, second.text) for first, second in pairs),
        num_tokens=sum(map(len, fitted)),
        compute_s=COMPUTE_S,
    )


def overlap(first: str, second: str) -> float:
    """Return the share of the first text's words that the second holds."""
    words = first.split()
    return sum(word in second.split() for word in words) / max(1, len(words))


def _text(given: str | tuple[int, ...], param: str) -> str:
    if isinstance(given, str):
        return given
    try:
        return rendered(TokenPrompt(tokens=given))
    except InvalidValueError as error:
        raise InvalidValueError(error.message, param=param) from None


def _fitted(
    texts: Sequence[str], params: Sequence[str], context_tokens: int, truncate_tokens: int | None
) -> list[str]:
    if truncate_tokens is not None and truncate_tokens > context_tokens:
        raise InvalidValueError(
            f"this model takes {context_tokens} tokens.", param="truncate_prompt_tokens"
        )
    cut = [text[:truncate_tokens] for text in texts]
    for text, param in zip(cut, params, strict=True):
        if len(text) > context_tokens:
            raise ContextLengthError(
                f"the text has {len(text)} tokens; this model takes {context_tokens}.", param=param
            )
    return cut
