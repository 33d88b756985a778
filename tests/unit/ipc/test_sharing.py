"""Who is put where, and when; and the threads of a real process, moved."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from purvey.ipc.processors import Core, cores_of, run_on
from purvey.ipc.sharing import Sharing

ALL = frozenset(range(4))
JOBS, ENGINES = frozenset({0, 1}), frozenset({2, 3})


class Process:
    """Remembers where it was put; ends when told."""

    def __init__(self, *, refusal: OSError | None = None) -> None:
        self.places: list[AbstractSet[int]] = []
        self.moved = asyncio.Event()
        self._refusal = refusal
        self._ended: list[Callable[[], None]] = []

    def run_on(self, processors: AbstractSet[int]) -> None:
        if self._refusal is not None:
            raise self._refusal
        self.places.append(processors)
        self.moved.set()

    def when_ended(self, call: Callable[[], None]) -> None:
        self._ended.append(call)

    def end(self) -> None:
        for call in self._ended:
            call()


class Stage:
    """A machine of four cores that are told by nothing but their numbers."""

    def __init__(self, *, calm_s: float = 3_600.0, **changes: float) -> None:
        self.allowed = ALL
        values = {"job_share": 0.5, "num_processors": 4} | changes
        self.sharing = Sharing(
            job_share=values["job_share"],
            num_processors=int(values["num_processors"]),
            calm_s=calm_s,
            allowed=lambda: self.allowed,
        )

    def job(self) -> Process:
        process = Process()
        self.sharing.add_job(process)
        return process

    def engine(self, *, is_busy: bool = False) -> Process:
        process = Process()
        self.sharing.add_engine(process)
        self.busy(process, is_busy=is_busy)
        return process

    def busy(self, process: Process, *, is_busy: bool) -> None:
        self.sharing.tell_busy(process, is_busy=is_busy)


@pytest.fixture(autouse=True)
def _plain_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may have two threads to a core, or fewer processors."""
    monkeypatch.setattr(
        "purvey.ipc.sharing.cores_of", lambda allowed: [Core({one}) for one in sorted(allowed)]
    )


async def test_they_part_with_the_first_request_and_not_again_with_the_next() -> None:
    stage = Stage()
    job, engine = stage.job(), stage.engine()
    assert (job.places, engine.places) == ([], []), "nobody asks anything"
    stage.busy(engine, is_busy=True)
    assert (job.places, engine.places) == ([JOBS], [ENGINES])
    stage.busy(engine, is_busy=False)
    stage.busy(engine, is_busy=True)
    assert (job.places, engine.places) == ([JOBS], [ENGINES]), "a pause is not calm"


async def test_calm_gives_everything_back() -> None:
    stage = Stage(calm_s=0.001)
    job, engine = stage.job(), stage.engine(is_busy=True)
    job.moved.clear()
    stage.busy(engine, is_busy=False)
    await job.moved.wait()
    assert (job.places, engine.places) == ([JOBS, ALL], [ENGINES, ALL])
    stage.busy(engine, is_busy=True)
    assert (job.places[-1], engine.places[-1]) == (JOBS, ENGINES)


async def test_another_engine_that_is_busy_keeps_jobs_to_their_part() -> None:
    stage = Stage(calm_s=0.001)
    job, one, other = stage.job(), stage.engine(is_busy=True), stage.engine(is_busy=True)
    stage.busy(one, is_busy=False)
    await asyncio.sleep(0.01)
    assert job.places == [JOBS]
    job.moved.clear()
    stage.busy(other, is_busy=False)
    await job.moved.wait()
    assert job.places == [JOBS, ALL]


async def test_engines_without_a_job_use_everything() -> None:
    stage = Stage()
    engine = stage.engine(is_busy=True)
    assert engine.places == []
    job = stage.job()
    assert (job.places, engine.places) == ([JOBS], [ENGINES]), "a job that comes while one computes"
    job.end()
    assert engine.places == [ENGINES, ALL], "and that ends while one computes"


async def test_who_comes_later_is_put_in_place_too() -> None:
    stage = Stage()
    stage.job(), stage.engine(is_busy=True)
    assert stage.job().places == [JOBS]
    assert stage.engine().places == [ENGINES]


async def test_an_engine_that_dies_with_its_requests_keeps_nobody_away() -> None:
    stage = Stage(calm_s=0.001)
    job, engine = stage.job(), stage.engine(is_busy=True)
    job.moved.clear()
    engine.end()
    await job.moved.wait()
    assert job.places == [JOBS, ALL]
    stage.busy(engine, is_busy=True)  # somebody who has not heard of its end yet
    assert job.places == [JOBS, ALL]


async def test_a_share_of_all_or_a_single_processor_moves_nobody() -> None:
    for stage in (Stage(job_share=1.0), Stage(num_processors=1)):
        job, engine = stage.job(), stage.engine(is_busy=True)
        assert (job.places, engine.places) == ([], [])


async def test_a_quota_is_divided_and_not_the_machine() -> None:
    stage = Stage(num_processors=2)
    job, engine = stage.job(), stage.engine(is_busy=True)
    assert [len(job.places[-1]), len(engine.places[-1])] == [1, 1]
    assert not job.places[-1] & engine.places[-1]
    assert job.places[-1] | engine.places[-1] <= ALL


async def test_a_container_that_is_moved_is_divided_anew() -> None:
    stage = Stage(calm_s=0.001)
    job, engine = stage.job(), stage.engine(is_busy=True)
    stage.allowed = frozenset({8, 9})
    stage.busy(stage.engine(), is_busy=True)  # whatever happens next makes it look
    assert (job.places[1:], engine.places[1:]) == ([{8}], [{9}])


async def test_a_kernel_that_refuses_is_told_of_and_the_others_are_moved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.sharing.add_job(Process(refusal=PermissionError(1, "no")))
    job = stage.job()
    with caplog.at_level(logging.WARNING):
        stage.engine(is_busy=True)
    assert [record.message for record in caplog.records] == ["cores.not_shared"]
    assert job.places == [JOBS]


THREADS = """
import sys, threading
begun = threading.Barrier(4)
def wait(): begun.wait(); sys.stdin.read()
for _ in range(3): threading.Thread(target=wait).start()
begun.wait(); print("begun", flush=True)
"""


def test_every_thread_of_a_process_is_moved_and_back() -> None:
    allowed = os.sched_getaffinity(0)
    with subprocess.Popen(
        [sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        for processors in ({min(allowed)}, allowed):
            run_on(process.pid, processors)
            threads = [int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir()]
            assert len(threads) >= 4
            assert {frozenset(os.sched_getaffinity(one)) for one in threads} == {
                frozenset(processors)
            }
        process.kill()
    run_on(process.pid, allowed)  # it is gone: harmless


def test_a_thread_that_is_made_follows_its_maker() -> None:
    """Which is why a process that is moved while it starts need not be moved again."""
    found: list[set[int]] = []
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
    finally:
        os.sched_setaffinity(0, before)
    assert found == [{min(before)}]


def test_processors_are_gathered_into_cores_as_the_kernel_tells(tmp_path: Path) -> None:
    for number, siblings in enumerate(("0,4", "1,5", "2-3", "2-3", "0,4", "nonsense")):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert cores_of(range(7), topology=tmp_path) == [{0, 4}, {1, 5}, {2, 3}, {6}]
    assert cores_of({1, 2, 4}, topology=tmp_path) == [{1}, {2}, {4}], "only those it may use"
