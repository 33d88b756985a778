"""Is it alive, is it ready, how is it doing, what can it do: the public routes."""

import asyncio

from fastapi import Request, Response
from typing_extensions import TypedDict

from purvey.errors import ShuttingDownError
from purvey.server.documentation import DOCS_PAGE
from purvey.server.routing import Routes
from purvey.server.services import Services
from purvey.telemetry import metrics

routes = Routes(tag="Health")


class Health(TypedDict):
    """The server's own word for its state."""

    status: str


@routes.add("GET", "/healthz", scope=None, returns=Health, example={"status": "ok"})
async def live() -> Health:
    """Tell that the process answers."""
    return {"status": "ok"}


@routes.add("GET", "/readyz", scope=None, returns=Health, example={"status": "ready"})
async def ready(request: Request) -> Health:
    """Tell whether new work is taken; 503 while the server starts or drains."""
    services: Services = request.app.state.services
    if not services.is_ready():
        raise ShuttingDownError("the server takes no new work now.")
    return {"status": "ready"}


@routes.add(
    "GET",
    "/metrics",
    scope=None,
    returns=None,
    media="text/plain",
    example='purvey_jobs{status="queued"} 0.0',
)
async def exposition() -> Response:
    """Show the metrics in Prometheus' text format; no label names a tenant or holds content."""
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


@routes.add(
    "GET", "/openapi.json", scope=None, returns=None, example={"openapi": "3.1.0", "paths": {}}
)
async def document(request: Request) -> object:
    """Show this document."""
    return await asyncio.to_thread(request.app.openapi)


@routes.add(
    "GET", "/docs", scope=None, returns=None, media="text/html", example="<!doctype html>..."
)
async def page(request: Request) -> Response:
    """Show the list of operations as a plain page that loads nothing from elsewhere."""
    paths = (await asyncio.to_thread(request.app.openapi))["paths"]
    items = "\n".join(
        f"<li><code>{method.upper()} {path}</code> {operation['summary']}</li>"
        for path, operations in paths.items()
        for method, operation in operations.items()
    )
    return Response(DOCS_PAGE.format(items=items), media_type="text/html")
