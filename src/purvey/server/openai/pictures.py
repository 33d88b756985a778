"""The images of a conversation, for a model that sees: read here, and opened elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from purvey.contracts.engine import ImageInput
from purvey.contracts.limits import LIMITS
from purvey.contracts.records import ModelRecord
from purvey.errors import InvalidValueError, RequestTooLargeError, UnsupportedValueError
from purvey.server.media import picture
from purvey.server.openai.conversation import ImagePart, Message
from purvey.server.policy import Call


@dataclass(frozen=True, kw_only=True)
class _Part:
    """An image part: where it stands, in which role's message, and what it gives."""

    at: str
    role: str
    given: ImagePart | None


async def pictures(call: Call, messages: list[Message], *, model: str) -> tuple[ImageInput, ...]:
    """Return the encoded images of a conversation; none for one of text alone.

    Nothing is fetched before it is known that the model takes it.

    Raises:
        ModelNotFoundError: No such model, or another project's.
        UnsupportedValueError: The model reads text alone, or a part stands where none may.
        InvalidValueError: There are more than the model has learned to see, or a part is not whole.
        PurveyError: As `media.picture`.
    """
    parts = list(_parts(messages))
    if not parts:
        return ()
    served = await call.services.deployments.directory.served(call.project_id, model)
    if served.record.task != "image-text-to-text":
        raise UnsupportedValueError(
            f"parts of type 'image_url' are not supported by {model!r}, which reads text alone.",
            param=f"{parts[0].at}.type",
            hint="Ask a model that was trained for image-text-to-text.",
        )
    return await seen(
        call, served.record, [(f"{part.at}.image_url.url", _url(part)) for part in parts]
    )


async def seen(
    call: Call, record: ModelRecord, given: Sequence[tuple[str, str]]
) -> tuple[ImageInput, ...]:
    """Return the encoded images of one conversation.

    Args:
        call: Who asks.
        record: The model that is to see them.
        given: The field that gives each, and how, as `media.picture` takes it.

    Raises:
        InvalidValueError: There are more than the model has learned to see; names the first.
        RequestTooLargeError: Together they have more bytes than a conversation's may.
        PurveyError: As `media.picture`.
    """
    most = max(1, len(record.manifest.get("inputs", {})))
    if len(given) > most:
        learned = "one image" if most == 1 else f"{most} images"
        raise InvalidValueError(
            f"the model has learned to see {learned} in a conversation, and this is one more.",
            param=given[most][0],
            hint="Begin another conversation for it, or train on rows of as many images.",
        )
    images: list[ImageInput] = []
    num_bytes = 0
    for at, url in given:
        images.append(ImageInput(data=await picture(call, url, param=at)))
        num_bytes += len(images[-1].data)
        if num_bytes > LIMITS.conversation_image_bytes:
            raise RequestTooLargeError(
                "the images of a conversation may have "
                f"{LIMITS.conversation_image_bytes} bytes together.",
                param=at,
            )
    return tuple(images)


def _parts(messages: list[Message]) -> Iterator[_Part]:
    for i, message in enumerate(messages):
        if isinstance(message.content, list):
            for j, part in enumerate(message.content):
                if part.type == "image_url":
                    at = f"messages.{i}.content.{j}"
                    yield _Part(at=at, role=message.role, given=part.image_url)


def _url(part: _Part) -> str:
    if part.role != "user":
        raise UnsupportedValueError(
            f"an image stands in a user's message, not in one of {part.role!r}.",
            param=f"{part.at}.type",
        )
    if part.given is None:
        raise InvalidValueError(
            "an image part must have an image_url.", param=f"{part.at}.image_url"
        )
    return part.given.url
