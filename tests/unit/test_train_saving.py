"""Checkpoints that are written beside training: what is in them, when they fail, how they end."""

import errno
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from purvey.errors import DivergedError
from purvey.train.checkpoint import Snapshot, Written, read_checkpoint, write_checkpoint
from purvey.train.saving import staging, writer
from purvey.train.saving.writer import CheckpointWriter
from purvey.train.state import RunState
from purvey.train.step import BatchLoss
from tests.unit.test_train_trainer import Line, Told, config, trainer


class Gate:
    """Lets a write begin, and end when the test says so."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.failure: OSError | None = None

    def write(self, snapshot: Snapshot, root: Path, *, run_digest: str) -> Written:
        self.entered.set()
        assert self.opened.wait(20)
        if self.failure is not None:
            raise self.failure
        return write_checkpoint(snapshot, root, run_digest=run_digest)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(writer, "write_checkpoint", made.write)
    yield made
    made.opened.set()


class Reports:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, snapshot: Snapshot, written: Written) -> None:
        assert written.folder.is_dir()
        self.steps.append(snapshot.state.step)


def snapshot(step: int, weight: torch.Tensor) -> Snapshot:
    live = {"w": weight}
    return Snapshot(state=RunState(step=step), model=live, optimizer=live, best=None, average=live)


def open_writer(root: Path, reports: Reports) -> CheckpointWriter:
    return CheckpointWriter(root, run_digest="run", report=reports)


def test_what_is_written_is_the_state_at_its_step(tmp_path: Path, gate: Gate) -> None:
    weight, reports = torch.full((3,), 1.0), Reports()
    with open_writer(tmp_path, reports) as writing:
        writing.begin(snapshot(1, weight))
        assert gate.entered.wait(20)
        assert (writing.is_busy, reports.steps) == (True, [])
        weight.fill_(2.0)
        gate.opened.set()
        writing.begin(snapshot(2, weight))  # waits for the first
        assert reports.steps == [1]
        weight.fill_(3.0)
    assert reports.steps == [1, 2]
    for step in (1, 2):
        found = read_checkpoint(tmp_path / f"step-{step:08d}", run_digest="run")
        assert found.average is not None
        for part in (found.model, found.optimizer, found.average):
            assert part["w"].tolist() == [step] * 3


def test_where_memory_is_short_the_state_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "free_memory", lambda: 70)  # half of it is less than 36 bytes
    weight, reports = torch.full((3,), 1.0), Reports()
    with open_writer(tmp_path, reports) as writing:
        writing.begin(snapshot(1, weight))
        assert (writing.is_busy, reports.steps) == (False, [1])


def test_ranks_that_copy_at_once_share_what_memory_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(staging, "free_memory", lambda: 80)  # 36 bytes are copied
    held = snapshot(1, torch.ones(3))
    assert staging.Staging().copy(held, num_ranks=2) is None
    assert staging.Staging().copy(held) is not None


def test_buffers_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.full((3,), 1.0)
    made = staging.Staging()
    first = made.copy(snapshot(1, weight))
    monkeypatch.setattr(staging, "free_memory", lambda: 0)
    second = made.copy(snapshot(2, weight.add_(1)))
    assert first is not None
    assert second is not None
    assert first.model["w"].data_ptr() == second.model["w"].data_ptr() != weight.data_ptr()
    assert second.model["w"].tolist() == [2.0] * 3


def test_a_failure_is_raised_at_the_next_look_and_only_once(tmp_path: Path, gate: Gate) -> None:
    gate.failure = OSError(errno.ENOSPC, "full")
    reports = Reports()
    with open_writer(tmp_path, reports) as writing:
        writing.begin(snapshot(1, torch.ones(1)))
        writing.check()  # still being written
        gate.opened.set()
        with pytest.raises(OSError, match="full") as raised:
            writing.finish()
        assert raised.value.errno == errno.ENOSPC
        writing.check()
    assert reports.steps == []


def test_leaving_waits_for_the_last_write_and_raises_its_failure(
    tmp_path: Path, gate: Gate
) -> None:
    gate.failure = OSError(errno.EIO, "refused")

    def write_and_leave() -> None:
        with open_writer(tmp_path, Reports()) as writing:
            writing.begin(snapshot(1, torch.ones(1)))
            gate.opened.set()

    with pytest.raises(OSError, match="refused"):
        write_and_leave()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, gate: Gate) -> None:
    learner = Line()
    made = trainer(tmp_path, learner, told := Told(), recipe=config(epochs=2))
    steps_meanwhile: list[int] = []
    plain = learner.loss

    def loss(rows: Sequence[int]) -> BatchLoss:
        if len(learner.visited) == 4:
            made.save()
            assert gate.entered.wait(20)
        steps_meanwhile.append(len(learner.visited))
        if len(learner.visited) == 14:
            assert told.saved == []
            gate.opened.set()
        return plain(rows)

    learner.loss = loss  # type: ignore[method-assign]  # watched from inside
    made.run()
    assert [saved.step for saved in told.saved] == [1, 6]
    assert steps_meanwhile == [0, 4, 8, 10, 14, 18]


def test_a_diverging_run_leaves_the_checkpoint_that_was_being_written(
    tmp_path: Path, gate: Gate
) -> None:
    learner = Line()
    made = trainer(tmp_path, learner, told := Told())
    plain = learner.loss

    def loss(rows: Sequence[int]) -> BatchLoss:
        batch = plain(rows)
        if len(learner.visited) > 4:
            made.save()
            gate.opened.set()
            batch.loss.data.fill_(float("nan"))
        return batch

    learner.loss = loss  # type: ignore[method-assign]  # made to diverge
    with pytest.raises(DivergedError):
        made.run()
    [saved] = told.saved
    assert read_checkpoint(Path(saved.folder), run_digest="run").state.step == 1
