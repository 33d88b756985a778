"""Jobs whose worker, server, or both are killed: each succeeds by itself, as if undisturbed.

A fault is a plan of `purvey.failpoints`; its id replays it.
"""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.matrix.kills import (
    SETTINGS,
    TRAINED,
    World,
    attempts,
    messages,
    run_with,
    tell,
    wait_until_ended,
)
from tests.matrix.served import serving
from tests.matrix.waiting import wait_until

SLOW_EVALS = "eval.done=delay:0.6#1+"
SLOW_STEPS = "train.step=delay:0.15#1+"
"""Either makes a run of a second last long enough for several checkpoints."""
WORKER = {
    "job.received": (1,),
    "data.ready": (1,),
    "base.loaded": (1,),
    "train.step": (1, 2, 8, 18),
    "eval.done": (1, 2, 5),
    "ckpt.tmp": (1, 2, 3),
    "ckpt.fsync": (1, 3, 6, 9),
    "ckpt.renamed": (1, 2, 3),
    "gc.old": (1, 2),
    "ckpt.reported": (1, 2, 3),
    "output.written": (1,),
}
"""Places of a worker, and the times at which it is killed there."""
PAIRS = (("table", "adapter"), ("images", "language"), ("adapter", "images"), ("language", "table"))
SERVER = {
    "job.created": (1,),
    "job.committed": (1,),
    "resp.sent": (1,),
    "lease.taken": (1, 2),
    "ckpt.committed": (1, 2, 3),
    "artifact.published": (1, 2),
    "model.registered": (1,),
    "usage.settled": (1, 2),
    "job.terminal": (1, 2),
    "db.commit": (4, 5, 8, 11, 15, 20),  # the first three are of the start
    "disk.fsync": (1, 3),
}


def enumerate_plans(places: dict[str, tuple[int, ...]], action: str) -> list[tuple[int, str]]:
    """Return the plans that kill once at each place and time, numbered."""
    plans = [
        f"{SLOW_STEPS if name == 'eval.done' else SLOW_EVALS},{name}={action}#{hit}"
        for name, hits in places.items()
        for hit in hits
    ]
    return list(enumerate(plans))


def _is_reached(plan: str, name: str) -> bool:
    """Tell whether a job gets to where the plan kills its worker."""
    point, _, hit = plan.split(",")[-1].partition("=kill9#")
    if name == "rows":
        return point in {"job.received", "output.written"}
    if name == "adapter":
        return point != "data.ready"  # its rows are files of conversations
    return name != "language" or (point, hit) != ("train.step", "18")  # it has 9 steps


def _survive_lost_workers(world: World, root: Path, plan: str, *names: str) -> int:
    """Run jobs whose workers are killed and return how many were."""
    run = run_with(world, root, plan, names)
    assert run.num_deaths == 0
    killed = {name: attempts(root, job_id) - 1 for name, job_id in run.jobs.items()}
    assert killed == {name: int(_is_reached(plan, name)) for name in names}
    world.check(root, run.jobs)
    return sum(killed.values())


def _survive_a_lost_server(world: World, root: Path, plan: str, *names: str) -> None:
    run = run_with(world, root, plan, names)
    assert run.num_deaths == 1
    world.check(root, run.jobs)


@pytest.mark.row("CRA-03")
def test_jobs_whose_workers_are_killed_end_as_if_undisturbed(world: World, tmp_path: Path) -> None:
    plan = f"{SLOW_EVALS},train.step=kill9#8"
    assert _survive_lost_workers(world, tmp_path, plan, "table", "adapter") == 2


@pytest.mark.faults
@pytest.mark.row("CRA-05")
@pytest.mark.timeout(400)
def test_a_stopped_worker_is_taken_for_dead_and_never_comes_back(
    whole_world: World, tmp_path: Path
) -> None:
    """Its lease runs out; it ends before another begins, so there is nobody left to continue."""
    whole_world.copy_to(tmp_path)
    plan = "train.step=stop#20,output.written=kill9"
    settings = SETTINGS | {"JOB_LEASE_S": "15"}
    with serving(tmp_path, settings=settings, failpoints=plan) as served:
        jobs = {name: whole_world.submit(served, name, key=name) for name in ("images", "rows")}
        stopped: list[psutil.Process] = []

        def is_stopped() -> bool:
            stopped.extend(w for w in served.workers("job") if _status(w) == psutil.STATUS_STOPPED)
            return bool(stopped)

        wait_until(is_stopped)
        wait_until(lambda: attempts(tmp_path, jobs["images"]) > 1)
        with pytest.raises(ProcessLookupError):
            os.kill(stopped[0].pid, signal.SIGCONT)
        wait_until_ended(tmp_path, jobs.values())
        assert served.stop() == 0
    said = " ".join(messages(tmp_path, jobs["images"]))
    assert "the worker was silent for 15 s" in said
    assert "killed by signal 9" in " ".join(messages(tmp_path, jobs["rows"]))
    assert "starts from the checkpoint of step" in said
    whole_world.check(tmp_path, jobs)


@pytest.mark.faults
@pytest.mark.row("CRA-03")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "plan"), enumerate_plans(WORKER, "kill9"))
def test_workers_killed_at_each_place(
    whole_world: World, tmp_path: Path, number: int, plan: str
) -> None:
    names = [*PAIRS[number % 4], *(("rows",) if _is_reached(plan, "rows") else ())]
    tell(_survive_lost_workers(whole_world, tmp_path, plan, *names), plan)


@pytest.mark.faults
@pytest.mark.row("CRA-03")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "plan"), enumerate_plans(WORKER, "kill9_both"))
def test_worker_and_server_killed_at_each_place(
    whole_world: World, tmp_path: Path, number: int, plan: str
) -> None:
    reaching = [name for name in TRAINED if _is_reached(plan.replace("kill9_both", "kill9"), name)]
    _survive_a_lost_server(whole_world, tmp_path, plan, reaching[number % len(reaching)])
    tell(1, plan)


@pytest.mark.faults
@pytest.mark.row("CRA-01", "CRA-03")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "plan"), enumerate_plans(SERVER, "kill9"))
def test_a_server_killed_at_each_place(
    whole_world: World, tmp_path: Path, number: int, plan: str
) -> None:
    _survive_a_lost_server(whole_world, tmp_path, plan, PAIRS[number % 4][0], "rows")
    tell(1, plan)


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return "gone"
