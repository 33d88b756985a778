"""The server that rows of the fault matrix are tried on, and what is asserted after each."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import msgspec
import pytest

from purvey import failpoints
from purvey.testing.model_folder import write_plausible_folder
from tests.conftest import RunningServer, scripted_server
from tests.matrix.contract import Witness
from tests.matrix.invariants import AtRest, check_store, wait_for_rest
from tests.matrix.kills import TRAINED, World, make_world

PROBE = "still there?"


@dataclass(kw_only=True)
class Held:
    """A server in this process with scripted engines and workers, held to every invariant.

    Attributes:
        server: The server; `server.engines` and `server.jobs` are the scripts.
        http: A client with the administrator's key; each of its answers is checked.
        witness: Makes further clients whose answers are checked.
        model: Name of a registered language model that says the last turn again.
    """

    server: RunningServer
    http: httpx2.Client
    witness: Witness
    model: str

    @property
    def data_dir(self) -> Path:
        """Where the server keeps everything."""
        return self.server.data_dir

    @property
    def num_engine_requests(self) -> int:
        """Requests that any engine has seen so far."""
        assert self.server.engines is not None
        return sum(
            len(one.requests) for all_ in self.server.engines.engines.values() for one in all_
        )

    def ask(self, text: str = PROBE) -> httpx2.Response:
        """Chat with the model."""
        messages = [{"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages}
        return self.http.post("/v1/chat/completions", json=body)

    def check_alive(self) -> None:
        """G12: health answers, and a completion is right."""
        assert self.http.get("/healthz").status_code == 200
        answer = self.ask().raise_for_status().json()
        assert answer["choices"][0]["message"]["content"] == PROBE


@pytest.fixture(scope="module")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    root = tmp_path_factory.mktemp("matrix")
    with scripted_server(root) as server:
        witness = Witness(server.base_url, server.admin_key)
        with witness.client() as http:
            folder = write_plausible_folder(root / "models" / "echo")
            http.post("/v1/models", json={"id": "echo", "source": str(folder)}).raise_for_status()
            held = Held(server=server, http=http, witness=witness, model="echo")
            for _ in range(3):
                held.check_alive()
            yield held


@pytest.fixture
def held(_running: Held) -> Iterator[Held]:
    """The server of the module; after the test, every invariant is asserted of it."""
    before = AtRest.now()
    yield _running
    failpoints.arm("")
    _running.check_alive()
    wait_for_rest(before)
    check_store(_running.data_dir)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data folder with a base model and one undisturbed run of each job but the slow one."""
    return _made_once(tmp_path_factory, "world", "table", "language", "adapter")


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same, with every job."""
    return _made_once(tmp_path_factory, "whole-world", *TRAINED)


def _made_once(factory: pytest.TempPathFactory, name: str, *jobs: str) -> World:
    """Make a world, or take the one that another process of this run of the suite has made."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    shared = factory.getbasetemp() if alone else factory.getbasetemp().parent
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = shared / f"{name}.json"
        if not told.exists():
            made = make_world(factory.mktemp(name), *jobs)
            told.write_bytes(msgspec.json.encode(made, enc_hook=str))
        return msgspec.json.decode(
            told.read_bytes(), type=World, dec_hook=lambda kind, value: kind(value)
        )
