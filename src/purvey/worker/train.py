"""Run a training job of any task: the recipe in, a tested model in the output folder."""

from contextlib import nullcontext

import torch

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.jobs import JobSpec, ModelTrained
from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.errors import InvalidValueError
from purvey.train.progress import Watch
from purvey.worker.job_link import JobLink
from purvey.worker.training.classifier import train_classifier
from purvey.worker.training.language import train_language_model
from purvey.worker.training.run import TrainingLink, TrainingRun
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
    for bit those of a run that was never interrupted (same machine, same number of threads,
    no `train.max_minutes`).

    Raises:
        JobInterrupted: The job was asked to stop; a checkpoint was written unless cancelled.
        DivergedError: The loss or gradient is not finite; the last checkpoint is intact.
        PurveyError: The recipe, the data or the base does not allow the run.
    """
    torch.set_num_threads(spec.num_threads)
    config = parse_recipe(spec.recipe)
    _refuse_unused(config)
    training = TrainingRun(spec=spec, config=config, link=link, clock=clock, watch=watch)
    if training.config.task == "text-generation":
        return train_language_model(training)
    return train_classifier(training)


def _refuse_unused(config: TrainConfig) -> None:
    """Refuse what the run would pass over in silence."""
    if config.model.base is not None and config.model.hyperparameters:
        raise InvalidValueError(
            "model.hyperparameters shape a new architecture; model.base has its own.",
            param="recipe.model.hyperparameters",
        )
    if config.train.method == "lora" and config.task != "text-generation":
        raise InvalidValueError(
            f"train.method 'lora' adapts language models; {config.task} trains every weight.",
            param="recipe.train.method",
        )
