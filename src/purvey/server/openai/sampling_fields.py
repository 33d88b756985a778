"""The fields of a request that say how tokens are chosen: OpenAI's, and three of the field's."""

import secrets
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from purvey.contracts.chat.tools import ToolUse
from purvey.contracts.limits import LIMITS
from purvey.contracts.sampling import Grammar, Sampling
from purvey.server.openai.structured.response_format import StructuredOutputs
from purvey.server.validation import Body

IGNORED = "Accepted and ignored."
NOT_YET = "Not supported yet: only the value that asks for nothing is accepted."
EXTRA = "Not OpenAI's."

StopText = Annotated[str, Field(min_length=1, max_length=LIMITS.stop_chars)]
Stop = StopText | Annotated[list[StopText], Field(max_length=LIMITS.stop_sequences)] | None
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenName = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


def _check_count(value: object) -> object:
    """Count before looking at each: ten thousand complaints help nobody."""
    if isinstance(value, dict) and len(value) > LIMITS.biased_tokens:
        message = f"at most {LIMITS.biased_tokens} tokens are taken"
        raise PydanticCustomError("too_long", message)
    return value


LogitBias = Annotated[
    dict[TokenName, Bias],
    Field(max_length=LIMITS.biased_tokens),
    BeforeValidator(_check_count),
]


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool = Field(False, description="Send a last chunk with the token counts.")
    include_obfuscation: bool = Field(False, description=IGNORED)


class SamplingFields(Body):
    """What chat and completions share. Log-probabilities are told as if none of it were given."""

    temperature: Temperature | None = Field(None, description="0 is greedy; 1 unless given.")
    top_p: TopP | None = Field(
        None, description="Draw from the likeliest tokens that have this share together."
    )
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(
        None, description=f"{EXTRA} Draw from that many likeliest tokens; 0 and -1 from all."
    )
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description=f"{EXTRA} Drop tokens below this share of the likeliest."
    )
    presence_penalty: Penalty | None = Field(
        None, description="Taken off the logit of each token that stands in the output."
    )
    frequency_penalty: Penalty | None = Field(
        None, description="Taken off as often as the token stands in the output."
    )
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)] | None = Field(
        None,
        description=f"{EXTRA} Divides positive logits, and multiplies negative ones, of tokens "
        "in prompt and output.",
    )
    logit_bias: LogitBias | None = Field(
        None, description="What is added to the logit of each token id; -100 bans it."
    )
    seed: Seed | None = Field(None, description="The same seed gives the same tokens.")
    stop: Stop = None
    n: Annotated[int, Field(ge=1, le=LIMITS.request_choices)] | None = Field(
        None, description="Answers to each prompt, each with a seed of its own."
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description=f"{EXTRA} A regular expression, or texts to choose from."
    )


def sampling_of(
    fields: SamplingFields,
    *,
    max_tokens: int | None,
    num_logprobs: int | None,
    grammar: Grammar | None,
    echo: bool = False,
    tool_use: ToolUse | None = None,
) -> Sampling:
    """Resolve what a request leaves unsaid; an unsaid seed is drawn."""
    seed, stop, bias = fields.seed, fields.stop, fields.logit_bias or {}
    return Sampling(
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=max(fields.top_k or 0, 0),
        min_p=fields.min_p or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        logit_bias=tuple((int(token_id), value) for token_id, value in bias.items()),
        grammar=grammar,
        seed=secrets.randbits(63) if seed is None else seed % 2**63,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        num_logprobs=num_logprobs,
        echo=echo,
        tool_use=tool_use,
    )
