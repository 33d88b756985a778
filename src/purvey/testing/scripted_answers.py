"""What a scripted engine says: pure functions of the request, so that a test can predict them.

A token is one character and its id is the character's code point, which makes counting,
stopping and decoding plain to see in a test.
"""

import hashlib
import math
import re
import struct
import zlib

import msgspec

from purvey.contracts.engine import (
    AudioInput,
    ChatPrompt,
    ImageInput,
    NamedInputs,
    NumberInput,
    PlainInput,
    Prompt,
    TextInput,
    TextPrompt,
    TokenLogprob,
)
from purvey.contracts.explain import (
    Curves,
    ExplanationCost,
    ExplanationRequest,
    ExplanationResult,
    ExplanationTarget,
    Faithfulness,
    RandomGap,
    Unit,
)
from purvey.errors import InvalidValueError

LIKELY, UNLIKELY = math.log(0.8), math.log(0.1)
"""Log-probability of a chosen token, and of one that the prompt does not hold."""


def rendered(prompt: Prompt) -> str:
    """Return the prompt as the text that is counted: turns as `role: content` lines.

    An image is a line before them, of 17 characters.

    Raises:
        InvalidValueError: A token id is no character's.
    """
    match prompt:
        case ChatPrompt(messages=messages, images=images):
            seen = (f"<image {zlib.crc32(image.data):08x}>\n" for image in images)
            return "".join((*seen, *(f"{m.role}: {m.content}\n" for m in messages)))
        case TextPrompt(text=text):
            return text
        case _:
            if not all(token < 0xD800 or 0xE000 <= token < 0x110000 for token in prompt.tokens):
                raise InvalidValueError("a token id is not in the vocabulary.", param="prompt")
            return "".join(chr(token) for token in prompt.tokens)


def without_images(prompt: Prompt) -> Prompt:
    """Return the prompt without what stands before a conversation."""
    if isinstance(prompt, ChatPrompt):
        return msgspec.structs.replace(prompt, images=())
    return prompt


def echo(prompt: Prompt) -> str:
    """Return the answer to a prompt: the last turn, or the text itself, said again."""
    if isinstance(prompt, ChatPrompt):
        return prompt.messages[-1].content if prompt.messages else ""
    return rendered(prompt)


def token_logprob(character: str, num_alternatives: int) -> TokenLogprob:
    """Return one output token with its alternatives, the chosen one first."""
    others = (chr(ord("a") + i) for i in range(26))
    choices = [character, *(c for c in others if c != character)][:num_alternatives]
    return TokenLogprob(
        token_id=ord(character),
        text=character,
        data=character.encode(),
        logprob=LIKELY,
        alternatives=tuple(
            TokenLogprob(token_id=ord(c), text=c, data=c.encode(), logprob=LIKELY - 2.0 * rank)
            for rank, c in enumerate(choices)
        ),
    )


def score(prompt: str, output: str) -> tuple[float, ...]:
    """Return log-probabilities of the output's characters: high for those the prompt holds."""
    return tuple(LIKELY if c in prompt else UNLIKELY for c in output)


def probabilities(inputs: NamedInputs, labels: tuple[str, ...]) -> tuple[float, ...]:
    """Return class probabilities: 0.9 for a label that the text names, else one by digest."""
    text = " ".join(i.text for i in inputs.values() if isinstance(i, TextInput)).casefold()
    named = [i for i, label in enumerate(labels) if label.casefold() in text]
    digest = hashlib.sha256(b"\0".join(_content(i) for i in inputs.values())).digest()
    chosen = named[0] if named else int.from_bytes(digest[:4], "big") % len(labels)
    if len(labels) == 1:
        return (1.0,)
    rest = 0.1 / (len(labels) - 1)
    return tuple(0.9 if i == chosen else rest for i in range(len(labels)))


def score_of(inputs: NamedInputs) -> float:
    """Return a score: the sum of the numbers, and one for each character of the texts."""
    plain = inputs.values()
    numbers = sum(i.value for i in plain if isinstance(i, NumberInput))
    return numbers + sum(len(i.text) for i in plain if isinstance(i, TextInput))


def _content(item: PlainInput) -> bytes:
    match item:
        case TextInput(text=text):
            return text.encode()
        case ImageInput(data=data) | AudioInput(data=data):
            return data
        case NumberInput(value=value):
            return struct.pack(">d", value)


def explanation(request: ExplanationRequest, labels: tuple[str, ...]) -> ExplanationResult:
    """Return an attribution whose first unit matters most; the shape of a real one."""
    is_image = request.image is not None
    units = _patches() if is_image else _words(request)
    label = request.label or (labels[0] if labels else None)
    return ExplanationResult(
        task=(
            "image-classification"
            if is_image
            else "text-classification"
            if labels
            else "text-generation"
        ),
        method="occlusion" if is_image else "leave_one_out",
        target=ExplanationTarget(
            kind="label" if labels else "sequence",
            value_full=-0.1,
            value_empty=-3.1,
            unit="logprob" if request.contrast is None else "logprob_difference",
            text=None if labels else (request.output or "echo"),
            label=label if labels else None,
            contrast=request.contrast,
        ),
        units=units,
        faithfulness=_faithfulness(request),
        cost=ExplanationCost(forwards=min(request.max_forwards, 2 + len(units)), compute_s=0.01),
        picture_png=tiny_png() if is_image and request.wants_picture else None,
    )


def _words(request: ExplanationRequest) -> tuple[Unit, ...]:
    turns = [m.content for m in request.messages] if request.messages else [request.text or ""]
    found = [(turn, m) for turn, text in enumerate(turns) for m in re.finditer(r"\S+", text)]
    return tuple(
        Unit(
            id=i,
            kind="word",
            modality="text",
            score=3.0 * 0.5 ** (i + 1),
            rank=i + 1,
            text=match.group(),
            char=match.span(),
            turn=turn if request.messages else None,
        )
        for i, (turn, match) in enumerate(found)
    )


def _patches() -> tuple[Unit, ...]:
    corners = [(0, 0), (4, 0), (0, 4), (4, 4)]
    return tuple(
        Unit(
            id=i,
            kind="patch",
            modality="image",
            score=3.0 * 0.5 ** (i + 1),
            rank=i + 1,
            box=(left, top, left + 4, top + 4),
        )
        for i, (left, top) in enumerate(corners)
    )


def _faithfulness(request: ExplanationRequest) -> Faithfulness:
    num_points = request.curve_points
    return Faithfulness(
        score=0.8,
        gap=0.6,
        random_gap=RandomGap(mean=0.0, sd=0.1, n=request.random_orders),
        p_value=1 / (request.random_orders + 1),
        comprehensiveness=0.7,
        sufficiency_loss=0.1,
        completeness_error=0.05,
        verdict="faithful",
        perturbation="mean" if request.image is not None else "delete",
        curves=Curves(
            k=tuple(range(num_points)),
            deletion=tuple(-0.1 - 3.0 * i / (num_points - 1) for i in range(num_points)),
            insertion=tuple(-3.1 + 3.0 * i / (num_points - 1) for i in range(num_points)),
        ),
    )


def tiny_png() -> bytes:
    """Return a valid 8x8 grey PNG."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(0, 128, 16)) for _ in range(8))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
