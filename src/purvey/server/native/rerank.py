"""`/v1/rerank` and `/v1/score`: how well texts fit, by a cross-encoder or by their vectors."""

from typing import Annotated, Any, Literal, NotRequired

import msgspec
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from purvey.contracts.embedding import NamedText, Rank, Ranked
from purvey.contracts.engine import EngineClient
from purvey.contracts.ids import new_id
from purvey.contracts.records import ModelRecord
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.server.answers import TokenUsage, token_usage
from purvey.server.metering import metered
from purvey.server.openai.embeddings import (
    TRUNCATE,
    InputUsage,
    Several,
    Text,
    Truncate,
    truncation,
    usage,
)
from purvey.server.policy import Call, Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes
from purvey.server.validation import Body

routes = Routes(tag="Ranking")
Texts = Annotated[list[Text], Several]


class Document(Body):
    """A document in an object of its own."""

    text: Text


class RerankRequest(Body):
    """A query and what may answer it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "reranker",
                "query": "what do cats eat?",
                "documents": ["Cats eat fish.", "The sky is blue."],
                "top_n": 1,
            }
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    query: Text
    documents: Annotated[list[Text | Document], Several] = Field(
        description="Texts, or objects with `text`."
    )
    top_n: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, description="Results at most; all of them unless given."
    )
    return_documents: bool | None = Field(
        None, description="Whether results hold the documents' texts; they do unless false."
    )
    truncate_prompt_tokens: Truncate = Field(None, description=TRUNCATE)


class RankedText(TypedDict):
    """A document as it was given."""

    text: str


class RerankResult(TypedDict):
    """A document's place in the request, and how well it fits."""

    index: int
    relevance_score: float
    document: NotRequired[RankedText]


class Reranking(TypedDict):
    """The documents that fit best, the best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: InputUsage


RERANK_EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "rerank-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "model": "reranker",
    "results": [
        {"index": 0, "relevance_score": 0.98, "document": {"text": "Cats eat fish."}},
    ],
    "usage": {"prompt_tokens": 24, "total_tokens": 24},
}


@routes.add("POST", "/v1/rerank", scope="inference", returns=Reranking, example=RERANK_EXAMPLE)
async def rerank(call: Caller, body: RerankRequest) -> Reranking:
    """Order documents by how well they answer a query.

    A cross-encoder reads query and document together; its score is a probability. A model for
    embedding gives the cosine of their vectors.
    """
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    asked = Rank(
        request_id=call.request_id,
        first=(NamedText(text=body.query, param="query"),),
        second=tuple(NamedText(text=t, param=f"documents.{i}") for i, t in enumerate(texts)),
        truncate_tokens=body.truncate_prompt_tokens,
    )
    work = _ranked(call, body.model, "rerank", asked)
    record, answer = await while_present(call.request, work)
    best = sorted(enumerate(answer.scores), key=lambda one: -one[1])
    results: list[RerankResult] = []
    for index, score in best[: body.top_n]:
        results.append({"index": index, "relevance_score": score})
        if body.return_documents is not False:
            results[-1]["document"] = {"text": texts[index]}
    return {
        "id": new_id("rerank-"),
        "model": record.name,
        "results": results,
        "usage": usage(answer.num_tokens),
    }


class ScoreRequest(Body):
    """Two texts; or one and many; or two lists of one length."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "reranker",
                "text_1": "what do cats eat?",
                "text_2": ["Cats eat fish.", "The sky is blue."],
            }
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    text_1: Text | Texts | None = Field(None, description="One text, or as many as in `text_2`.")
    text_2: Text | Texts | None = Field(None, description="What is scored against it.")
    queries: Text | Texts | None = Field(None, description="Another name of `text_1`.")
    documents: Text | Texts | None = Field(None, description="Another name of `text_2`.")
    truncate_prompt_tokens: Truncate = Field(None, description=TRUNCATE)


class PairScore(TypedDict):
    """The score of one pair."""

    index: int
    object: Literal["score"]
    score: float


class Scores(TypedDict):
    """The scores in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PairScore]
    usage: TokenUsage


SCORE_EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "score-6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "list",
    "created": 1795467000,
    "model": "reranker",
    "data": [
        {"index": 0, "object": "score", "score": 0.98},
        {"index": 1, "object": "score", "score": 0.01},
    ],
    "usage": {"prompt_tokens": 24, "completion_tokens": 0, "total_tokens": 24},
}


@routes.add("POST", "/v1/score", scope="inference", returns=Scores, example=SCORE_EXAMPLE)
async def score(call: Caller, body: ScoreRequest) -> Scores:
    """Score pairs of texts; the numbers are those of `/v1/rerank`."""
    first, second = _side(body, "text_1", "queries"), _side(body, "text_2", "documents")
    _check_lengths(first, second)
    asked = Rank(
        request_id=call.request_id,
        first=first,
        second=second,
        truncate_tokens=body.truncate_prompt_tokens,
    )
    record, answer = await while_present(call.request, _ranked(call, body.model, "score", asked))
    data: list[PairScore] = [
        {"index": index, "object": "score", "score": value}
        for index, value in enumerate(answer.scores)
    ]
    return {
        "id": new_id("score-"),
        "object": "list",
        "created": int(call.services.clock.now()),
        "model": record.name,
        "data": data,
        "usage": token_usage(answer.num_tokens, 0),
    }


async def _ranked(
    call: Call, model: str, kind: Literal["rerank", "score"], asked: Rank
) -> tuple[ModelRecord, Ranked]:
    async with (
        call.services.engines.use(call.project_id, model) as (record, engine),
        metered(call, kind=kind, model=record.name) as tally,
    ):
        _check_ranks(engine, record)
        limit = truncation(engine, asked.truncate_tokens)
        answer = await engine.rank(msgspec.structs.replace(asked, truncate_tokens=limit))
        tally.input_tokens, tally.rows = answer.num_tokens, len(asked.second)
        tally.compute_s = answer.compute_s
        return record, answer


def _check_ranks(engine: EngineClient, record: ModelRecord) -> None:
    if engine.model.task not in ("embedding", "rerank"):
        raise MethodUnsupportedError(
            f"the model {record.name!r} is for {engine.model.task} and scores no pairs.",
            param="model",
            hint="Register a cross-encoder, or a model for embedding.",
        )


def _side(body: ScoreRequest, name: str, alias: str) -> tuple[NamedText, ...]:
    """Return the texts of one side, each with what a refusal calls it."""
    given = [(n, value) for n in (name, alias) if (value := getattr(body, n)) is not None]
    if len(given) != 1:
        raise InvalidValueError(
            f"give one of {name!r} and {alias!r}.", param=alias if given else name
        )
    used, value = given[0]
    if isinstance(value, str):
        return (NamedText(text=value, param=used),)
    return tuple(NamedText(text=text, param=f"{used}.{i}") for i, text in enumerate(value))


def _check_lengths(first: tuple[NamedText, ...], second: tuple[NamedText, ...]) -> None:
    if len(first) not in (1, len(second)):
        name, other = (side[0].param.partition(".")[0] for side in (second, first))
        raise InvalidValueError(
            f"{name!r} has {len(second)} texts and {other!r} {len(first)}: "
            "the latter must be as many, or one.",
            param=name,
        )
