"""Calls in answers, in OpenAI's shapes, whole and streamed."""

from collections.abc import Iterable
from typing import Any, Literal

from typing_extensions import TypedDict

from purvey.contracts.chat.tools import CallDelta
from purvey.contracts.ids import new_id


class CalledFunction(TypedDict):
    """The function and its arguments, JSON text as the model wrote it."""

    name: str
    arguments: str


class AnsweredCall(TypedDict):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


def collected(news: Iterable[CallDelta]) -> list[AnsweredCall]:
    """Put calls together from all that was told of them."""
    calls: list[AnsweredCall] = []
    for one in news:
        if one.name is not None:
            calls.append(_begun(one.name))
        calls[one.index]["function"]["arguments"] += one.arguments
    return calls


def streamed(one: CallDelta) -> dict[str, Any]:
    """Show news of one call as an entry of a chunk's `tool_calls`."""
    if one.name is None:
        return {"index": one.index, "function": {"arguments": one.arguments}}
    return {"index": one.index, **_begun(one.name)}


def _begun(name: str) -> AnsweredCall:
    function = CalledFunction(name=name, arguments="")
    return {"id": new_id("call_"), "type": "function", "function": function}
