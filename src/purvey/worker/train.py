"""Run a training job of any task: the recipe in, a tested model in the output folder."""

import torch

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.jobs import JobSpec, ModelTrained
from purvey.contracts.recipe import parse_recipe
from purvey.worker.training_classifier import train_classifier
from purvey.worker.training_language import train_language_model
from purvey.worker.training_run import TrainingLink, TrainingRun

_CLOCK = SystemClock()


def run(spec: JobSpec, link: TrainingLink, *, clock: Clock = _CLOCK) -> ModelTrained:
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
    training = TrainingRun(spec=spec, config=parse_recipe(spec.recipe), link=link, clock=clock)
    if training.config.task == "text-generation":
        return train_language_model(training)
    return train_classifier(training)
