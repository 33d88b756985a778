"""Workers and servers killed by their pid at moments that a seed chooses; the id replays it."""

import random
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.matrix.invariants import job_row
from tests.matrix.kills import SETTINGS, World, kill, tell, wait_until_ended
from tests.matrix.served import Served, serving
from tests.matrix.waiting import wait_until

NUM_KILLS = 5
JOBS = ("images", "table", "adapter", "language", "rows")
VICTIMS = ("worker", "server", "both")


class Storm:
    """A server whose processes are killed, one moment after the other.

    Args:
        world: Where its jobs come from.
        root: An empty folder.
        seed: Of jobs, victims and moments.
    """

    def __init__(self, world: World, root: Path, seed: int) -> None:
        self._world, self._root, self._chance = world, root, random.Random(seed)  # noqa: S311 (chance of a test)
        self.told: list[str] = []
        self.jobs: dict[str, str] = {}

    def run(self) -> None:
        """Begin two jobs, kill, and wait until they have ended."""
        self._world.copy_to(self._root)
        with ExitStack() as running:
            served = running.enter_context(serving(self._root, settings=SETTINGS))
            for name in ("images", self._chance.choice(JOBS[1:])):
                self.jobs[name] = self._world.submit(served, name, key=name)
            for _ in range(NUM_KILLS):
                victim, after_s = self._chance.choice(VICTIMS), self._chance.uniform(0.1, 3.5)
                wait_until(lambda: self._is_over() or bool(served.workers("job")))  # noqa: B023 (waited for here)
                threading.Event().wait(after_s)
                if self._is_over():
                    break
                if self._kill(served, victim):
                    self.told.append(f"{victim} after {after_s:.2f} s")
                if victim != "worker":
                    running.pop_all().close()
                    served = running.enter_context(serving(self._root, settings=SETTINGS))
            wait_until_ended(self._root, self.jobs.values())
            assert served.stop() == 0

    def _kill(self, served: Served, victim: str) -> bool:
        workers = served.workers("job")
        is_killed = bool(workers) and victim != "server" and kill(self._chance.choice(workers))
        if victim == "worker":
            return is_killed
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
        return True

    def _is_over(self) -> bool:
        rows = [job_row(self._root / "data", job_id) for job_id in self.jobs.values()]
        return all(row["status"] == "succeeded" for row in rows)


@pytest.mark.faults
@pytest.mark.row("CRA-03")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(30))
def test_jobs_survive_kills_at_random(whole_world: World, tmp_path: Path, seed: int) -> None:
    storm = Storm(whole_world, tmp_path, seed)
    storm.run()
    tell(len(storm.told), f"seed {seed}, {', '.join(storm.jobs)}: {'; '.join(storm.told)}")
    whole_world.check(tmp_path, storm.jobs)
