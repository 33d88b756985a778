"""The forms of requests about recordings: what is honoured, what is refused, what does nothing."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from purvey.errors import InvalidValueError, UnsupportedValueError
from purvey.server.uploads import Upload
from purvey.server.validation import Body, validate

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]
LISTS = ("timestamp_granularities[]", "include[]")
"""Fields that are given once for each of their values."""
MAX_FIELDS = 16
_STREAMED: tuple[Format, ...] = ("json", "text")


class SpeechForm(Body):
    """The fields beside the file that every request has; texts become what they are due to be."""

    model_config = ConfigDict(strict=False)
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {"temperature": (0,)}

    model: Annotated[str, Field(min_length=1, max_length=256)]
    response_format: Format = Field("json", description="What the answer is written as.")
    prompt: Annotated[str, Field(max_length=4_096)] | None = Field(
        None,
        description="Taken for what was said before, in every window. Models that depend on the "
        "recording alone refuse any but an empty one.",
    )
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Only 0: nothing is drawn by chance."
    )


class TranscriptionForm(SpeechForm):
    """The fields of a transcription."""

    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = SpeechForm.accepts_only | {
        "chunking_strategy": ("auto",),
    }

    timestamp_granularities: Annotated[list[Granularity], Field(max_length=8)] | None = Field(
        None,
        description="Times of what, sent as `timestamp_granularities[]`; segments unless given. "
        "For `verbose_json`.",
    )
    stream: bool = Field(
        False, description="Send words as they become certain. For `json` and `text`."
    )
    language: Annotated[str, Field(max_length=64)] | None = Field(
        None,
        description="The code of one that the model tells apart; without it the model decides. A "
        "model of one language ignores it.",
    )
    chunking_strategy: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Only `auto`: long recordings are heard in overlapping windows."
    )
    include: Annotated[list[str], Field(max_length=8)] | None = Field(
        None, description="Not supported; segments of `verbose_json` carry `avg_logprob`."
    )


class TranslationForm(SpeechForm):
    """The fields of a translation."""


def read_translation_form(upload: Upload) -> TranslationForm:
    """Check the fields of an upload.

    Raises:
        InvalidValueError: Names the field at fault.
        UnsupportedValueError: A field asks for something that is not supported here.
    """
    plain: dict[str, Any] = dict(upload.fields)  # JSON values
    return validate(TranslationForm, plain | dict(upload.lists))


def read_transcription_form(upload: Upload) -> TranscriptionForm:
    """Check the fields of an upload.

    Raises:
        InvalidValueError: Names the field at fault, or two that do not go together.
        UnsupportedValueError: A field asks for something that is not supported here.
    """
    listed = {name.removesuffix("[]"): values for name, values in upload.lists.items()}
    twice = listed.keys() & upload.fields.keys()
    if twice:
        raise InvalidValueError("a field is given twice.", param=min(twice))
    plain: dict[str, Any] = dict(upload.fields)  # JSON values
    for name in ("timestamp_granularities", "include"):
        if name in plain:
            plain[name] = [plain[name]]
    form = validate(TranscriptionForm, plain | listed)
    _check_together(form)
    return form


def _check_together(form: TranscriptionForm) -> None:
    if form.include:
        raise UnsupportedValueError("'include' is not supported.", param="include")
    if form.timestamp_granularities and form.response_format != "verbose_json":
        raise InvalidValueError(
            "timestamp_granularities needs response_format 'verbose_json'.",
            param="timestamp_granularities",
        )
    if form.stream and form.response_format not in _STREAMED:
        raise InvalidValueError(
            f"response_format {form.response_format!r} is not streamed; stream 'json' or 'text'.",
            param="stream",
        )


_TEXT = {"type": "string"}
_OF_ALL = {
    "file": {**_TEXT, "format": "binary", "description": "WAV, FLAC, OGG or MP3."},
    "model": _TEXT,
    "response_format": {**_TEXT, "enum": list(get_args(Format))},
    "prompt": _TEXT,
    "temperature": {"type": "number"},
}


def form_shown(fields: dict[str, Any]) -> dict[str, Any]:
    """Return how the OpenAPI document shows a form; JSON values.

    Args:
        fields: Those beside the ones that every form has.
    """
    schema = {"type": "object", "required": ["file", "model"], "properties": _OF_ALL | fields}
    example = {"file": "(the bytes of call.wav)", "model": "recogniser"}
    content = {"multipart/form-data": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


TRANSCRIPTION = form_shown(
    {
        "timestamp_granularities[]": {
            "type": "array",
            "items": {**_TEXT, "enum": list(get_args(Granularity))},
        },
        "stream": {"type": "boolean"},
        "language": _TEXT,
        "chunking_strategy": {**_TEXT, "enum": ["auto"]},
    }
)
TRANSLATION = form_shown({})
