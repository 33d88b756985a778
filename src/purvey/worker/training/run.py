"""One training job as its runners see it: inputs, the loop, what goes into the record."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import nn

from purvey import failpoints
from purvey.contracts.clock import Clock
from purvey.contracts.jobs import InputDataset, JobSpec, ModelTrained
from purvey.contracts.recipe import TrainConfig
from purvey.data.loader import Rows, load_splits
from purvey.engine.linears.bf16 import has_native_bf16
from purvey.errors import InvalidValueError
from purvey.evaluate.bootstrap import Bootstrap
from purvey.models.decoder import Decoder
from purvey.models.initialised import Initialised
from purvey.models.linears.int4 import Int4Linear
from purvey.models.scaling.mup import AS_IN_BASE, Reaches
from purvey.train.chance import derived_seed
from purvey.train.estimating.sizes import refuse_too_large, sizes_of
from purvey.train.learner import Learner
from purvey.train.parallel.group import Group
from purvey.train.parallel.shared import SharedClock, SharedProgress
from purvey.train.progress import Progress, Watch
from purvey.train.state import RunState
from purvey.train.trainer import Trainer
from purvey.train.weights.freezing import freeze
from purvey.worker.job_link import JobInterrupted
from purvey.worker.ranks.teams import RankDone, team_of
from purvey.worker.training.environment import environment
from purvey.worker.training.placing import free_bytes

Built = TypeVar("Built")
Taken = TypeVar("Taken")


class TrainingLink(Progress, Protocol):
    """The part of a job's link that training uses."""

    def event(
        self, message: str, *, level: Literal["info", "warn", "error"] = ..., **data: object
    ) -> None:
        """Tell the owner one line."""
        ...


_SMALL_DENSE_PARAMETERS = 500_000


