"""How likely a language model finds each of several outputs after one prompt."""

import math
from collections.abc import Sequence

from purvey.contracts.engine import ChatPrompt, EngineClient, Prompt, Score, TextPrompt, TokenPrompt
from purvey.server.metering import Tally

MESSAGE_CHARS = 8 * 2**20
"""Characters, and bytes of images, of one message to an engine, as far as one prompt allows.

Every output goes there with the whole prompt."""


async def likelihoods(
    engine: EngineClient,
    prompt: Prompt,
    outputs: Sequence[str],
    *,
    request_id: str,
    salt: str,
    tally: Tally,
) -> list[float]:
    """Return the probability of each output among all of them, and count the prompt's tokens.

    Args:
        engine: A language model.
        prompt: What stands before each output.
        outputs: At least one text.
        request_id: Beginning of the ids of the messages.
        salt: The project.
        tally: What the request has used so far.

    Raises:
        PurveyError: Whatever the engine refuses it for.
    """
    longest = _num_chars(prompt) + max(map(len, outputs))
    at_once = max(1, MESSAGE_CHARS // max(1, longest))
    totals: list[float] = []
    for start in range(0, len(outputs), at_once):
        pairs = tuple((prompt, TextPrompt(text=o)) for o in outputs[start : start + at_once])
        request = Score(request_id=f"{request_id}-{start}", pairs=pairs, salt=salt)
        scored = await engine.score(request)
        tally.input_tokens += scored.prompt_tokens
        totals += [sum(tokens) for tokens in scored.logprobs]
    return softmax(totals)


def _num_chars(prompt: Prompt) -> int:
    match prompt:
        case ChatPrompt(messages=messages, images=images):
            given = sum(len(image.data) for image in images)
            return given + sum(len(message.content) for message in messages)
        case TextPrompt(text=text):
            return len(text)
        case TokenPrompt(tokens=tokens):
            return len(tokens)


def softmax(values: Sequence[float]) -> list[float]:
    """Return probabilities that sum to 1 from logits, or from log-probabilities."""
    highest = max(values)
    weights = [math.exp(value - highest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
