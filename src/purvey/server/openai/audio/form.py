"""The form of a transcription request: what is honoured, what is refused, what does nothing."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from purvey.errors import InvalidValueError, UnsupportedValueError
from purvey.server.openai.sampling_fields import IGNORED
from purvey.server.uploads import Upload
from purvey.server.validation import Body, validate

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
Granularity = Literal["word", "segment"]
LISTS = ("timestamp_granularities[]", "include[]")
"""Fields that are given once for each of their values."""
MAX_FIELDS = 16
_STREAMED: tuple[Format, ...] = ("json", "text")
_NO_PROMPT = "Not supported: what is heard depends on the recording alone. Only an empty one."


class TranscriptionForm(Body):
    """The fields beside the file; texts become what they are due to be."""

    model_config = ConfigDict(strict=False)
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {
        "prompt": ("",),
        "temperature": (0,),
        "chunking_strategy": ("auto",),
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    response_format: Format = Field("json", description="What the answer is written as.")
    timestamp_granularities: Annotated[list[Granularity], Field(max_length=8)] | None = Field(
        None,
        description="Times of what, sent as `timestamp_granularities[]`; segments unless given. "
        "For `verbose_json`.",
    )
    stream: bool = Field(
        False, description="Send words as they become certain. For `json` and `text`."
    )
    language: Annotated[str, Field(max_length=64)] | None = Field(
        None, description=f"{IGNORED} The model knows the language that it was trained on."
    )
    prompt: Annotated[str, Field(max_length=4_096)] | None = Field(None, description=_NO_PROMPT)
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Only 0: nothing is drawn by chance."
    )
    chunking_strategy: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Only `auto`: long recordings are heard in overlapping windows."
    )
    include: Annotated[list[str], Field(max_length=8)] | None = Field(
        None, description="Not supported; segments of `verbose_json` carry `avg_logprob`."
    )


def read_form(upload: Upload) -> TranscriptionForm:
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
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "model"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "WAV, FLAC, OGG or MP3.",
                        },
                        "model": _TEXT,
                        "response_format": {**_TEXT, "enum": list(get_args(Format))},
                        "timestamp_granularities[]": {
                            "type": "array",
                            "items": {**_TEXT, "enum": list(get_args(Granularity))},
                        },
                        "stream": {"type": "boolean"},
                        "language": _TEXT,
                        "prompt": _TEXT,
                        "temperature": {"type": "number"},
                        "chunking_strategy": {**_TEXT, "enum": ["auto"]},
                    },
                },
                "example": {"file": "(the bytes of call.wav)", "model": "recogniser"},
            }
        },
    }
}
"""How the OpenAPI document shows it."""
