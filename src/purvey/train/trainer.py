"""The loop: steps, evaluations, checkpoints, stopping. One for every task.

Every decision that shapes the weights depends on the step alone; the clock only decides when
to report and to write checkpoints (and ends the run under `train.max_minutes`).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.contracts.jobs import CheckpointSaved
from purvey.contracts.recipe import TrainConfig
from purvey.models.scaling.mup import AS_IN_BASE, Reaches
from purvey.train.chance import seed_torch
from purvey.train.checkpoint import Snapshot, Written, read_checkpoint
from purvey.train.early_stopping import advance, is_better, should_stop
from purvey.train.learner import Learner
from purvey.train.optim import build_optimizer
from purvey.train.parallel.team import Alone, Team, batches
from purvey.train.progress import Meter, Progress, StopReason, Watch
from purvey.train.saving.writer import CheckpointWriter
from purvey.train.schedule import rate_factor, span_of
from purvey.train.state import RunState, live_tensors, own_tensors, restore_tensors
from purvey.train.step import update
from purvey.train.weights.averaging import MeanWeights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    Args:
        state: Where the run stands.
        stopped: Why it must stop before its end; None when it is finished, and the module
            then holds the best weights.
    """

    state: RunState
    stopped: StopReason | None


class Trainer:
    """One run of one learner.

    Args:
        learner: What is trained.
        config: The resolved recipe.
        progress: Where the run reports.
        clock: Where time comes from.
        checkpoints: Folder of this run's checkpoints.
        run_digest: Names recipe, data and code, so that no foreign checkpoint is resumed.
        watch: Entered around every step, by whoever wants to notice one that hangs.
        team: Makes what the ranks of the run are to it, dividing the learner's module if so.
        reaches: Of weights that are wider than in a base, which sets their rates.
    """

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        *,
        progress: Progress,
        clock: Clock,
        checkpoints: Path,
        run_digest: str,
        watch: Watch = nullcontext,
        team: Callable[[Learner], Team] = Alone,
        reaches: Reaches = AS_IN_BASE,
    ) -> None:
        self._team = team(learner)
        self._learner, self._config, self._progress = learner, config, progress
        self._clock, self._run_digest, self._watch = clock, run_digest, watch
        self._writer = CheckpointWriter(checkpoints, run_digest=run_digest, report=self._report)
        span = span_of(config.train, learner.num_rows)
        self.steps_per_epoch, self.total_steps = span.epoch_steps, span.total_steps
        self._eval_interval = span.eval_interval
        self._parameters = [p for p in self._team.own.parameters() if p.requires_grad]
        self._optimizer = build_optimizer(self._team.own, config.optimizer, reaches)
        self._state = RunState()
        self._mean: MeanWeights | None = None
        if config.train.ema_decay is not None:
            self._mean = MeanWeights(self._team.own, decay=config.train.ema_decay)
        self._best: dict[str, Tensor] | None = None
        self._order: tuple[int, list[int]] = (-1, [])
        self._began_s = self._saved_s = clock.monotonic()

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint of this run.

        Raises:
            IntegrityError: It is damaged, or of another run; nothing was changed.
        """
        snapshot = self._team.part(read_checkpoint(folder, run_digest=self._run_digest))
        restore_tensors(self._team.own, snapshot.model)
        self._optimizer.restore(snapshot.optimizer)
        if self._mean is not None and snapshot.average is not None:
            self._mean.restore(snapshot.average)
        self._best = dict(snapshot.best) if snapshot.best is not None else None
        self._state = snapshot.state

    def run(self) -> Outcome:
        """Train to the end, or until asked to stop.

        Raises:
            DivergedError: The loss or gradient is not finite; the last checkpoint is intact.
        """
        with self._writer:
            return self._run()

    def save(self) -> None:
        """Begin to write a checkpoint of this step, which is reported once it is on disk."""
        live = Snapshot(
            state=self._state,
            model=live_tensors(self._team.own),
            optimizer=self._optimizer.tensors(),
            best=self._best,
            average=None if self._mean is None else self._mean.tensors,
        )
        self._team.save(live, self._writer)
        self._saved_s = self._clock.monotonic()

    def rows_at(self, step: int) -> list[int]:
        """Return the rows of one step; a function of the step alone."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, list(self._learner.order(epoch)))
        start = position * self._config.train.batch_size
        return self._order[1][start : start + self._config.train.batch_size]

    def _run(self) -> Outcome:
        self._began_s = self._saved_s = self._clock.monotonic()
        resumed_s = self._state.compute_s
        meter = Meter(self._clock, first_step=self._state.step, total_steps=self.total_steps)
        self._learner.module.train()
        while not self._state.is_finished:
            self._writer.check()
            reason = self._progress.stop_requested
            if reason is not None:
                return self._stop(reason, resumed_s)
            with self._watch():
                self._step(meter)
            self._state = msgspec.structs.replace(
                self._state, compute_s=resumed_s + self._clock.monotonic() - self._began_s
            )
            self._after_step(meter)
            if self._state.is_finished or self._is_checkpoint_due():
                self.save()
        self._optimizer.forget()  # ranks may have a whole model to put together now
        if self._best is not None:
            restore_tensors(self._team.own, self._best)
        elif self._mean is not None:
            self._mean.keep()
        self._team.finish()
        self._learner.module.eval()
        return Outcome(state=self._state, stopped=None)

    def _report(self, snapshot: Snapshot, written: Written) -> None:
        """Report a checkpoint with what was measured last; called by the writing thread."""
        saved = CheckpointSaved(
            step=snapshot.state.step,
            folder=str(written.folder.absolute()),  # as `work_dir` has it, through links too
            digest=written.digest,
            metrics=dict(snapshot.state.measured),
        )
        self._progress.checkpoint(saved)
        failpoints.reach("ckpt.reported")

    def _step(self, meter: Meter) -> None:
        failpoints.reach("train.step")
        state = self._state
        seed_torch(self._config.seed, "step", state.step, *self._team.chance)
        self._optimizer.set_rate(self._rate(state.step))
        taken = update(
            batches(self._team, self.rows_at(state.step), self._config.train),
            self._parameters,
            self._optimizer,
            joining=self._team,
            clip_norm=self._config.train.clip_norm,
            step=state.step,
        )
        if self._mean is not None:
            self._mean.advance(state.step)
        meter.add(taken)
        self._state = msgspec.structs.replace(
            state,
            step=state.step + 1,
            rows_seen=state.rows_seen + taken.num_rows,
            tokens_seen=state.tokens_seen + taken.num_tokens,
            loss_sum=state.loss_sum + taken.loss,
            loss_count=state.loss_count + 1,
        )

    def _after_step(self, meter: Meter) -> None:
        step = self._state.step
        is_last = step >= self.total_steps or self._is_time_up()
        is_evaluated = is_last or step % self._eval_interval == 0
        if not (is_evaluated or meter.is_due()):
            return
        data = meter.read(step, rate=self._rate(step - 1))
        data["seconds_left"] = (
            0.0 if is_last else round(min(data["seconds_left"], self._allowed_s()), 1)
        )
        data["epoch"] = round(step / self.steps_per_epoch, 4)
        measured: dict[str, float] = {}
        if is_evaluated:
            data["train_loss"] = self._state.loss_sum / self._state.loss_count
            measured = self._evaluate()
            meter.restart()
            data |= measured
            is_last = is_last or should_stop(self._state.best, self._config.train.early_stopping)
        known = {name: data[name] for name in ("train_loss",) if name in data}
        self._state = msgspec.structs.replace(
            self._state, is_finished=is_last, measured=self._state.measured | known | measured
        )
        self._progress.metrics(_sentence(data), data)

    def _evaluate(self) -> dict[str, float]:
        """Evaluate, keep the weights if they are the best so far, and return the numbers."""
        self._state = msgspec.structs.replace(self._state, loss_sum=0.0, loss_count=0)
        before = self._state.best
        averaged: AbstractContextManager[None]
        averaged = nullcontext() if self._mean is None else self._mean.in_place()
        with averaged:
            validation = self._team.validate()
            if validation is not None and is_better(validation, before):
                self._best = own_tensors(self._team.own)
        self._learner.module.train()
        failpoints.reach("eval.done")
        if validation is None:
            return {}
        best = advance(
            before,
            validation,
            step=self._state.step,
            config=self._config.train.early_stopping,
        )
        self._state = msgspec.structs.replace(self._state, best=best)
        return dict(validation.metrics)

    def _stop(self, reason: StopReason, resumed_s: float) -> Outcome:
        if reason != "cancel":
            self.save()
        compute_s = resumed_s + self._clock.monotonic() - self._began_s
        state = msgspec.structs.replace(self._state, compute_s=compute_s)
        return Outcome(state=state, stopped=reason)

    def _allowed_s(self) -> float:
        """Return what is left of `max_minutes`, in seconds."""
        limit_s = (self._config.train.max_minutes or math.inf) * 60
        return max(0.0, limit_s - self._state.compute_s)

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step; a run under a time limit decays by its clock."""
        limit_s = (self._config.train.max_minutes or math.inf) * 60
        by_clock = int(self.total_steps * min(1.0, self._state.compute_s / limit_s))
        factor = rate_factor(
            max(step, by_clock), total_steps=self.total_steps, config=self._config.schedule
        )
        return self._config.optimizer.learning_rate * factor

    def _is_checkpoint_due(self) -> bool:
        elapsed_s = self._clock.monotonic() - self._saved_s
        is_due = elapsed_s >= self._config.train.checkpoint_interval_s
        return is_due and self._team.agreed(not self._writer.is_busy)

    def _is_time_up(self) -> bool:
        return self._allowed_s() <= 0


def _sentence(data: dict[str, float]) -> str:
    parts = [f"Step {data['step']}/{data['total_steps']}"]
    if "train_loss" in data:
        parts.append(f"training loss={data['train_loss']:.4f}")
    if "valid_loss" in data:
        parts.append(f"validation loss={data['valid_loss']:.4f}")
    return f"{parts[0]}: {', '.join(parts[1:])}" if len(parts) > 1 else parts[0]
