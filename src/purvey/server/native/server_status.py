"""`/v1/server`: what runs here, as far as the caller's project may know."""

from typing_extensions import TypedDict

from purvey import __version__
from purvey.server.policy import Caller
from purvey.server.routing import Routes
from purvey.store import jobs

routes = Routes(tag="Server")


class ServerStatus(TypedDict):
    """Version, the project's loaded models and running jobs, and how long the server is up."""

    version: str
    models_loaded: list[str]
    jobs_running: int
    uptime_s: float


EXAMPLE = {"version": "0.1.0", "models_loaded": ["digits"], "jobs_running": 0, "uptime_s": 42.5}


@routes.add("GET", "/v1/server", scope="inference", returns=ServerStatus, example=EXAMPLE)
async def status(call: Caller) -> ServerStatus:
    """Show what runs for the caller's project."""
    services = call.services
    running = await services.database.read(jobs.running)
    loaded = [e.name for e in services.engines.loaded() if e.project_id == call.project_id]
    return {
        "version": __version__,
        "models_loaded": sorted(loaded),
        "jobs_running": sum(job.project_id == call.project_id for job in running),
        "uptime_s": services.clock.monotonic() - services.started_at,
    }
