"""The web application: every resource's routes behind one edge."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp

from purvey import __version__
from purvey.server import health
from purvey.server.documentation import error_schemas
from purvey.server.edge import Edge
from purvey.server.idempotency.once import InFlight
from purvey.server.native import (
    classify,
    datasets,
    deployments,
    explanations,
    exports,
    keys,
    pulls,
    recipes,
    rerank,
    server_status,
    sweeps,
    tokenize,
    training_jobs,
    training_reports,
    usage,
)
from purvey.server.native.collecting import feedback
from purvey.server.native.collecting import profiles as dataset_profiles
from purvey.server.native.collecting import pulled as pulled_files
from purvey.server.native.collecting import rows as dataset_rows
from purvey.server.native.collecting import versions as dataset_versions
from purvey.server.native.explaining import Explainer, recover
from purvey.server.openai import (
    absent,
    chat,
    completions,
    decisions,
    embeddings,
    files,
    fine_tuning,
    models,
)
from purvey.server.openai.audio import transcriptions, translations
from purvey.server.routing import Routes, check_policies
from purvey.server.services import Services

DESCRIPTION = """Large models as a service on hardware you own. Paths, fields and errors are
OpenAI's wherever OpenAI has them; use the official `openai` client with this server's address
as `base_url`. Every refusal has one shape: `{"error": {"message", "type", "param", "code"}}`."""

# The hot paths first: the router looks from the top.
RESOURCES: Iterable[Routes] = (
    chat.routes,
    completions.routes,
    embeddings.routes,
    transcriptions.routes,
    translations.routes,
    rerank.routes,
    classify.routes,
    decisions.routes,
    explanations.routes,
    tokenize.routes,
    models.routes,
    pulls.routes,
    exports.routes,
    files.routes,
    fine_tuning.routes,
    datasets.routes,
    dataset_profiles.routes,
    dataset_rows.routes,
    dataset_versions.routes,
    feedback.routes,
    pulled_files.routes,
    deployments.routes,
    training_jobs.routes,
    training_reports.routes,
    sweeps.routes,
    recipes.routes,
    keys.routes,
    usage.routes,
    server_status.routes,
    health.routes,
    absent.routes,
)


class Api(FastAPI):
    """FastAPI whose only middleware is `Edge`."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put the edge around the router, and nothing else."""
        services: Services = self.state.services
        return Edge(self.router, clock=services.clock, allowed_hosts=services.allowed_hosts)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, built at its first use; seconds of work, so in a thread."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                description=self.description,
                routes=[route.documented() for resource in RESOURCES for route in resource],
            )
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            document["components"]["schemas"] = {**error_schemas(), **schemas}
            for route in (route for resource in RESOURCES for route in resource):
                route.describe(document)
            self.openapi_schema = document
        return self.openapi_schema


def create_app(services: Services) -> Api:
    """Build the application.

    Raises:
        TypeError: A route has no policy.
    """
    app = Api(
        title="Purvey",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.services = services
    app.state.explainer = Explainer()
    app.state.in_flight = InFlight()
    app.router.routes.extend(route for resource in RESOURCES for route in resource)
    check_policies(app.routes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Settle what an earlier server left behind; at the end, what this one still computes."""
    services: Services = app.state.services
    await recover(services.database)
    yield
    explainer: Explainer = app.state.explainer
    await explainer.close()
