"""Engines killed while they load, servers killed while a model leaves: all of it or nothing."""

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.matrix.answering import SHORT, URL, ask, prompt, text_of, up
from tests.matrix.invariants import check_store
from tests.matrix.kill_inputs import BASE
from tests.matrix.kills import World, kill, tell
from tests.matrix.waiting import wait_until


@pytest.mark.faults
@pytest.mark.row("CRA-17")
@pytest.mark.timeout(300)
def test_a_model_whose_engines_keep_dying_is_refused_at_once_and_others_go_on(
    world: World, tmp_path: Path
) -> None:
    world.copy_to(tmp_path)
    with (
        up(tmp_path) as served,
        served.witness.client(timeout=200) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        before = text_of(ask(http, world.models["adapter"], 1, **SHORT))
        body = {"model": BASE, "prompt": prompt(1)}
        for _ in range(3):
            asking = pool.submit(http.post, URL, json=body)
            wait_until(lambda: len(served.workers("engine")) > 1)
            served.workers("engine")[-1].kill()
            assert asking.result().json()["error"]["code"] == "worker_crashed"
        refused = http.post(URL, json=body)
        assert refused.json()["error"]["code"] == "server_is_overloaded"
        assert len(served.workers("engine")) == 1
        assert text_of(ask(http, world.models["adapter"], 1, **SHORT)) == before
        assert served.stop() == 0


@pytest.mark.faults
@pytest.mark.row("CRA-19")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_an_engine_killed_while_it_loads_is_replaced(
    world: World, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 (chance of a test)
    world.copy_to(tmp_path)
    with (
        up(tmp_path) as served,
        served.witness.client(timeout=200) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        body = {"model": BASE, "prompt": prompt(1), "seed": 1, **SHORT}
        first = pool.submit(http.post, URL, json=body)
        wait_until(lambda: bool(served.workers("engine")))
        threading.Event().wait(chance.uniform(0, 3))
        kill(served.workers("engine")[-1])
        assert first.result().status_code in {200, 503}
        again = http.post(URL, json=body).raise_for_status()
        assert text_of(again.json()) == text_of(ask(http, BASE, 1, **SHORT))
        assert served.stop() == 0
    check_store(tmp_path / "data")
    tell(1, f"seed {seed}")


@pytest.mark.faults
@pytest.mark.row("CRA-19")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_a_server_killed_while_a_model_is_deleted_leaves_all_of_it_or_nothing(
    world: World, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 (chance of a test)
    world.copy_to(tmp_path)
    url = f"/v1/models/{world.models['table']}"
    with up(tmp_path) as served, served.witness.client() as http:

        def delete() -> int | None:
            try:
                return http.delete(url).status_code
            except httpx2.TransportError:
                return None

        with ThreadPoolExecutor(1) as pool:
            deleting = pool.submit(delete)
            threading.Event().wait(chance.uniform(0, 0.03))
            assert served.stop(signal.SIGKILL) == -signal.SIGKILL
            told = deleting.result()
    with up(tmp_path) as served, served.witness.client(timeout=100) as http:
        status = http.get(url).status_code
        assert status in ({404} if told == 200 else {200, 404})
        answer = http.post("/v1/classify", json={"model": world.models["table"], "input": "warm"})
        assert answer.status_code == status
        assert served.stop() == 0
    check_store(tmp_path / "data")
    tell(1, f"seed {seed}: DELETE was told {told}, then {status}")
