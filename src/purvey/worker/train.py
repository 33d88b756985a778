"""Run a training job: parse its recipe and hand it to what trains such a task."""

import torch

from purvey.contracts.jobs import JobSpec, ModelTrained
from purvey.contracts.recipe import parse_recipe
from purvey.worker.job_link import JobLink


def run(spec: JobSpec, link: JobLink) -> ModelTrained:
    """Train, test and save the model that the spec asks for.

    Raises:
        PurveyError: The data, the recipe or the run is at fault; names what.
        JobInterrupted: The supervisor asked to stop, and the state is saved.
    """
    config = parse_recipe(spec.recipe)
    torch.set_num_threads(spec.num_threads)
    if config.task == "text-generation":
        from purvey.worker import training_language

        return training_language.train(spec, config, link)
    from purvey.worker import training_classifier

    return training_classifier.train(spec, config, link)
