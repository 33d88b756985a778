"""One server, whole: made by `build`, run by `Application` from its start to its drained end."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from purvey import failpoints
from purvey.access.keys import KeyRing
from purvey.access.pepper import read_or_create
from purvey.app.data_folder import DataFolder
from purvey.app.engine_limits import engine_limits_of
from purvey.app.gauges import show_engines, show_jobs
from purvey.app.http_server import HttpServer, bind
from purvey.app.hub import hub_datasets_of, pulls_of
from purvey.app.job_effects import JobEffects
from purvey.app.s3 import s3_datasets_of
from purvey.app.tracking import follower_of
from purvey.app.upstream_keys import configs_of
from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.deployment import EngineOptions
from purvey.engine.client import LocalEngineLauncher
from purvey.errors import InternalError
from purvey.ipc.sharing import Sharing
from purvey.jobs.bell import Bell
from purvey.jobs.estimates import Estimator
from purvey.jobs.launcher import LocalJobLauncher
from purvey.jobs.run import RunConfig
from purvey.jobs.service import JobService
from purvey.jobs.supervisor import Supervisor
from purvey.meter.ledger import Meter
from purvey.network.outbound import Outbound
from purvey.network.upstream import Upstreams
from purvey.registry.deployments.book import Deployments
from purvey.registry.deployments.directory import Directory
from purvey.registry.engines.pool import EnginePool
from purvey.registry.models import ModelRegistry
from purvey.registry.upstream_models import UpstreamModels
from purvey.server.application import create_app
from purvey.server.reporting.tracking.following import Follower
from purvey.server.services import Defaults, Services
from purvey.settings import num_processors
from purvey.store import keys
from purvey.store.artifacts import Artifacts
from purvey.store.blobs import Blobs
from purvey.store.database import Database
from purvey.store.idempotency.sweeping import sweep_old
from purvey.store.seals.marks import Seals
from purvey.store.sweeper import Sweeper

if TYPE_CHECKING:
    from purvey.contracts.engine import EngineLauncher
    from purvey.jobs.hooks import JobHooks
    from purvey.jobs.launcher import JobLauncher
    from purvey.settings import Settings

logger = logging.getLogger(__name__)
KeepSpare = Callable[[int], Coroutine[None, None, None]]
"""Keeps an engine process ready for the next model, with so many threads, until cancelled."""


@dataclass(frozen=True, kw_only=True)
class _Stores:
    """What everything else stands on."""

    folder: DataFolder
    database: Database
    blobs: Blobs
    artifacts: Artifacts
    pepper: bytes
    clock: Clock


def build(
    settings: "Settings",
    *,
    engine_launcher: "EngineLauncher | None" = None,
    job_launcher: "JobLauncher | None" = None,
    clock: Clock | None = None,
    outbound: Outbound | None = None,
) -> "Application":
    """Make a server: nothing listens yet, no process is started.

    Args:
        settings: The deployment.
        engine_launcher: Who starts engines; None means local processes.
        job_launcher: Who starts job workers; None means local processes.
        clock: Source of time; None means the machine's.
        outbound: Fetches addresses; None means from `outbound_hosts`.

    Raises:
        SettingError: A setting, the data folder or the database cannot be used.
    """
    if settings.failpoints:
        failpoints.arm(settings.failpoints)
    with ExitStack() as undo:
        listener = bind(settings.host, settings.port, backlog=settings.http.backlog)
        undo.callback(listener.close)
        stores = _open_stores(settings, clock or SystemClock())
        sharing = Sharing(job_share=settings.job_share, num_processors=num_processors())
        local_engines = LocalEngineLauncher(cwd=stores.folder.engines, sharing=sharing)
        has_spare = settings.spare_engine and engine_launcher is None
        application = _assemble(
            settings,
            stores,
            listener,
            engine_launcher=engine_launcher or local_engines,
            keep_spare=local_engines.keep_spare if has_spare else None,
            job_launcher=job_launcher or LocalJobLauncher(sharing=sharing),
            outbound=outbound or Outbound(settings.outbound_hosts),
        )
        undo.pop_all()
    return application


def _assemble(
    settings: "Settings",
    stores: _Stores,
    listener: socket.socket,
    *,
    engine_launcher: "EngineLauncher",
    keep_spare: KeepSpare | None,
    job_launcher: "JobLauncher",
    outbound: Outbound,
) -> "Application":
    database, clock, bell, readiness = stores.database, stores.clock, Bell(), _Readiness()
    upstreams = Upstreams(configs_of(settings.upstreams), monotonic=clock.monotonic)
    models = _registry(settings, stores)
    hooks = _effects(settings, stores, models).hooks
    directory = Directory(
        models,
        options=EngineOptions(precision=settings.precision),
        keep_alive_s=settings.keep_alive_s,
    )
    services = Services(
        database=database,
        blobs=stores.blobs,
        artifacts=stores.artifacts,
        sweeper=_sweeper(stores),
        keys=KeyRing(database, pepper=stores.pepper, clock=clock),
        meter=Meter(database, clock),
        jobs=JobService(database, clock=clock, bell=bell, ended=hooks.ended),
        estimator=Estimator(
            database,
            launcher=job_launcher,
            prepare=hooks.prepare,
            folder=stores.folder.cache / "estimates",
            num_threads=settings.job_threads,
            clock=clock,
        ),
        models=models,
        deployments=Deployments(database, directory, clock=clock),
        engines=EnginePool(
            engine_launcher,
            models,
            directory,
            limits=engine_limits_of(settings, stores.folder),
            clock=clock,
        ),
        outbound=outbound,
        pulls=pulls_of(settings, outbound),
        hub_datasets=hub_datasets_of(settings, outbound, stores.folder),
        s3_datasets=s3_datasets_of(settings.s3, stores.folder, clock),
        upstreams=upstreams,
        upstream_models=UpstreamModels(database, upstreams, clock=clock),
        clock=clock,
        is_ready=readiness.is_ready,
        started_at=clock.monotonic(),
        defaults=Defaults(default_max_tokens=settings.default_max_tokens),
        allowed_hosts=settings.allowed_hosts,
    )
    return Application(
        settings=settings,
        services=services,
        supervisor=_supervisor(settings, stores, hooks=hooks, bell=bell, launcher=job_launcher),
        folder=stores.folder,
        listener=listener,
        readiness=readiness,
        keep_spare=keep_spare,
        follower=follower_of(settings.mlflow, database, stores.folder, clock),
    )


class Application:
    """A built server. Runs once: on the caller's loop by `run`, or in a thread by `start`.

    Attributes:
        services: What the routes call.
        first_key: The administrator's secret when this start has created it, else None.
    """

    def __init__(
        self,
        *,
        settings: "Settings",
        services: Services,
        supervisor: Supervisor,
        folder: DataFolder,
        listener: socket.socket,
        readiness: "_Readiness",
        keep_spare: KeepSpare | None,
        follower: Follower | None,
    ) -> None:
        self.services, self._follower = services, follower
        self.first_key: str | None = None
        self._settings, self._supervisor, self._folder = settings, supervisor, folder
        self._readiness, self._keep_spare = readiness, keep_spare
        self._address = listener.getsockname()
        self._http = HttpServer(create_app(services), settings, listener)
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._stop_asked: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def base_url(self) -> str:
        """Address of the server, without a path."""
        host = self._settings.host if self._settings.host not in {"0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104 (compared, not bound)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._address[1]}"

    @property
    def is_ready(self) -> bool:
        """Whether new work is taken."""
        return self._readiness.is_ready()

    async def run(self) -> None:
        """Serve until `ask_to_stop`, then drain: nothing acknowledged is lost.

        Readiness goes first, then the sockets close, answers under way are finished while
        jobs are handed back, engines end, and the database closes last.
        """
        self._loop, self._stop_asked = asyncio.get_running_loop(), asyncio.Event()
        secret = self._settings.bootstrap_key
        try:
            self.first_key = await self.services.keys.bootstrap(
                secret.get_secret_value() if secret else None
            )
            await self.services.sweeper.sweep()
            await self.services.deployments.load()
            await self._supervisor.start()
            await self._serve(self._stop_asked)
        finally:
            self._loop = None
            self._http.close()
            self.services.database.close()
            self._folder.close()

    def ask_to_stop(self) -> None:
        """Begin to drain; asked again, cut off answers that still run. Thread-safe."""
        loop = self._loop  # once it has run, there is nothing left to stop
        if loop is not None:
            loop.call_soon_threadsafe(self._begin_to_stop)

    def start(self) -> None:
        """Run in a thread of its own; return when new work is taken.

        Raises:
            BaseException: Whatever kept the server from starting.
        """
        self._thread = threading.Thread(target=self._run_in_thread, name="purvey-server")
        self._thread.start()
        while not self._readiness.taken_up.wait(timeout=0.01):
            if self._ended.is_set():
                self._thread.join()
                raise self._failure or InternalError("the server ended before it was ready")

    def stop(self) -> None:
        """Drain the server that `start` has started, and wait for its end.

        Raises:
            BaseException: Whatever the server ended in, unless it ended well.
        """
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    async def _serve(self, stop_asked: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(self._http.run(), name="http")
            upkeep: tuple[asyncio.Task[None], ...] = (
                tasks.create_task(self.services.engines.tend(), name="engines"),
                tasks.create_task(show_engines(self.services.engines), name="engine-gauges"),
                tasks.create_task(show_jobs(self.services.database), name="job-gauges"),
                tasks.create_task(self.services.meter.pay_back(), name="owed-usage"),
                tasks.create_task(
                    sweep_old(self.services.database, self.services.clock), name="kept-answers"
                ),
            )
            await self._http.listening()
            if self._follower is not None:
                upkeep = (*upkeep, tasks.create_task(self._follower.follow(), name="mlflow"))
            self._readiness.take_up()
            logger.info("server.started", extra={"url": self.base_url})
            if self._keep_spare is not None:
                keeping = self._keep_spare(self._settings.engine_threads)
                upkeep = (*upkeep, tasks.create_task(keeping, name="spare-engine"))
            try:
                await stop_asked.wait()
            finally:
                await self._drain(serving)
                for task in upkeep:
                    task.cancel()
                await self.services.meter.close()

    async def _drain(self, serving: "asyncio.Task[None]") -> None:
        self._readiness.give_up()
        logger.info("server.draining")
        timeout_s = self._settings.drain_timeout_s
        began = self.services.clock.monotonic()
        self._http.stop()
        await asyncio.gather(serving, self._supervisor.drain(timeout_s=timeout_s))
        left_s = timeout_s - (self.services.clock.monotonic() - began)
        await self.services.engines.drain(max(1.0, left_s))
        await self.services.upstreams.close()
        await self.services.s3_datasets.close()
        logger.info("server.stopped")

    def _begin_to_stop(self) -> None:
        assert self._stop_asked is not None, "stopped before it ran"  # noqa: S101
        if self._stop_asked.is_set():
            self._http.stop()
        self._stop_asked.set()

    def _run_in_thread(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self.run())
        except BaseException as error:  # noqa: BLE001 (the thread's edge: `start` or `stop` raises it)
            self._failure = error
        finally:
            self._ended.set()


class _Readiness:
    """Whether new work is taken, readable from any thread."""

    def __init__(self) -> None:
        self.taken_up = threading.Event()

    def is_ready(self) -> bool:
        return self.taken_up.is_set()

    def take_up(self) -> None:
        self.taken_up.set()

    def give_up(self) -> None:
        self.taken_up.clear()


def _open_stores(settings: "Settings", clock: Clock) -> _Stores:
    with ExitStack() as undo:
        folder = DataFolder.open(settings.data_dir)
        undo.callback(folder.close)
        database = Database.open(settings.database_url, clock=clock)
        undo.callback(database.close)
        has_keys = database.read_now(keys.count) > 0
        stores = _Stores(
            folder=folder,
            database=database,
            blobs=Blobs(folder.blobs),
            artifacts=Artifacts(folder.artifacts),
            pepper=read_or_create(folder.root, has_keys=has_keys),
            clock=clock,
        )
        undo.pop_all()
    return stores


def _registry(settings: "Settings", stores: _Stores) -> ModelRegistry:
    return ModelRegistry(
        stores.database,
        stores.artifacts,
        model_roots=settings.model_roots,
        clock=stores.clock,
        seals=Seals(stores.folder.cache / "sealed"),
    )


def _effects(settings: "Settings", stores: _Stores, models: ModelRegistry) -> JobEffects:
    return JobEffects(
        blobs=stores.blobs,
        artifacts=stores.artifacts,
        registry=models,
        module_roots=settings.module_roots,
        clock=stores.clock,
    )


def _sweeper(stores: _Stores) -> Sweeper:
    return Sweeper(
        stores.database,
        artifacts=stores.artifacts,
        blobs=stores.blobs,
        work=stores.folder.jobs,
    )


def _supervisor(
    settings: "Settings",
    stores: _Stores,
    *,
    hooks: "JobHooks",
    bell: Bell,
    launcher: "JobLauncher",
) -> Supervisor:
    return Supervisor(
        database=stores.database,
        artifacts=stores.artifacts,
        launcher=launcher,
        hooks=hooks,
        bell=bell,
        clock=stores.clock,
        folder=stores.folder.jobs,
        max_running=settings.max_running_jobs,
        config=RunConfig(
            lease_s=settings.job_lease_s,
            heartbeat_s=settings.job_heartbeat_s,
            max_attempts=settings.job_max_attempts,
            num_threads=settings.job_threads,
            device=settings.training_device,
            stall_s=settings.job_stall_s,
            failpoints=settings.failpoints,
        ),
    )