def num_threads(module: nn.Module, *, at_most: int) -> int:
    """Choose the threads of a run, from the network alone so that runs repeat bit for bit.

    A small network's operations end before a second thread has woken up, and where another
    process holds a core, each of them waits for the scheduler (measured: 12 times slower). Rows
    of embedding tables do no arithmetic and are not counted.
    """
    dense = sum(
        parameter.numel()
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        for parameter in layer.parameters(recurse=False)
    )
    dense += sum(layer.num_weights for layer in module.modules() if isinstance(layer, Int4Linear))
    return 1 if dense < _SMALL_DENSE_PARAMETERS else at_most


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A job being run.

    Args:
        spec: What was asked, and where inputs and outputs lie.
        config: The recipe.
        link: Where it reports.
        clock: Where time comes from.
        watch: Entered around every step.
        group: The ranks that it is divided among; None for a single process.
        notes: What the lineage says beside the rest, by name; JSON values.
    """

    spec: JobSpec
    config: TrainConfig
    link: TrainingLink
    clock: Clock
    watch: Watch = nullcontext
    group: Group | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """Where the model is written."""
        return Path(self.spec.output_dir)

    @property
    def work(self) -> Path:
        """The job's private folder, kept across attempts."""
        return Path(self.spec.work_dir)

    @property
    def bootstrap(self) -> Bootstrap:
        """How test intervals are made."""
        return Bootstrap(
            num_samples=self.config.test.bootstrap_samples,
            confidence=self.config.test.confidence,
            seed=derived_seed(self.config.seed, "bootstrap"),
        )

    @property
    def dataset(self) -> InputDataset:
        """The prepared dataset.

        Raises:
            InvalidValueError: The recipe names none.
        """
        if self.spec.dataset is None:
            raise InvalidValueError(
                f"the task {self.config.task!r} needs a dataset: set recipe.dataset.",
                param="recipe.dataset",
            )
        return self.spec.dataset

    @cached_property
    def splits(self) -> dict[str, Rows]:
        """Its splits, read once; with at least one training row.

        Raises:
            IntegrityError: The stored bytes were changed.
            InvalidValueError: There is nothing to train on.
        """
        splits = load_splits(Path(self.dataset.folder), self.dataset.manifest)
        if splits["train"].num_rows == 0:
            raise InvalidValueError("the training split is empty.", param="recipe.dataset")
        failpoints.reach("data.ready")
        return splits

    @cached_property
    def digest(self) -> str:
        """What a checkpoint must belong to: recipe, data and base, whatever the number of ranks."""
        parts = [self.config.learned_digest(), *(file.sha256 for file in self.spec.files)]
        if self.spec.dataset is not None:
            parts.append(self.spec.dataset.manifest.digest)
        if self.spec.base is not None:
            parts.append(self.spec.base.digest)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def generator(self, *purpose: str) -> torch.Generator:
        """Return a generator for one purpose, derived from the recipe's seed."""
        return torch.Generator().manual_seed(derived_seed(self.config.seed, *purpose))

    def train(
        self,
        learner: Learner,
        *,
        code_sha256: str | None = None,
        reaches: Reaches = AS_IN_BASE,
    ) -> RunState:
        """Run the loop; the learner's module then holds the best weights.

        Args:
            learner: What is trained.
            code_sha256: Digest of the user's file that the module is built from, if any: a
                checkpoint of another version of it is not resumed.
            reaches: Of weights that are wider than in a base, which sets their rates.

        Raises:
            JobInterrupted: The job was asked to stop, and has.
            DivergedError: The loss or gradient is not finite.
            RankDone: Training is over, and this is not the first rank.
        """
        self._prepare(learner.module)
        self._check_room(learner.module)
        trainer = Trainer(
            learner,
            self.config,
            progress=SharedProgress(self.link, self.group) if self.group else self.link,
            clock=SharedClock(self.clock, self.group) if self.group else self.clock,
            team=team_of(self.config.parallel.strategy, self.group),
            checkpoints=self.work / "checkpoints",
            run_digest=f"{self.digest}-{code_sha256}" if code_sha256 else self.digest,
            watch=self.watch,
            reaches=reaches,
        )
        if self.spec.resume_from is not None:
            trainer.resume(Path(self.spec.resume_from))
        failpoints.reach("base.loaded")
        num_trained = sum(p.numel() for p in learner.module.parameters() if p.requires_grad)
        torch.set_num_threads(num_threads(learner.module, at_most=self.spec.num_threads))
        self.link.event(
            f"Training {num_trained:,} parameters on {learner.num_rows:,} rows, "
            f"{trainer.total_steps:,} steps.",
            parameters=num_trained,
            rows=learner.num_rows,
            total_steps=trainer.total_steps,
            environment=self._environment(),
        )
        outcome = trainer.run()
        if outcome.stopped is not None:
            raise JobInterrupted(outcome.stopped)
        if self.group is not None and not self.group.is_first:
            raise RankDone
        if outcome.state.best is not None:
            best = outcome.state.best
            self.link.event(f"Best validation at step {best.step}.", best_step=best.step)
        return outcome.state

    def _prepare(self, module: nn.Module) -> None:
        """Do to the module what the recipe says, before the loop sees it."""
        num_frozen = freeze(module, self.config.train.freeze)
        if num_frozen:
            self.link.event(f"{num_frozen:,} parameters keep their values.", frozen=num_frozen)
        if self.config.train.precision == "bf16" and not has_native_bf16():
            self.link.event(
                "This processor does not multiply bfloat16: train.precision 'bf16' is slower here "
                "than 'fp32', not faster.",
                level="warn",
            )
        if isinstance(module, Decoder):
            module.is_recomputed = self.config.train.recompute_activations

    def tell_initialised(self, found: Initialised) -> None:
        """Tell, and have the lineage say, what came from the base and what did not."""
        self.notes["initialised"] = found.as_json()
        self.link.event(found.sentence(), **found.as_json())

    def _environment(self) -> dict[str, Any]:
        ranks = self.group.size if self.group else 1
        return environment(threads=torch.get_num_threads(), ranks=ranks)

    def tell_unvalidated(self, *lost: str) -> None:
        """Warn that there are no validation rows.

        Args:
            lost: What the task cannot do without them, beside what no task can.
        """
        missing = ", ".join(("no early stopping", "no best checkpoint", *lost))
        self.link.event(f"The validation split is empty: {missing}.", level="warn")

    def built(self, build: Callable[[], Built]) -> Built:
        """Return what `build` makes; a rehearsal has it made without numbers."""
        return build()

    def taken(self, split: str, rows: Sequence[Taken]) -> Sequence[Taken]:
        """Return the rows of a file that are learned from: all; a rehearsal takes some."""
        return rows

    def _check_room(self, module: nn.Module) -> None:
        is_divided = self.config.parallel.strategy in ("fsdp", "tensor")
        size = self.group.size if self.group and is_divided else 1
        sizes = sizes_of(module, self.config, has_validation=True)
        refuse_too_large(sizes, num_parts=size, free=free_bytes(module))

    def lineage(self) -> dict[str, Any]:
        """Return where the model came from: recipe, data, base, code, environment."""
        spec = self.spec
        return {
            "job_id": spec.job_id,
            "recipe": self.config.model_dump(mode="json"),
            "recipe_digest": self.config.digest(),
            "dataset_digest": spec.dataset.manifest.digest if spec.dataset else None,
            "files": [{"role": f.role, "sha256": f.sha256} for f in spec.files],
            "base": {"name": spec.base.name, "digest": spec.base.digest} if spec.base else None,
            **self._environment(),
            **self.notes,
        }

    def result(self, state: RunState, report: Mapping[str, Any]) -> ModelTrained:
        """Return the job's last word."""
        return ModelTrained(
            trained_tokens=state.tokens_seen or None,
            trained_rows=state.rows_seen,
            compute_s=round(state.compute_s, 3),
            report=dict(report),
            validation=_finite(state.best.validation.metrics) if state.best else {},
        )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
