"""The processes of a divided run: started by the first rank, missed by it, and gone with it."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from purvey.worker.job import failure_of
from purvey.worker.job_link import JobInterrupted, RankFailed
from tests.numerics.test_train_resume import (
    ADAMW,
    Jobs,
    Link,
    classifier_recipe,
    sentences,
    sha256,
)


def others() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "rank" in p.cmdline()]


class Killing(Link):
    """Kills the other rank before a step; asked only by the first one."""

    def __init__(self, *, at: int) -> None:
        super().__init__()
        self._left = at

    @property
    def stop_requested(self) -> None:
        self._left -= 1
        if self._left == 0:
            [rank] = others()
            rank.kill()


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def test_a_killed_rank_is_told_and_the_run_goes_on(jobs: Jobs) -> None:
    """One process pauses, two go on and lose a rank, one goes on again: to the very bits of one."""
    recipe, dataset = classifier_recipe(ADAMW), jobs.dataset("rows.csv", sentences())
    whole, work = jobs.run(recipe, dataset, link=Link(), work=jobs.folder()), jobs.folder()
    paused = Link(stop_at=3)
    with pytest.raises(JobInterrupted):
        jobs.run(recipe, dataset, link=paused, work=work)
    resume: dict[str, Any] = {"work": work, "resume_from": paused.checkpoints[-1].folder}
    divided = recipe | {"parallel": {"strategy": "ddp"}}
    with pytest.raises(RankFailed, match=r"rank 1 of 2 ended by SIGKILL\.") as lost:
        jobs.run(divided, dataset, link=Killing(at=4), num_threads=2, **resume)
    failure = failure_of(lost.value)
    assert (failure.code, failure.is_transient) == ("worker_crashed", True)
    assert others() == []
    assert list(work.glob("ranks-*")) == []
    assert sha256(jobs.run(recipe, dataset, link=Link(), **resume)) == sha256(whole)


def test_a_single_thread_trains_in_one_process(jobs: Jobs) -> None:
    recipe, dataset = classifier_recipe(ADAMW), jobs.dataset("rows.csv", sentences())
    whole = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    link = Link()
    divided = recipe | {"parallel": {"strategy": "ddp"}}
    alone = jobs.run(divided, dataset, link=link, work=jobs.folder())
    assert link.events[0] == "A job has one thread here, so a single process trains."
    assert sha256(alone) == sha256(whole)
