"""Routes that carry their policy, their inputs and their documentation.

FastAPI documents them, when the document is asked for: building its routes takes seconds that
a starting server does not have. The way from the socket to the endpoint is ours, because it
must decide who calls before it reads a body, and because it is the hot path.
"""

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from purvey import failpoints
from purvey.contracts.records import Scope as KeyScope
from purvey.errors import InvalidValueError
from purvey.server.documentation import response_type, responses_of
from purvey.server.idempotency.once import PARAMETER, InFlight
from purvey.server.policy import PUBLIC, Call, Policy, authorise
from purvey.server.problems import OtherMethodsError
from purvey.server.request_body import read_json
from purvey.server.services import Services
from purvey.server.strict_json import Json
from purvey.server.validation import Question, validate

Endpoint = Callable[..., Awaitable[Any]]  # Response, or a JSON value
Elsewhere = Callable[[Call, Json], Awaitable[Response | None]]
"""Answers a body that is not validated, or leaves it to the endpoint."""
_encode = msgspec.json.Encoder().encode


class PolicyRoute(Route):
    """A route that authorises, reads its declared inputs, and calls its endpoint.

    An endpoint may take `call` (`Caller`), `request`, `body` (a pydantic model), `query` (a
    `Question`), and the path's parameters by name. It returns a `Response` or a JSON value.

    Args:
        path: Path template.
        endpoint: The coroutine function that answers.
        policy: Who may call it.
        is_creating: Whether it creates something, once for each `Idempotency-Key`: its endpoint
            must give its answer to `call.once.keep`.
        elsewhere: Who may answer in the endpoint's place, by the body as it came.
        methods: HTTP methods.
        status_code: Status of a success.
        documented: What FastAPI's `APIRoute` takes.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        policy: Policy,
        is_creating: bool,
        elsewhere: Elsewhere | None,
        methods: list[str],
        status_code: int,
        **documented: Any,  # noqa: ANN401 (FastAPI's own keywords)
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.methods = set(methods)  # without the HEAD that comes with GET: `Edge` maps it
        self.policy = policy
        self._is_creating, self._elsewhere = is_creating, elsewhere
        self._documented = documented
        self._answers = endpoint
        hints = get_type_hints(endpoint)
        self._body: type[BaseModel] | None = hints.get("body")
        self._query: type[Question] | None = hints.get("query")
        self._wants_request = "request" in hints
        self._success = status_code

    def documented(self) -> APIRoute:
        """Return the route as FastAPI describes it."""
        return APIRoute(
            self.path,
            self._answers,
            methods=self.methods,
            status_code=self._success,
            **self._documented,
        )

    def describe(self, document: dict[str, Any]) -> None:
        """Put into the OpenAPI document what FastAPI leaves out of it: the nulls of examples."""
        path = document["paths"][self.documented().path_format]
        extra = (self._documented.get("openapi_extra") or {}).get("responses", {})
        for method in self.methods or ():
            answers = path[method.lower()]["responses"]
            for status, described in {**self._documented["responses"], **extra}.items():
                for media, content in described.get("content", {}).items():
                    if "example" in content:
                        answers[str(status)]["content"][media]["example"] = content["example"]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as any route does, and leave a note for the log line of the request."""
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that matches the path.

        Raises:
            PurveyError: The request is refused or failed; `Edge` answers with it.
        """
        request = Request(scope, receive)
        services: Services = scope["app"].state.services
        given: dict[str, Any] = dict(scope["path_params"])  # path segments are strings
        if not self.policy.is_public:
            given["call"] = await authorise(request, services, self.policy)
        if scope["method"] not in (self.methods or ()):
            raise OtherMethodsError(sorted(_methods_at(scope)))
        if self._is_creating:
            response = await self._once(given["call"], request, given)
        else:
            response = await self._answer(request, given)
        await response(scope, receive, send)
        if self._is_creating:
            failpoints.reach("resp.sent")

    async def _once(self, call: Call, request: Request, given: dict[str, Any]) -> Response:
        """Answer a creating request; repeated under its key, it gets the first answer again."""
        in_flight: InFlight = request.app.state.in_flight
        with in_flight.once(request, call.services, call.project_id) as once:
            response = await self._answer(request, given | {"call": replace(call, once=once)})
            once.check()
        return response

    async def _answer(self, request: Request, given: dict[str, Any]) -> Response:
        if self._query is not None:
            given["query"] = validate(self._query, _query_values(request))
        if self._body is not None:
            body = await read_json(request)
            call: Call | None = given.get("call")
            if self._elsewhere is not None and call is not None:
                passed_on = await self._elsewhere(call, body)
                if passed_on is not None:
                    return passed_on
            given["body"] = validate(self._body, body)
            earlier = await call.once.earlier(body) if call is not None else None
            if earlier is not None:
                return earlier
        if self._wants_request:
            given["request"] = request
        answer = await self._answers(**given)
        return answer if isinstance(answer, Response) else self._json(answer)

    def _json(self, value: object) -> Response:
        return Response(_encode(value), status_code=self._success, media_type="application/json")


@dataclass(kw_only=True)
class Routes:
    """The routes of one resource, in order.

    Args:
        tag: Name of the resource in the documentation.
    """

    tag: str
    routes: list[PolicyRoute] = field(default_factory=list)

    def __iter__(self) -> Iterator[PolicyRoute]:
        return iter(self.routes)

    def add(
        self,
        method: str,
        path: str,
        *,
        scope: KeyScope | None,
        returns: Any,  # noqa: ANN401 (a TypedDict, or None for what is not JSON)
        example: object = None,
        status: int = 200,
        is_creating: bool = False,
        elsewhere: Elsewhere | None = None,
        media: str = "application/json",
        extra: dict[str, Any] | None = None,  # additions to the OpenAPI operation
    ) -> Callable[[Endpoint], Endpoint]:
        """Register an endpoint; its docstring is its documentation.

        Args:
            method: HTTP method.
            path: Path template.
            scope: What the key must be allowed; None makes the route public.
            returns: Type of the answer.
            example: An answer, for the documentation.
            status: Status of a success.
            is_creating: Whether it creates something, once for each `Idempotency-Key`.
            elsewhere: Who may answer in the endpoint's place, by the body as it came.
            media: Content type of a success.
            extra: Additions to the OpenAPI operation.
        """

        def register(endpoint: Endpoint) -> Endpoint:
            summary, _, description = inspect.cleandoc(endpoint.__doc__ or "").partition("\n")
            self.routes.append(
                PolicyRoute(
                    path,
                    endpoint,
                    policy=Policy(scope=scope) if scope else PUBLIC,
                    is_creating=is_creating,
                    elsewhere=elsewhere,
                    methods=[method],
                    tags=[self.tag],
                    summary=summary.rstrip("."),
                    description=description.strip() or summary,
                    response_model=returns,
                    status_code=status,
                    response_class=response_type(media),
                    responses=responses_of(status, example, media=media, is_public=scope is None),
                    operation_id=f"{self.tag.lower().replace(' ', '_')}_{endpoint.__name__}",
                    openapi_extra={**PARAMETER, **(extra or {})} if is_creating else extra,
                )
            )
            return endpoint

        return register


def check_policies(routes: list[BaseRoute]) -> None:
    """Make sure that every route says who may call it.

    Raises:
        TypeError: One does not; the server must not start.
    """
    for route in routes:
        if not isinstance(getattr(route, "policy", None), Policy):
            msg = f"the route {route!r} has no policy"
            raise TypeError(msg)


def query_of(annotation: object) -> object:
    """Return the plain type of an annotation such as `Annotated[Page, Query()]`."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _methods_at(scope: Scope) -> set[str]:
    table: list[BaseRoute] = scope["app"].routes
    matching = (r for r in table if r.matches(scope)[0] is not Match.NONE)
    return {method for route in matching for method in getattr(route, "methods", ())}


def _query_values(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        ((twice, _),) = counts.most_common(1)
        raise InvalidValueError("a query parameter is given twice.", param=twice[:64])
    return values
