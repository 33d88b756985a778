"""What `/v1/chat/completions` takes."""

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from purvey.contracts.engine import ChatPrompt, ImageInput
from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError, UnsupportedValueError
from purvey.server.generation import Asked
from purvey.server.openai.calling.tools import ToolChoice, Tools, tools_of
from purvey.server.openai.conversation import Message, turns
from purvey.server.openai.sampling_fields import (
    EXTRA,
    IGNORED,
    NOT_YET,
    MaxTokens,
    SamplingFields,
    StreamOptions,
    sampling_of,
)
from purvey.server.openai.structured.response_format import ResponseFormat, grammar_of
from purvey.server.validation import Body, Metadata


class TemplateSwitches(Body):
    """What some chat templates can be told."""

    enable_thinking: bool | None = Field(
        None, description="Whether the model is asked to reason before it answers."
    )


class ChatRequest(SamplingFields):
    """What to answer, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "ft:tiny:proj_default:docs:1f0c",
                "messages": [{"role": "user", "content": "What does os.getcwd() do?"}],
                "max_completion_tokens": 64,
                "temperature": 0,
            }
        }
    )
    accepts_only: ClassVar[dict[str, tuple[object, ...]]] = {
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "moderation": (None,),
        "reasoning_effort": (None, "none"),
        "store": (None, False),
        "service_tier": (None, "auto", "default"),
        "verbosity": (None, "medium"),
        "web_search_options": (None,),
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=LIMITS.messages)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: MaxTokens | None = Field(
        None, description="Output tokens at most; the server's default unless given."
    )
    max_tokens: MaxTokens | None = Field(None, description="Older name of the same.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=LIMITS.top_logprobs)] | None = None
    tools: Tools | None = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(
        None,
        description="Whether it calls: `auto` leaves that to it; `required`, or a function's "
        "name, is enforced token by token; under `none` it is told of no function.",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether an answer may make several calls; true unless given."
    )
    chat_template_kwargs: TemplateSwitches | None = Field(
        None, description=f"{EXTRA} What is handed to the model's chat template."
    )
    functions: object = Field(None, description=NOT_YET)
    function_call: object = Field(None, description=NOT_YET)
    response_format: ResponseFormat | None = None
    modalities: object = Field(None, description=NOT_YET)
    audio: object = Field(None, description=NOT_YET)
    prediction: object = Field(None, description=NOT_YET)
    moderation: object = Field(None, description=NOT_YET)
    reasoning_effort: object = Field(None, description=NOT_YET)
    store: object = Field(None, description=NOT_YET)
    service_tier: object = Field(None, description=NOT_YET)
    verbosity: object = Field(None, description=NOT_YET)
    web_search_options: object = Field(None, description=NOT_YET)
    user: str | None = Field(None, description=IGNORED)
    metadata: Metadata | None = Field(None, description=IGNORED)
    safety_identifier: str | None = Field(None, description=IGNORED)
    prompt_cache_key: str | None = Field(None, description=IGNORED)
    prompt_cache_options: object = Field(None, description=IGNORED)
    prompt_cache_retention: str | None = Field(None, description=IGNORED)


def asked(body: ChatRequest, images: tuple[ImageInput, ...] = ()) -> Asked:
    """Turn a request into what is generated.

    Args:
        body: The request.
        images: Those of its messages.

    Raises:
        UserError: Its fields contradict each other, or hold what is not supported.
    """
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidValueError(
            "give either max_completion_tokens or max_tokens.", param="max_tokens"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidValueError("top_logprobs needs logprobs: true.", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise InvalidValueError("stream_options needs stream: true.", param="stream_options")
    tools, use = tools_of(
        body.tools, body.tool_choice, is_parallel=body.parallel_tool_calls is not False
    )
    switches = body.chat_template_kwargs
    grammar = grammar_of(body.response_format, body.structured_outputs)
    if grammar is not None and use is not None:
        raise UnsupportedValueError(
            "an answer that may be calls cannot be held to a format yet.",
            param="structured_outputs" if body.structured_outputs else "response_format",
            hint='Leave it out, or set tool_choice to "none".',
        )
    sampling = sampling_of(
        body,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        num_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        grammar=grammar,
        tool_use=use,
    )
    prompt = ChatPrompt(
        messages=turns(body.messages, has_images=bool(images)),
        tools=tools,
        enable_thinking=None if switches is None else switches.enable_thinking,
        images=images,
    )
    return Asked(
        kind="chat",
        model=body.model,
        prompts=(prompt,),
        sampling=sampling,
        needs_template=True,
        num_choices=body.n or 1,
    )
