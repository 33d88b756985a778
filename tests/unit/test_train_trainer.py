"""The loop on a problem with a known answer; its checkpoints; its ends."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from purvey.contracts.jobs import CheckpointSaved
from purvey.contracts.recipe import TrainConfig
from purvey.errors import DivergedError, IntegrityError
from purvey.testing.clock import FakeClock
from purvey.train.checkpoint import Snapshot, read_checkpoint, write_checkpoint
from purvey.train.early_stopping import Validation
from purvey.train.saving.writer import CheckpointWriter
from purvey.train.state import RunState, own_tensors
from purvey.train.step import BatchLoss
from purvey.train.trainer import Trainer

ROWS = 10


class Line:
    """Fits y = 2 x + 1; validation scores come from a script, when there is one."""

    def __init__(self, scores: Sequence[float] = (), *, clock: FakeClock | None = None) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(1, 1)
        self.scores, self.visited, self.clock = list(scores), list[int](), clock
        self.weights_at_eval: list[Tensor] = []
        self.x = torch.linspace(-1, 1, ROWS)[:, None]

    @property
    def module(self) -> nn.Module:
        return self.network

    @property
    def num_rows(self) -> int:
        return ROWS

    def order(self, epoch: int) -> Sequence[int]:
        return [(row + epoch) % ROWS for row in range(ROWS)]

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        if self.clock is not None:
            self.clock.advance(1.0)
        self.visited += rows
        x = self.x[list(rows)]
        error = self.network(x) - (2 * x + 1)
        return BatchLoss(loss=error.square().mean(), num_rows=len(rows), num_tokens=3 * len(rows))

    def validate(self) -> Validation | None:
        if not self.scores:
            return None
        self.network.eval()
        self.weights_at_eval.append(self.network.weight.detach().clone())
        score = self.scores.pop(0)
        return Validation(score=score, loss=1 - score, metrics={"valid_loss": 1 - score})


class Told:
    def __init__(self, *, stop_at: int | None = None) -> None:
        self.reports: list[dict[str, Any]] = []
        self.sentences: list[str] = []
        self.saved: list[CheckpointSaved] = []
        self._left = stop_at

    @property
    def stop_requested(self) -> Literal["pause"] | None:
        if self._left is None:
            return None
        self._left -= 1
        return "pause" if self._left < 0 else None

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        self.sentences.append(message)
        self.reports.append(data)

    def checkpoint(self, saved: CheckpointSaved) -> None:
        self.saved.append(saved)


def config(**loop: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "task": "classification",
            "optimizer": {"name": "sgd", "learning_rate": 0.2, "momentum": 0.5},
            "schedule": {"name": "constant", "warmup_fraction": 0.0},
            "train": {"batch_size": 4, "epochs": 2, **loop},
        }
    )


def trainer(
    tmp_path: Path,
    learner: Line,
    told: Told,
    *,
    clock: FakeClock | None = None,
    recipe: TrainConfig | None = None,
) -> Trainer:
    return Trainer(
        learner,
        recipe or config(),
        progress=told,
        clock=clock or FakeClock(),
        checkpoints=tmp_path / "checkpoints",
        run_digest="run",
    )


def test_it_learns_and_visits_every_row_once_an_epoch(tmp_path: Path) -> None:
    learner, told = Line(), Told()
    outcome = trainer(tmp_path, learner, told, recipe=config(epochs=60)).run()
    assert learner.network.weight.item() == pytest.approx(2, abs=0.01)
    assert learner.network.bias.item() == pytest.approx(1, abs=0.01)
    assert sorted(learner.visited[:ROWS]) == list(range(ROWS))
    assert outcome.state.step == 180  # 3 batches of at most 4 rows, 60 epochs
    assert (outcome.state.rows_seen, outcome.state.tokens_seen) == (600, 1_800)
    assert told.reports[-1]["step"] == told.reports[-1]["total_steps"] == 180
    assert told.sentences[-1].startswith("Step 180/180: training loss=0.0")
    assert not learner.network.training


@pytest.mark.parametrize(
    ("loop", "steps"),
    [({"epochs": 1.5}, 5), ({"max_steps": 4}, 4), ({"epochs": 2, "max_steps": 100}, 6)],
)
def test_the_run_is_as_long_as_asked(tmp_path: Path, loop: dict[str, Any], steps: int) -> None:
    made = trainer(tmp_path, Line(), Told(), recipe=config(**loop))
    assert made.run().state.step == steps


def test_the_best_weights_are_the_ones_left(tmp_path: Path) -> None:
    learner, told = Line([0.1, 0.9, 0.5, 0.4]), Told()
    outcome = trainer(tmp_path, learner, told, recipe=config(epochs=4)).run()
    assert outcome.state.best is not None
    assert outcome.state.best.step == 6
    assert torch.equal(learner.network.weight, learner.weights_at_eval[1])
    assert [r["valid_loss"] for r in told.reports if "valid_loss" in r] == pytest.approx(
        [0.9, 0.1, 0.5, 0.6]
    )


def test_patience_ends_the_run(tmp_path: Path) -> None:
    learner = Line([0.9, 0.5, 0.4, 0.3, 0.2])
    recipe = config(epochs=5, early_stopping={"patience": 2})
    outcome = trainer(tmp_path, learner, Told(), recipe=recipe).run()
    assert outcome.state.step == 9
    assert outcome.state.is_finished


def test_evaluations_fall_evenly_in_an_epoch(tmp_path: Path) -> None:
    told = Told()
    recipe = config(batch_size=1, epochs=1, evals_per_epoch=5)
    trainer(tmp_path, Line([0.1] * 5), told, recipe=recipe).run()
    assert [r["step"] for r in told.reports if "valid_loss" in r] == [2, 4, 6, 8, 10]


def test_a_time_limit_ends_the_run_and_the_schedule_with_it(tmp_path: Path) -> None:
    clock, told = FakeClock(), Told()
    recipe = config(epochs=100, max_minutes=0.5).model_copy(
        update={"schedule": TrainConfig(task="classification").schedule}
    )
    made = trainer(tmp_path, Line(clock=clock), told, clock=clock, recipe=recipe)
    assert made.run().state.step == 30  # one second each
    assert told.reports[-1]["learning_rate"] < 0.2 * 0.2


def test_a_first_evaluation_that_is_no_number_is_forgotten(tmp_path: Path) -> None:
    learner, told = Line([math.nan, 0.2, 0.1, 0.1]), Told()
    outcome = trainer(tmp_path, learner, told, recipe=config(epochs=4)).run()
    assert outcome.state.best is not None
    assert outcome.state.best.step == 6
    assert torch.equal(learner.network.weight, learner.weights_at_eval[1])


def test_checkpoints_come_by_the_clock_and_two_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = FakeClock(), Told()
    recipe = config(epochs=4, checkpoint_interval_s=2.0)
    made = trainer(tmp_path, Line(clock=clock), told, clock=clock, recipe=recipe)
    monkeypatch.setattr(CheckpointWriter, "is_busy", False)  # the clock of the disk stands still
    made.run()
    assert [saved.step for saved in told.saved] == [2, 4, 6, 8, 10, 12]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000012"]


def test_a_mean_of_the_weights_is_evaluated_kept_and_saved(tmp_path: Path) -> None:
    plain, told = Line(), Told(stop_at=5)
    weights: list[float] = []
    for stop in range(1, 7):
        plain = Line()
        trainer(tmp_path / str(stop), plain, Told(stop_at=stop)).run()
        weights.append(plain.network.weight.item())
    initial = Line().network.weight.item()
    means = [initial]
    for step, weight in enumerate(weights):
        decay = min(0.3, (1 + step) / (10 + step))
        means.append(decay * means[-1] + (1 - decay) * weight)
    averaged = Line([0.1, 0.2])
    recipe = config(ema_decay=0.3)
    trainer(tmp_path / "mean", averaged, told, recipe=recipe).run()
    saved = read_checkpoint(Path(told.saved[-1].folder), run_digest="run")
    assert saved.average is not None
    assert saved.average["weight"].item() == pytest.approx(means[5], abs=1e-6)
    assert saved.model["weight"].item() == weights[4]  # the weights themselves, bit for bit
    assert averaged.weights_at_eval[0].item() == pytest.approx(means[3], abs=1e-6)
    again = Line([0.2])
    second = trainer(tmp_path / "mean", again, Told(), recipe=recipe)
    second.resume(Path(told.saved[-1].folder))
    second.run()
    assert again.network.weight.item() == pytest.approx(means[6], abs=1e-6)
    unmeasured = Line()
    trainer(tmp_path / "unmeasured", unmeasured, Told(), recipe=recipe).run()
    assert torch.equal(unmeasured.network.weight, again.network.weight)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_training_products_are_in_fewer_bits(tmp_path: Path, precision: str) -> None:
    class Watched(Line):
        seen: ClassVar[list[str]] = []

        def loss(self, rows: Sequence[int]) -> BatchLoss:
            self.seen.append(str(self.network(self.x[list(rows)]).dtype))
            return super().loss(rows)

        def validate(self) -> Validation | None:
            self.seen.append(str(self.network(self.x).dtype))
            return super().validate()

    Watched.seen.clear()
    learner = Watched([0.1])
    recipe = config(max_steps=2, precision=precision)
    trainer(tmp_path, learner, Told(), recipe=recipe).run()
    inside = "torch.bfloat16" if precision == "bf16" else "torch.float32"
    assert Watched.seen == [inside, inside, "torch.float32"]
    assert learner.network.weight.dtype == torch.float32


def test_a_batch_is_computed_in_portions(tmp_path: Path) -> None:
    whole, parts, told = Line(), Line(), [Told(), Told()]
    trainer(tmp_path / "a", whole, told[0]).run()
    outcome = trainer(tmp_path / "b", parts, told[1], recipe=config(micro_batch_size=3)).run()
    assert outcome.state.rows_seen == 20
    assert parts.visited == whole.visited
    # Sums of four float32 terms of order one, over six steps.
    torch.testing.assert_close(parts.network.weight, whole.network.weight, rtol=1e-5, atol=1e-6)
    assert told[1].reports[-1]["train_loss"] == pytest.approx(told[0].reports[-1]["train_loss"])


def test_a_checkpoint_is_told_where_the_run_put_it_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    told = Told()
    trainer(tmp_path / "data", Line(), told).run()
    assert Path(told.saved[-1].folder).is_relative_to(tmp_path / "data")


def test_a_checkpoint_tells_what_was_measured_last(tmp_path: Path) -> None:
    told = Told()
    trainer(tmp_path, Line([0.1, 0.05]), told).run()  # the second is worse than the first
    last = told.saved[-1]
    assert last.step == 6
    assert last.metrics == {"train_loss": told.reports[-1]["train_loss"], "valid_loss": 0.95}


def test_what_an_attempt_left_beyond_its_resume_point_gives_way(tmp_path: Path) -> None:
    def names_after(step: int) -> list[str]:
        state = RunState(step=step)
        snapshot = Snapshot(state=state, model={}, optimizer={}, best=None)
        written = write_checkpoint(snapshot, tmp_path, run_digest="run")
        assert written.folder.is_dir()
        return sorted(path.name.lstrip("step-0") for path in tmp_path.iterdir())

    assert [names_after(step) for step in (5, 6, 7)] == [["5"], ["5", "6"], ["6", "7"]]
    assert names_after(4) == ["4"]
    assert names_after(5) == ["4", "5"]


def save(root: Path, value: float, *, run_digest: str = "run") -> Path:
    snapshot = Snapshot(
        state=RunState(step=3), model={"w": torch.tensor([value])}, optimizer={}, best=None
    )
    return write_checkpoint(snapshot, root, run_digest=run_digest).folder


def test_a_whole_checkpoint_of_the_same_step_is_never_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = save(tmp_path, 1.0)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    assert save(tmp_path, 2.0) == kept  # whatever is killed, its bytes and record stay true
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


@pytest.mark.parametrize("damage", ["flip", "other run"])
def test_an_unusable_checkpoint_of_the_same_step_gives_way(tmp_path: Path, damage: str) -> None:
    folder = save(tmp_path, 1.0, run_digest="another" if damage == "other run" else "run")
    if damage == "flip":
        (folder / "model.safetensors").write_bytes(b"torn")
    save(tmp_path, 2.0)
    assert read_checkpoint(folder, run_digest="run").model["w"].item() == 2.0


def test_pausing_saves_and_resuming_goes_on(tmp_path: Path) -> None:
    whole, half = Line([0.1, 0.2]), Line([0.1])
    trainer(tmp_path / "a", whole, Told()).run()
    told = Told(stop_at=4)
    outcome = trainer(tmp_path / "b", half, told).run()
    assert (outcome.stopped, outcome.state.step) == ("pause", 4)
    again = Line([0.2])
    second = trainer(tmp_path / "b", again, Told())
    second.resume(Path(told.saved[-1].folder))
    final = second.run()
    assert torch.equal(again.network.weight, whole.network.weight)
    assert half.visited + again.visited == whole.visited
    assert final.state.rows_seen == 20


@pytest.mark.row("CRA-25")
def test_a_diverging_run_stops_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    learner, told = Line(), Told(stop_at=2)
    trainer(tmp_path, learner, told).run()
    recipe = config(epochs=60).model_copy(
        update={"optimizer": config().optimizer.model_copy(update={"learning_rate": 10.0})}
    )
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"clip_norm": None})}
    )
    second = trainer(tmp_path, learner, Told(), recipe=recipe)
    with pytest.raises(DivergedError, match=r"is not finite|loss is"):
        second.run()
    assert read_checkpoint(Path(told.saved[-1].folder), run_digest="run").state.step == 2


@pytest.mark.row("FIL-19")
@pytest.mark.parametrize("damage", ["flip", "missing", "torn", "manifest"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    told = Told(stop_at=2)
    learner = Line()
    trainer(tmp_path, learner, told).run()
    folder = Path(told.saved[-1].folder)
    target = folder / "model.safetensors"
    data = bytearray(target.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        target.write_bytes(bytes(data))
    elif damage == "missing":
        (folder / "optimizer.safetensors").unlink()
    elif damage == "torn":
        target.write_bytes(bytes(data[:-1]))
    else:
        (folder / "manifest.json").write_text("{", encoding="utf-8")
    before = own_tensors(learner.network)
    second = trainer(tmp_path, learner, Told())
    with pytest.raises(IntegrityError, match=r"step-00000002|model\.safetensors"):
        second.resume(folder)
    assert all(torch.equal(v, before[k]) for k, v in own_tensors(learner.network).items())


def test_frozen_parameters_are_not_in_a_checkpoint() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].requires_grad_(requires_grad=False)
    assert set(own_tensors(module)) == {
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_the_state_is_exact_in_json(tmp_path: Path) -> None:
    told = Told(stop_at=3)
    trainer(tmp_path, Line([math.pi]), told, clock=FakeClock()).run()
    state = read_checkpoint(Path(told.saved[-1].folder), run_digest="run").state
    assert state.best is not None
    assert state.best.validation.score == math.pi
