"""`/v1/embeddings`: texts, token ids or images in, a vector of length 1 for each out."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Response
from pydantic import ConfigDict, Discriminator, Field, Tag
from typing_extensions import TypedDict

from purvey.contracts.embedding import Embed, Picture
from purvey.contracts.engine import EngineClient
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec
from purvey.contracts.records import ModelRecord
from purvey.errors import InvalidValueError, MethodUnsupportedError, UnsupportedValueError
from purvey.server.answers import as_json
from purvey.server.media import picture
from purvey.server.metering import metered
from purvey.server.native.inputs import BATCH_BYTES
from purvey.server.openai.sampling_fields import IGNORED
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.upstream.passing import PassedOn
from purvey.server.validation import FIRST_PROBLEM, Body

routes = Routes(tag="Embeddings")
_encode = msgspec.json.Encoder().encode
_BYTES_PER_FLOAT = 4

Text = Annotated[str, Field(min_length=1, max_length=LIMITS.prompt_chars)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[TokenId], Field(min_length=1), FIRST_PROBLEM]
Several = Field(min_length=1, max_length=LIMITS.embedding_inputs)
Truncate = Annotated[int, Field(ge=1, lt=2**31)] | Literal[-1] | None
TRUNCATE = (
    "Tokens that a text is cut to at its end, those that frame it included; -1 cuts to what the "
    "model takes. A text that is too long is refused unless this is given."
)


class Medium(Body):
    """An image, or a text, for a model that embeds both."""

    text: Text | None = None
    image: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="A base64 data URL, the id of a file or an https address."
    )


_SINGLE: dict[type[object], str] = {str: "text", dict: "medium", Medium: "medium"}
_SEVERAL: dict[type[object], str] = {
    str: "texts",
    int: "tokens",
    list: "lists of tokens",
    dict: "media",
    Medium: "media",
}
"""What an input is by its kind, and a list by that of its first item."""


def _kind(value: object) -> str | None:
    """Tell by its first item what a list holds; texts beside media are media, too."""
    if not isinstance(value, list):
        return _SINGLE.get(type(value))
    first: type[object] = type(value[0]) if value else str
    if first is str and any(isinstance(one, dict | Medium) for one in value):
        return "media"
    return _SEVERAL.get(first)


Input = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Several, FIRST_PROBLEM, Tag("texts")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], Several, FIRST_PROBLEM, Tag("lists of tokens")]
    | Annotated[Medium, Tag("medium")]
    | Annotated[list[Text | Medium], Several, FIRST_PROBLEM, Tag("media")],
    Discriminator(
        _kind,
        custom_error_type="embedding_input",
        custom_error_message="must be a text, a list of texts, a list of token ids, a list of "
        "such lists, {'image'}, or a list of these and texts; nothing else is embedded",
    ),
]
Embedded = str | tuple[int, ...] | Medium


class EmbeddingRequest(Body):
    """What to embed, and how the vectors come back."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"model": "minilm", "input": ["the cat sat", "a dog ran"]},
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Input = Field(
        description=f"Text, token ids, or a list of either, at most {LIMITS.embedding_inputs}; "
        "none of them empty. Token ids are taken as they are, without the model's frame. "
        "`{'image'}`, or a list of these and of texts, for a model that embeds both."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`base64` holds little-endian float32; numbers unless given."
    )
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None,
        description="Numbers of each vector; it is cut and given length 1 again. For models "
        "that were made for it (`is_matryoshka` in their `config.json`).",
    )
    truncate_prompt_tokens: Truncate = Field(None, description=TRUNCATE)
    user: str | None = Field(None, description=IGNORED)


class Embedding(TypedDict):
    """One vector: numbers, or base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class InputUsage(TypedDict):
    """Tokens of a request without output."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """The vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: InputUsage


EXAMPLE: dict[str, Any] = {  # JSON values
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8, 0.0]}],
    "model": "minilm",
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
}


@routes.add(
    "POST",
    "/v1/embeddings",
    scope="inference",
    returns=Embeddings,
    example=EXAMPLE,
    elsewhere=PassedOn(path="embeddings", kind="embedding", task="embedding"),
)
async def create(call: Caller, body: EmbeddingRequest) -> Response:
    """Turn texts, and images for a model that embeds both, into vectors.

    Every vector has length 1, so that the product of two is their cosine. A vector does not
    depend on what is embedded beside it, to the last bit. Images have no tokens to be counted.
    """
    inputs, params = _inputs(body.input)
    return await while_present(call.request, _embedded(call, body, inputs, params))


