"""The processes of a divided run: started by the first rank, missed by it, and gone with it."""

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from purvey.worker.job import failure_of
from purvey.worker.job_link import JobInterrupted, RankFailed
from tests.numerics.test_train_parallel import content
from tests.numerics.test_train_resume import (
    ADAMW,
    Jobs,
    Link,
    classifier_recipe,
    language_recipe,
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


@pytest.mark.train
def test_a_rank_that_dies_between_its_files_leaves_the_checkpoint_before(jobs: Jobs) -> None:
    recipe, dataset = language_recipe(ADAMW), jobs.dataset("rows.csv", sentences())
    whole, work = jobs.run(recipe, dataset, link=Link(), work=jobs.folder()), jobs.folder()
    paused = Link(stop_at=3)
    with pytest.raises(JobInterrupted):
        jobs.run(recipe, dataset, link=paused, work=work)
    resume: dict[str, Any] = {"work": work, "resume_from": paused.checkpoints[-1].folder}
    divided, again = recipe | {"parallel": {"strategy": "fsdp"}}, Link(stop_at=2)
    with pytest.raises(RankFailed, match=r"rank 1 of 2 ended by SIGKILL\."):
        jobs.run(
            divided,
            dataset,
            link=again,
            num_threads=2,
            failpoints="ckpt.fsync=kill9#2",  # of this rank alone: the first one is this process
            **resume,
        )
    assert again.checkpoints == []
    assert [path.name for path in (work / "checkpoints").glob("step-*")] == ["step-00000003"]
    assert len(list(work.glob("checkpoints/.writing-*/model-?-of-2.safetensors"))) == 2
    assert sha256(jobs.run(recipe, dataset, link=Link(), **resume)) == sha256(whole)


@pytest.mark.train
def test_three_go_on_from_two_whose_parts_are_unequal(jobs: Jobs) -> None:
    """Sizes that neither number divides: some ranks hold nothing of some weights."""
    recipe, dataset = language_recipe(ADAMW), jobs.dataset("rows.csv", sentences())
    recipe["model"]["hyperparameters"] |= {"hidden_size": 20, "num_layers": 1, "mlp_size": 4}
    recipe["train"] |= {"ema_decay": 0.5}
    last, states = None, []
    for ranks in (2, 3, 2, 1):
        link = Link(stop_at=3 if last is None else 0)
        divided = {} if ranks == 1 else {"parallel": {"strategy": "fsdp", "ranks": ranks}}
        with pytest.raises(JobInterrupted):
            jobs.run(recipe | divided, dataset, link=link, work=jobs.folder(), resume_from=last)
        last = link.checkpoints[-1].folder
        states.append(content(last))
    (_, first), *others = states
    assert first["optimizer"]
    for _, parts in others:
        assert parts.keys() == first.keys()
        for name, tensors in first.items():
            assert parts[name].keys() == tensors.keys()
            assert all(torch.equal(parts[name][key], tensors[key]) for key in tensors), name
