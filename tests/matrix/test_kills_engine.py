"""Engines and servers killed while they answer: who is cut off hears it once, nobody else does."""

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.matrix.answering import SHORT, Heard, Metered, ask, follow, ledger, prompt, text_of, up
from tests.matrix.kill_inputs import BASE
from tests.matrix.kills import World, kill, tell
from tests.matrix.served import Served
from tests.matrix.waiting import wait_until

NUM_RUNNING, NUM_QUEUED = 32, 32
# As many sequences run at once as a step has rows beside a tile of a prompt.
CROWDED = {"KV_CACHE_BYTES": str(2**20), "MAX_BATCH_TOKENS": "64"}
LONG = {"max_tokens": 120, "temperature": 0}
APART = {"id": "apart", "model": BASE, "profiles": {"default": {"precision": "bf16"}}}
"""Served by an engine of its own."""
SLOW = "engine.step=delay:0.02#1+"


def _waiting(served: Served) -> int:
    with served.witness.client() as http:
        lines = http.get("/metrics").text.splitlines()
    name = "purvey_engine_requests_waiting{"
    return sum(int(float(line.split()[1])) for line in lines if line.startswith(name))


@pytest.mark.row("CRA-15", "CRA-17")
def test_an_engine_killed_under_load_cuts_off_who_had_begun_and_nobody_else(
    world: World, tmp_path: Path
) -> None:
    """And a server killed after that has put whatever it answered into the ledger, once."""
    metered = Metered(4)
    world.copy_to(tmp_path)
    other_body = {"model": "apart", "prompt": prompt(1), "seed": 9, "max_tokens": 100}
    bodies = [{"model": BASE, "prompt": prompt(n), **LONG} for n in range(NUM_RUNNING)]
    with ExitStack() as stack:
        served = stack.enter_context(up(tmp_path, failpoints=SLOW, **CROWDED))
        http = stack.enter_context(served.witness.client(timeout=200))
        threads = stack.enter_context(ThreadPoolExecutor(NUM_RUNNING + NUM_QUEUED + 1))
        http.post("/v1/deployments", json=APART).raise_for_status()
        alone = Heard()
        follow(http, other_body, alone)
        expected = [text_of(ask(http, BASE, number, **SHORT)) for number in range(4)]
        assert len(set(expected)) > 1
        doomed = served.workers("engine")[-1]

        cut, other = [Heard() for _ in bodies], Heard()
        streams = [threads.submit(follow, http, b, h) for b, h in zip(bodies, cut, strict=True)]
        wait_until(lambda: all(heard.parts for heard in cut))
        streams.append(threads.submit(follow, http, other_body, other))
        queued = [
            threads.submit(ask, http, BASE, number % 4, **SHORT) for number in range(NUM_QUEUED)
        ]
        wait_until(lambda: bool(other.parts) and _waiting(served) == NUM_QUEUED)
        assert not any(heard.is_over for heard in cut)
        assert kill(doomed)
        assert [text_of(answer.result()) for answer in queued] == expected * (NUM_QUEUED // 4)
        for stream in streams:
            stream.result()

        assert other.parts == alone.parts
        assert other.is_done
        assert not other.errors
        for heard in cut:
            assert [error["code"] for error in heard.errors] == ["worker_crashed"]
            assert not heard.is_done
        assert doomed.pid not in [worker.pid for worker in served.workers("engine")]
        with metered.asking(served):
            wait_until(lambda: len(metered.answered) > 8)
            assert served.stop(signal.SIGKILL) == -signal.SIGKILL
    assert metered.num_unknown > 0
    metered.check(tmp_path / "data")
    lines = ledger(tmp_path / "data")
    for heard in cut:
        line = lines[heard.request_id]
        assert (line["status"], line["input_tokens"]) == ("error", 9)
        assert line["output_tokens"] >= sum(bool(part) for part in heard.parts) > 0


def _meter_through_kills(world: World, root: Path, victims: list[tuple[str, float]]) -> Metered:
    world.copy_to(root)
    metered = Metered(4)
    with ExitStack() as stack:
        served = stack.enter_context(up(root))
        for victim, after_s in victims:
            before = len(metered.answered)
            with metered.asking(served):
                wait_until(lambda: len(metered.answered) > before + 8)  # noqa: B023 (waited for here)
                threading.Event().wait(after_s)
                if victim == "engine":
                    assert kill(served.workers("engine")[-1])
                    threading.Event().wait(after_s)
                else:
                    assert served.stop(signal.SIGKILL) == -signal.SIGKILL
            if victim == "server":
                stack.pop_all().close()
                served = stack.enter_context(up(root))
        assert served.stop() == 0
    metered.check(root / "data")
    return metered


@pytest.mark.faults
@pytest.mark.row("CRA-15")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_answers_are_metered_once_through_kills_at_random(
    world: World, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 (chance of a test)
    victims = [(chance.choice(("engine", "server")), chance.uniform(0, 1.5)) for _ in range(4)]
    metered = _meter_through_kills(world, tmp_path, victims)
    assert metered.num_unknown <= metered.num_clients * len(victims)
    tell(len(victims), f"seed {seed}: {victims}, {len(metered.answered)} answered")
