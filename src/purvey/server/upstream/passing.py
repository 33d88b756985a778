"""Passing a request on to the upstream that computes its model, and the answer back."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Response

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import UpstreamTask
from purvey.contracts.records import ModelRecord, UsageKind
from purvey.errors import (
    MethodUnsupportedError,
    NotFoundError,
    PurveyError,
    ShuttingDownError,
    UpstreamFailedError,
    UpstreamMisconfiguredError,
)
from purvey.network.upstream import Upstream, UpstreamAnswer
from purvey.registry.deployments.directory import Served
from purvey.registry.upstream_models import elsewhere
from purvey.server import sse
from purvey.server.metering import Tally, metered
from purvey.server.policy import Call
from purvey.server.presence import while_present
from purvey.server.request_body import OFF_LOOP_BYTES
from purvey.server.strict_json import Json
from purvey.server.upstream import counting, refusals
from purvey.server.upstream.asking import Asking, asking
from purvey.server.upstream.events import events

_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
Members = dict[str, Any]
"""A JSON object whose members are JSON as it came, or values."""
_END_S = 0.1
"""How long the end of a stream is waited for behind its `[DONE]`, to keep the connection."""


@dataclass(frozen=True, kw_only=True)
class PassedOn:
    """What one route passes on: an answer where the model is computed elsewhere, else None.

    Args:
        path: What the upstream calls the route.
        kind: What the ledger calls it.
        task: What models it is for.
    """

    path: str
    kind: UsageKind
    task: UpstreamTask

    @property
    def result(self) -> str:
        """The member that an answer cannot be without."""
        return "data" if self.task == "embedding" else "choices"

    async def __call__(self, call: Call, given: Json) -> Response | None:
        """Answer a body that is not validated, if its model is computed elsewhere.

        Raises:
            PurveyError: What the upstream, or the meter, refuses it for.
        """
        served = await _served(call, given)
        where = None if served is None else elsewhere(served.record)
        if served is None or where is None:
            return None
        self._check(call, served.record)
        passing = _Passing(
            route=self,
            call=call,
            given=given,
            record=served.record,
            upstream=call.services.upstreams.get(where.upstream),
            asking=asking(
                given, model=where.model, kind=self.kind, defaults=served.profile.generation
            ),
        )
        if passing.asking.is_stream:
            return await sse.stream(call, passing.chunks())
        return await while_present(call.request, passing.whole())

    def _check(self, call: Call, record: ModelRecord) -> None:
        if record.task != self.task:
            raise MethodUnsupportedError(
                f"the model {record.name!r} is for {record.task}.", param="model"
            )
        if not call.services.is_ready():
            raise ShuttingDownError("the server is shutting down.")


@dataclass(frozen=True, kw_only=True)
class _Passing:
    """One request on its way."""

    route: PassedOn
    call: Call
    given: dict[str, Json]
    record: ModelRecord
    upstream: Upstream
    asking: Asking

    async def whole(self) -> Response:
        """Return the answer, whole."""
        async with metered(self.call, kind=self.route.kind, model=self.record.name) as tally:
            async with self.upstream.ask(self.route.path, self.asking.body) as answer:
                await self._check(answer, "application/json")
                content = await self._content(answer)
            if len(content) > OFF_LOOP_BYTES:
                shown = await asyncio.to_thread(self._spliced, content, tally)
            else:
                shown = self._spliced(content, tally)
        return Response(shown, media_type="application/json")

    async def chunks(self) -> AsyncGenerator[sse.Chunk]:
        """Yield the answer, chunk by chunk; the tally is settled however it ends.

        What only counts tokens is held back, and told once, at the end, to a caller that asked.
        """
        last: Members = {}
        async with metered(self.call, kind=self.route.kind, model=self.record.name) as tally:
            counting_up = counting.Stream(tally, self.given, self.call.services.clock.monotonic)
            try:
                async with (
                    self.upstream.ask(self.route.path, self.asking.body) as answer,
                    aclosing(self._parts(answer)) as parts,
                ):
                    async for part in parts:
                        last, is_count = part, counting_up.see(part)
                        if not is_count:
                            yield self._kept(part)
            finally:
                counting_up.settle()
        if self.asking.wants_usage:
            yield last | {"model": self._name, "choices": [], "usage": counting_up.shown}

    @property
    def _name(self) -> str:
        """The model as the caller names it."""
        return str(self.given["model"])

    async def _check(self, answer: UpstreamAnswer, content_type: str) -> None:
        if answer.status != HTTPStatus.OK:
            await refusals.refuse(self.upstream, answer)
        if answer.content_type != content_type:
            raise UpstreamMisconfiguredError(
                f"the upstream {self.upstream.name!r} answers with another content type than "
                f"{content_type!r}."
            )

    async def _content(self, answer: UpstreamAnswer) -> bytes:
        content = bytearray()
        async for piece in answer.pieces:
            content += piece
            if len(content) > LIMITS.upstream_answer_bytes:
                raise UpstreamFailedError(
                    f"the upstream {self.upstream.name!r} answers with more than "
                    f"{LIMITS.upstream_answer_bytes} bytes."
                )
        return bytes(content)

    def _spliced(self, content: bytes, tally: Tally) -> bytes:
        """Put the caller's name for the model, and counts that can be believed, into an answer."""
        members = self._read(content)
        if self.route.result not in members:
            raise self._improper()
        counting.settle_whole(tally, members, self.given, result=self.route.result)
        if tally.is_estimated:
            members["usage"] = counting.shown(tally)
        return _encode(members | {"model": self._name})

    async def _parts(self, answer: UpstreamAnswer) -> AsyncGenerator[Members]:
        await self._check(answer, "text/event-stream")
        async with aclosing(events(answer.pieces, name=self.upstream.name)) as found:
            async for event in found:
                yield self._read(event)
        with suppress(TimeoutError, UpstreamFailedError):
            async with asyncio.timeout(_END_S):
                async for _ in answer.pieces:
                    pass

    def _kept(self, part: Members) -> Members:
        if not self.asking.wants_usage:
            part.pop("usage", None)
        elif "usage" in part:
            part["usage"] = None
        part["model"] = self._name
        return part

    def _read(self, content: bytes) -> Members:
        """Read an object whose members stay as they came."""
        try:
            content.decode()
            members: Members = _members(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self._improper() from None
        if bytes(members.get("error", b"null")) != b"null":
            raise UpstreamFailedError(
                f"the upstream {self.upstream.name!r} failed while it answered."
            )
        return members

    def _improper(self) -> PurveyError:
        return UpstreamFailedError(f"the upstream {self.upstream.name!r} gave no proper answer.")


async def _served(call: Call, given: Json) -> Served | None:
    name = given.get("model") if isinstance(given, dict) else None
    if isinstance(name, str):
        with suppress(NotFoundError):
            return await call.services.deployments.directory.served(call.project_id, name)
    return None
