"""What every training run shares: its trainer, its end, its lineage."""

import platform
from pathlib import Path
from typing import Any

import torch

from purvey import __version__
from purvey.contracts.clock import SystemClock
from purvey.contracts.jobs import JobSpec
from purvey.contracts.recipe import TrainConfig
from purvey.evaluate.bootstrap import Bootstrap
from purvey.train.chance import derived_seed
from purvey.train.learner import Learner
from purvey.train.state import RunState
from purvey.train.trainer import Trainer
from purvey.worker.job_link import JobInterrupted, JobLink

CHECKPOINTS = "checkpoints"


def carry_out(learner: Learner, spec: JobSpec, config: TrainConfig, link: JobLink) -> RunState:
    """Train to the end; the module then holds the best weights.

    Raises:
        JobInterrupted: The supervisor asked to stop; unless it was `cancel`, a checkpoint is
            on disk.
        DivergedError: The loss or a gradient is not finite.
        IntegrityError: The checkpoint to resume from is damaged or of another run.
    """
    trainer = Trainer(
        learner,
        config,
        progress=link,
        clock=SystemClock(),
        checkpoints=Path(spec.work_dir) / CHECKPOINTS,
        run_digest=f"{config.digest()}:{data_digest(spec)}",
    )
    if spec.resume_from is not None:
        trainer.resume(Path(spec.resume_from))
        link.event(f"Resumed from {Path(spec.resume_from).name}.")
    link.event(f"Training on {learner.num_rows:,} rows, {trainer.total_steps:,} steps.")
    outcome = trainer.run()
    if outcome.stopped is not None:
        raise JobInterrupted(outcome.stopped)
    return outcome.state


def data_digest(spec: JobSpec) -> str:
    """Return what names the data of a run: the dataset's digest, or its files'."""
    if spec.dataset is not None:
        return spec.dataset.manifest.digest
    return "+".join(file.sha256 for file in spec.files)


def generator(config: TrainConfig, purpose: str) -> torch.Generator:
    """Return a generator of its own for one purpose, derived from the run's seed."""
    return torch.Generator().manual_seed(derived_seed(config.seed, purpose))


def bootstrap(config: TrainConfig) -> Bootstrap:
    """Return how the final test's intervals are made."""
    return Bootstrap(
        num_samples=config.test.bootstrap_samples,
        confidence=config.test.confidence,
        seed=derived_seed(config.seed, "bootstrap"),
    )


def lineage(spec: JobSpec, config: TrainConfig, state: RunState) -> dict[str, Any]:
    """Say what a model came from, for its manifest (JSON values)."""
    return {
        "recipe_sha256": config.digest(),
        "data_sha256": data_digest(spec),
        "base": {"name": spec.base.name, "sha256": spec.base.digest} if spec.base else None,
        "seed": config.seed,
        "steps": state.step,
        "best_step": state.best.step if state.best is not None else None,
        "purvey": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": spec.num_threads,
    }
