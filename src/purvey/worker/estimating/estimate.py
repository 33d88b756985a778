"""Run a job of kind `estimate`: follow a step, try a few, and add up."""

from math import ceil
from pathlib import Path
from shutil import disk_usage

import torch

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.estimating.needs import DiskNeed, Estimated, MemoryNeed, TimeNeed
from purvey.contracts.jobs import JobSpec
from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.errors import DivergedError, InternalError
from purvey.ipc.confinement import free_memory, used_memory
from purvey.train.estimating.trying import flops_per_s
from purvey.train.schedule import span_of
from purvey.worker.estimating.rehearsal import (
    Hearing,
    Outline,
    Outlined,
    Rehearsal,
    StepsTried,
    Timed,
)
from purvey.worker.job_link import JobLink
from purvey.worker.ranks.teams import num_ranks, share_of
from purvey.worker.train import learn, refuse_for_task
from purvey.worker.training.inputs import CACHE_BYTES

_CLOCK = SystemClock()
_LONGEST_STEP_S = 4.0
"""A step that takes longer by arithmetic is not tried."""
_SLOWER = 1.5
"""How much slower than the slowest step tried the mean of a long run may be."""
_BELOW_PEAK = 4.0
"""How much slower than its products alone a step may be."""
_WENT_ON = "a rehearsal went on after its end"


def run(spec: JobSpec, _job: JobLink, *, clock: Clock = _CLOCK) -> Estimated:
    """Say what the run that the spec describes would take; nothing is written.

    Raises:
        PurveyError: The recipe, the data or the base does not allow the run.
    """
    config = parse_recipe(spec.recipe)
    refuse_for_task(config)
    size = num_ranks(config, num_threads=spec.num_threads)
    estimate = _Estimate(share_of(spec, size), config, size, clock)
    return estimate.made()


class _Estimate:
    def __init__(self, spec: JobSpec, config: TrainConfig, size: int, clock: Clock) -> None:
        self._spec, self._config, self._size, self._clock = spec, config, size, clock
        self._hearing = Hearing()
        self._free_bytes = free_memory() + used_memory()  # which this process gives back
        self._raw_bytes = 0.0  # of the whole data in memory
        self._rows: dict[str, int] = {}

    def made(self) -> Estimated:
        """Rehearse once without numbers, and, where that is quick and fits, once with them."""
        torch.set_num_threads(self._spec.num_threads)
        outline = self._outlined()
        needed = self._memory(outline)
        time = self._time(outline, has_room=needed.total_bytes <= needed.free_bytes)
        memory = self._memory(outline)  # once all libraries are there that a step needs
        sizes = outline.sizes
        is_adapter = self._config.train.method == "lora"
        return Estimated(
            parameters=sizes.parameters,
            trained_parameters=sizes.trained,
            memory=memory,
            disk=DiskNeed(
                checkpoints_bytes=sizes.checkpoints,
                model_bytes=sizes.trained_weights if is_adapter else sizes.weights,
                free_bytes=disk_usage(Path(self._spec.work_dir)).free,
            ),
            time=time,
            notes=(*self._hearing.warnings, *self._notes(outline, time)),
        )

    def _rehearsal(self, *, is_outline: bool) -> Rehearsal:
        return Rehearsal(
            spec=self._spec,
            config=self._config,
            link=self._hearing,
            clock=self._clock,
            is_outline=is_outline,
        )

    def _outlined(self) -> Outline:
        rehearsal = self._rehearsal(is_outline=True)
        try:
            learn(rehearsal)
        except Outlined as outlined:
            self._raw_bytes, self._rows = rehearsal.raw_bytes, dict(rehearsal.whole)
            return outlined.found
        raise InternalError(_WENT_ON)

    def _memory(self, outline: Outline) -> MemoryNeed:
        """Add up over the ranks: what is divided once, what each has as often as there are."""
        sizes, followed = outline.sizes, outline.followed
        is_whole = self._config.parallel.strategy in ("none", "ddp")
        times = self._size if is_whole else 1
        activations = None
        prepared = 0.0
        if followed is not None:
            beside = max(0, followed.peak_bytes - sizes.trained_weights) + followed.inputs_bytes
            activations = ceil(beside * outline.scale)
            prepared = followed.inputs_bytes / followed.num_rows * sum(self._rows.values())
        data = self._raw_bytes + min(prepared, 3 * CACHE_BYTES)
        return MemoryNeed(
            process_bytes=used_memory() * self._size,
            data_bytes=ceil(data) * self._size,
            weights_bytes=sizes.weights * times,
            gradients_bytes=sizes.trained_weights * times,
            optimizer_bytes=sizes.optimizer * times,
            copies_bytes=sizes.copies(free_bytes=self._free_bytes) * times,
            activations_bytes=activations,
            free_bytes=self._free_bytes,
        )

    def _time(self, outline: Outline, *, has_room: bool) -> TimeNeed:
        span = span_of(self._config.train, outline.num_rows)
        steps, limit_s = span.total_steps, (self._config.train.max_minutes or 1e9) * 60
        step_s = 0.0
        if outline.followed is not None:
            is_bf16 = self._config.train.precision == "bf16"
            flops = outline.followed.flops * outline.step_scale / self._size
            step_s = flops / flops_per_s(self._clock, is_bf16=is_bf16)
        timed = self._tried() if has_room and step_s <= _LONGEST_STEP_S else None
        if timed is None:
            low_s, high_s = steps * step_s, steps * step_s * _BELOW_PEAK
        else:
            num_evaluations = ceil(steps / span.eval_interval)
            tested = min(self._rows.get("validation", 0), timed.validation_rows)
            share = self._rows.get("validation", 0) / max(1, tested)
            evaluations_s = num_evaluations * timed.tried.evaluation_s * share
            scaled = steps * timed.step_scale
            low_s = scaled * timed.tried.fastest_s / self._size + evaluations_s
            high_s = scaled * timed.tried.slowest_s * _SLOWER + evaluations_s
        return TimeNeed(
            steps=steps,
            low_s=round(min(low_s, limit_s), 3),
            high_s=round(min(high_s, limit_s), 3),
            is_measured=timed is not None,
        )

    def _tried(self) -> Timed | None:
        try:
            learn(self._rehearsal(is_outline=False))
        except StepsTried as tried:
            return tried.found
        except DivergedError:
            self._hearing.warnings.append("The loss of the first step is not finite.")
            return None
        raise InternalError(_WENT_ON)

    def _notes(self, outline: Outline, time: TimeNeed) -> list[str]:
        notes = []
        if outline.followed is None:
            notes.append(
                "Activations are not counted: the network needs numbers to be followed "
                f"({outline.complaint})."
            )
        if not time.is_measured:
            notes.append("No step was tried: the time follows from the machine's rate alone.")
        if self._config.train.early_stopping is not None:
            notes.append("Early stopping may end the run sooner.")
        return notes
