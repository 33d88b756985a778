"""Fixtures that several folders of tests share."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from purvey.settings import Settings
from purvey.testing.clock import FakeClock
from purvey.testing.scripted_engine import ScriptedLauncher
from purvey.testing.scripted_jobs import ScriptedJobLauncher

if TYPE_CHECKING:
    from openai import OpenAI

    from purvey.app.application import Application
    from purvey.network.outbound import Outbound

FIRST_KEY = "sk-test-administrator-0123456789abcdef0123456789"


@dataclass(kw_only=True)
class RunningServer:
    """A real server on a free port of this machine, in a thread.

    Attributes:
        settings: What it was built with; build again with them after `application.stop()`.
        engines: The scripted launcher; None where engines are real.
        jobs: The scripted launcher; None where workers are real.
    """

    application: "Application"
    base_url: str
    admin_key: str
    data_dir: Path
    settings: Settings
    engines: ScriptedLauncher | None = None
    jobs: ScriptedJobLauncher | None = None

    def openai(self, api_key: str | None = None) -> "OpenAI":
        """Return the official client, pointed here; it does not retry."""
        from openai import OpenAI

        return OpenAI(
            base_url=f"{self.base_url}/v1", api_key=api_key or self.admin_key, max_retries=0
        )


def make_settings(data_dir: Path, **changes: object) -> Settings:
    """Return settings of a server for a test: free port, small, quick to drain."""
    values: dict[str, object] = {
        "data_dir": data_dir,
        "port": 0,
        "bootstrap_key": FIRST_KEY,
        "engine_threads": 1,
        "job_threads": 1,
        "drain_timeout_s": 5.0,
        "job_heartbeat_s": 0.5,
        "spare_engine": False,  # it imports for seconds what most tests do not need
    }
    return Settings.model_validate(values | changes)


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Search for no garbage while tests are collected: what that imports and makes stays."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect what tests make, and never look again at what was there before them."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    """Put the process's logging back as it was: a command in this process configures it."""
    root, ours = logging.getLogger(), logging.getLogger("purvey")
    before = (root.handlers, root.level, ours.level)
    yield
    root.handlers, root.level, ours.level = before
    logging.captureWarnings(capture=False)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def model_root(tmp_path: Path) -> Path:
    """An operator's folder of models, known to `server`."""
    root = tmp_path / "models"
    root.mkdir()
    return root


@contextmanager
def scripted_server(
    root: Path, *, outbound: "Outbound | None" = None, **changes: object
) -> Iterator[RunningServer]:
    """Run a server whose engines and workers are scripted; its models lie in `root / "models"`.

    It fetches from nowhere unless given an `outbound`; `changes` are settings.
    """
    from purvey.app.application import build

    engines, jobs = ScriptedLauncher(), ScriptedJobLauncher()
    (root / "models").mkdir(exist_ok=True)
    settings = make_settings(root / "data", model_roots=(root / "models",), **changes)
    application = build(settings, engine_launcher=engines, job_launcher=jobs, outbound=outbound)
    application.start()
    try:
        yield RunningServer(
            application=application,
            base_url=application.base_url,
            admin_key=FIRST_KEY,
            data_dir=settings.data_dir,
            settings=settings,
            engines=engines,
            jobs=jobs,
        )
    finally:
        application.stop()


@pytest.fixture
def server(model_root: Path) -> Iterator[RunningServer]:
    """A server whose engines and workers are scripted; new for each test."""
    with scripted_server(model_root.parent) as running:
        yield running


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The same, one for all tests of a module."""
    with scripted_server(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> "Iterator[OpenAI]":
    """The official client with the administrator's key."""
    with server.openai() as official:
        yield official


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for the whole run whose engines and workers are processes.

    Folders of models go under `data_dir.parent / "models"`, users' modules under
    `data_dir.parent / "modules"`.
    """
    from purvey.app.application import build

    root = tmp_path_factory.mktemp("live")
    for part in ("models", "modules"):
        (root / part).mkdir()
    settings = make_settings(
        root / "data", model_roots=(root / "models",), module_roots=(root / "modules",)
    )
    application = build(settings)
    application.start()
    try:
        yield RunningServer(
            application=application,
            base_url=application.base_url,
            admin_key=FIRST_KEY,
            data_dir=settings.data_dir,
            settings=settings,
        )
    finally:
        application.stop()


@pytest.fixture
def write_model_folder() -> Callable[[Path], Path]:
    """A function that writes a folder which passes registration: tiny, of no use to a loader."""
    from purvey.testing.model_folder import write_plausible_folder

    return write_plausible_folder
