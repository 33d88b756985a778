"""A sweep that is killed in its middle ends as one that was not: no trial lost or counted twice."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from purvey.contracts.jobs import TERMINAL
from purvey.contracts.sweep.config import SweepConfig
from purvey.contracts.sweep.messages import Trial
from purvey.jobs.sweeps.standing import best_of, config_of
from purvey.testing.workshop import Workshop
from purvey.train.sweep import suggest
from tests.e2e.swept_server import OPTIMUM, Launcher, worth

HERE = Path(__file__).parent
RATE = "optimizer.learning_rate"
SPACE = {RATE: {"low": 1e-5, "high": 1.0, "log": True}}
NUM_TRIALS = 12


def run_and_kill(folder: Path) -> str:
    """Kill what searches after three trials, and the server after six; return the sweep's id."""
    command = [sys.executable, str(HERE / "swept_server.py"), str(folder), json.dumps(SPACE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        sweep_id = server.stdout.readline().strip()
        for _ in range(3):
            assert server.stdout.readline(), "the server ended"
        [worker] = psutil.Process(server.pid).children(recursive=True)
        worker.kill()
        for _ in range(3):
            assert server.stdout.readline(), "the server ended"
        [worker] = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
    psutil.wait_procs([worker], timeout=30)
    return sweep_id


def undisturbed(config: SweepConfig) -> list[float]:
    """The rates that an undisturbed search tries, by the search itself."""
    trials: list[Trial] = []
    for number in range(NUM_TRIALS):
        parameters = suggest(config, trials)
        value = worth(parameters[RATE])
        trials.append(Trial(number=number, parameters=parameters, state="complete", value=value))
    return [trial.parameters[RATE] for trial in trials]


async def test_a_sweep_of_twelve_trials_is_killed_half_way_and_finds_a_planted_optimum(
    tmp_path: Path,
) -> None:
    sweep_id = await asyncio.to_thread(run_and_kill, tmp_path)
    async with Workshop(tmp_path, Launcher()) as workshop:
        done = await workshop.until(sweep_id, *TERMINAL)
        assert (done.status, done.error) == ("succeeded", None)
        views = await workshop.trials(sweep_id)
        history = await workshop.history(sweep_id)
        page = await workshop.service.page(done.project_id, api="training", limit=100)
        for job in [done, *page.items]:
            await workshop.check(job.id)
    assert {job.fence for job in page.items} > {1}, "no trial died"
    assert [view.record.number for view in views] == list(range(NUM_TRIALS))
    assert {view.state for view in views} == {"complete"}
    assert {job.id for job in page.items} == {view.job.id for view in views}
    assert [view.record.parameters[RATE] for view in views] == undisturbed(config_of(done))
    assert [view.value for view in views] == [worth(v.record.parameters[RATE]) for v in views]
    told = [event.data["trial"] for event in history if event.type == "metrics"]
    assert told == list(range(NUM_TRIALS))
    best = best_of(views, config_of(done).direction)
    assert best is not None
    assert OPTIMUM / 3 < best.record.parameters[RATE] < 3 * OPTIMUM
    assert any("was lost" in event.message for event in history), "nothing was killed"
