"""Run a training job of any task: the recipe in, a tested model in the output folder."""

from contextlib import nullcontext

import torch

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.jobs import JobSpec, ModelTrained
from purvey.contracts.model import GENERATING
from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.errors import InvalidValueError
from purvey.train.parallel.group import Group
from purvey.train.parallel.heap import give_back_blocks, keep_blocks
from purvey.train.progress import Watch
from purvey.worker.job_link import JobLink
from purvey.worker.ranks.launch import started
from purvey.worker.ranks.teams import num_ranks, share_of
from purvey.worker.training.classifier import train_classifier
from purvey.worker.training.encoders.embedding import train_embedding
from purvey.worker.training.encoders.pictures import is_pictured, train_pictured
from purvey.worker.training.language import train_language_model
from purvey.worker.training.placing import stay
from purvey.worker.training.regression import train_regression
from purvey.worker.training.run import TrainingLink, TrainingRun
from purvey.worker.training.seeing import train_seeing
from purvey.worker.training.speech import train_speech
from purvey.worker.training.unused import refuse_unused
from purvey.worker.watchdog import Watchdog

_CLOCK = SystemClock()


def run_watched(spec: JobSpec, job: JobLink) -> ModelTrained:
    """Do as `run`, and give the process up when a step hangs."""
    dog = Watchdog(least_s=spec.stall_s, on_stall=job.give_up)
    with dog.watching():
        return run(spec, job, watch=dog.step)


def run(
    spec: JobSpec, link: TrainingLink, *, clock: Clock = _CLOCK, watch: Watch = nullcontext
) -> ModelTrained:
    """Train, validate, test and save the model that the spec asks for.

    With `spec.resume_from` the run goes on from that checkpoint, and its final weights are bit
    for bit those of a run that was never interrupted (same machine, same number of threads and of
    ranks, no `train.max_minutes`).

    Raises:
        JobInterrupted: The job was asked to stop; a checkpoint was written unless cancelled.
        DivergedError: The loss or gradient is not finite; the last checkpoint is intact.
        PurveyError: The recipe, the data or the base does not allow the run.
        RankFailed: Another process of the run broke or was killed.
    """
    config = parse_recipe(spec.recipe)
    refuse_for_task(config)
    size = num_ranks(config, num_threads=spec.num_threads)
    share = share_of(spec, size)
    _tell_ranks(config, size, spec.num_threads, link)
    with started(share, size=size) as group:
        return train_rank(share, config, link=link, clock=clock, watch=watch, group=group)


def train_rank(
    spec: JobSpec,
    config: TrainConfig,
    *,
    link: TrainingLink,
    clock: Clock,
    watch: Watch = nullcontext,
    group: Group | None,
) -> ModelTrained:
    """Do as `run`, as one rank of a run or as its only process.

    Raises:
        RankDone: Training is over, and this is not the first rank.
    """
    torch.set_num_threads(spec.num_threads)
    if config.parallel.strategy == "fsdp":
        give_back_blocks()
    else:
        keep_blocks()
    training = TrainingRun(
        spec=spec, config=config, link=link, clock=clock, watch=watch, group=group
    )
    return learn(training)


def learn(training: TrainingRun) -> ModelTrained:
    """Do what the task of the recipe is.

    Raises:
        RankDone: As `train_rank`.
    """
    if training.config.task == "text-generation":
        refuse_unused(training.config, {}, is_declared_here=False)
        return train_language_model(training)
    if training.config.task == "regression":
        return train_regression(training)
    if training.config.task == "speech-recognition":
        return train_speech(training)
    if training.config.task in ("image-text-to-text", "embedding"):
        stay(training)
    if training.config.task == "image-text-to-text":
        return train_seeing(training)
    if training.config.task == "embedding":
        return train_pictured(training) if is_pictured(training) else train_embedding(training)
    return train_classifier(training)


def _tell_ranks(config: TrainConfig, size: int, num_threads: int, link: TrainingLink) -> None:
    """Say what the number of threads makes of a division."""
    if config.parallel.strategy == "none":
        return
    if size == 1:
        link.event("A job has one thread here, so a single process trains.")
    elif size > num_threads:
        link.event(f"{size} ranks share {num_threads} threads; each takes one.", level="warn")


def refuse_for_task(config: TrainConfig) -> None:
    """Refuse what the run would pass over in silence.

    Raises:
        InvalidValueError: Names the field.
    """
    has_new_part = config.task == "image-text-to-text"  # the eyes of a language model
    if config.model.base is not None and config.model.hyperparameters and not has_new_part:
        raise InvalidValueError(
            "model.hyperparameters shape a new architecture; model.base has its own.",
            param="recipe.model.hyperparameters",
        )
    if config.train.method == "lora" and config.task not in GENERATING:
        raise InvalidValueError(
            f"train.method 'lora' adapts language models; {config.task} trains every weight.",
            param="recipe.train.method",
        )