async def _embedded(
    call: Call, body: EmbeddingRequest, inputs: Sequence[Embedded], params: Sequence[str]
) -> Response:
    vectors: list[bytes] = []
    async with (
        call.services.engines.use(call.project_id, body.model) as (record, engine),
        metered(call, kind="embedding", model=record.name) as tally,
    ):
        check_embeds(engine, record)
        _check_seen(engine, record, inputs, params)
        async for batch in _batches(call, inputs, params):
            answer = await engine.embed(
                Embed(
                    request_id=call.request_id,
                    inputs=tuple(given for given, _ in batch),
                    params=tuple(param for _, param in batch),
                    dimensions=body.dimensions,
                    truncate_tokens=truncation(engine, body.truncate_prompt_tokens),
                )
            )
            vectors += answer.vectors
            tally.input_tokens += answer.num_tokens
            tally.rows += len(batch)
            tally.images += sum(isinstance(given, Picture) for given, _ in batch)
            tally.compute_s += answer.compute_s
    is_base64 = body.encoding_format == "base64"
    data = await asyncio.to_thread(_shown, vectors, is_base64=is_base64)
    counted = usage(tally.input_tokens)
    return as_json({"object": "list", "data": data, "model": record.name, "usage": counted})


async def _batches(
    call: Call, inputs: Sequence[Embedded], params: Sequence[str]
) -> AsyncIterator[list[tuple[str | tuple[int, ...] | Picture, str]]]:
    """Yield the inputs in order, with images read as far as one message to an engine allows.

    Raises:
        PurveyError: As `media.picture`.
    """
    batch: list[tuple[str | tuple[int, ...] | Picture, str]] = []
    num_bytes = 0
    for given, param in zip(inputs, params, strict=True):
        if not isinstance(given, Medium):
            batch.append((given, param))
            continue
        at = f"{param}.image"
        data = await picture(call, given.image or "", param=at)
        batch.append((Picture(data=data), at))
        num_bytes += len(data)
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _check_seen(
    engine: EngineClient, record: ModelRecord, inputs: Sequence[Embedded], params: Sequence[str]
) -> None:
    """Refuse images, before any is fetched, where a model embeds texts alone."""
    sees = any(isinstance(spec, ImageSpec) for spec in engine.model.inputs.values())
    given = (param for one, param in zip(inputs, params, strict=True) if isinstance(one, Medium))
    first = next(given, None)
    if first is not None and not sees:
        raise UnsupportedValueError(
            f"the model {record.name!r} embeds texts alone.",
            param=f"{first}.image",
            hint="Images are embedded by models of the family 'clip'.",
        )


def check_embeds(engine: EngineClient, record: ModelRecord) -> None:
    """Make sure that a model gives vectors.

    Raises:
        MethodUnsupportedError: It is for something else.
    """
    if engine.model.task != "embedding":
        raise MethodUnsupportedError(
            f"the model {record.name!r} is for {engine.model.task} and gives no vectors.",
            param="model",
            hint="Register a model for embedding.",
        )


def truncation(engine: EngineClient, asked: int | None) -> int | None:
    """Resolve `truncate_prompt_tokens`: -1 stands for what the model takes."""
    return engine.model.context_tokens if asked == -1 else asked


def usage(num_tokens: int) -> InputUsage:
    """Count the tokens of a request without output."""
    return {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def _inputs(given: str | Medium | list[Any]) -> tuple[list[Embedded], list[str]]:
    """Return what is embedded, and what a refusal calls each of it.

    Raises:
        InvalidValueError: One gives neither a text nor an image, or both.
    """
    if isinstance(given, list) and not isinstance(given[0], int):
        found = [_plain(one, f"input.{i}") for i, one in enumerate(given)]
        return found, [f"input.{i}" for i in range(len(found))]
    return [_plain(given, "input")], ["input"]


def _plain(given: str | Medium | list[int], param: str) -> Embedded:
    if isinstance(given, list):
        return tuple(given)
    if isinstance(given, str):
        return given
    if (given.text is None) == (given.image is None):
        raise InvalidValueError("give either 'text' or 'image'.", param=param)
    return given if given.text is None else given.text


def _shown(vectors: Sequence[bytes], *, is_base64: bool) -> list[dict[str, Any]]:
    """Write vectors one by one, in a thread: between two of them others get their turn."""
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": msgspec.Raw(_base64(vector) if is_base64 else _numbers(vector)),
        }
        for index, vector in enumerate(vectors)
    ]


def _base64(vector: bytes) -> bytes:
    return b'"' + base64.b64encode(vector) + b'"'


def _numbers(vector: bytes) -> bytes:
    return _encode(struct.unpack(f"<{len(vector) // _BYTES_PER_FLOAT}f", vector))
