"""`/tokenize`: the token ids that a model sees."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.engine import ChatPrompt, Prompt, TextPrompt, Tokenize
from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError
from purvey.server.generation import check_generates
from purvey.server.metering import metered
from purvey.server.openai.conversation import Message, turns
from purvey.server.openai.pictures import pictures
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body

routes = Routes(tag="Tokenize")


class TokenizeRequest(Body):
    """Text or a conversation; exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "stories", "prompt": "Once upon"}}
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    prompt: Annotated[str, Field(max_length=LIMITS.prompt_chars)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=LIMITS.messages)] | None = (
        None
    )


class Tokens(TypedDict):
    """Ids and texts, aligned, and how many positions they take with what stands before them."""

    model: str
    tokens: list[int]
    texts: list[str]
    count: int
    max_model_len: int


EXAMPLE = {
    "model": "stories",
    "tokens": [1, 403, 407],
    "texts": ["<s>", "Once", " upon"],
    "count": 3,
    "max_model_len": 512,
}


@routes.add("POST", "/v1/tokenize", scope="inference", returns=Tokens, example=EXAMPLE)
async def tokenize(call: Caller, body: TokenizeRequest) -> dict[str, Any]:
    """Show the tokens of a text or a conversation.

    A conversation is rendered by the model's chat template. Special tokens written inside a
    text stay text. `count` is of what a prompt takes: the places of images, which have no token,
    among it.
    """
    prompt = await _prompt(call, body)
    async with (
        call.services.engines.use(call.project_id, body.model) as (record, engine),
        metered(call, kind="tokenize", model=record.name) as tally,
    ):
        check_generates(engine, record, needs_template=isinstance(prompt, ChatPrompt))
        found = await engine.tokenize(Tokenize(request_id=call.request_id, prompt=prompt))
        tally.input_tokens = len(found.tokens) + found.num_pictured
        return {
            "model": record.name,
            "tokens": list(found.tokens),
            "texts": list(found.texts),
            "count": tally.input_tokens,
            "max_model_len": engine.model.context_tokens,
        }


async def _prompt(call: Call, body: TokenizeRequest) -> Prompt:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidValueError("give either 'prompt' or 'messages'.", param="prompt")
    if body.messages is not None:
        images = await pictures(call, body.messages, model=body.model)
        return ChatPrompt(messages=turns(body.messages, has_images=bool(images)), images=images)
    return TextPrompt(text=body.prompt or "")


@routes.add("POST", "/tokenize", scope="inference", returns=Tokens, example=EXAMPLE)
async def tokenize_unversioned(call: Caller, body: TokenizeRequest) -> dict[str, Any]:
    """Show the tokens of a text or a conversation; the path that other servers use."""
    answer: dict[str, Any] = await tokenize(call, body)
    return answer
