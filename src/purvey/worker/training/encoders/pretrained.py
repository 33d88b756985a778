"""A head for images or recordings on a network that `transformers` computes."""

from pathlib import Path

import msgspec

from purvey.contracts.hugging_face import PRETRAINED
from purvey.contracts.model import AudioSpec, InputSpec, ModelSource
from purvey.errors import InvalidValueError
from purvey.models.classifier import Classifier
from purvey.models.folder.manifest import read_manifest
from purvey.models.pretrained.folders import start_pretrained
from purvey.train.chance import seed_torch
from purvey.worker.training.inputs import declared_inputs
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.sizing import asked_of

_LARGE_RATE = 5e-4


def is_pretrained(base: ModelSource) -> bool:
    """Tell whether a base is a network that `transformers` computes and that classifies."""
    return read_manifest(Path(base.folder)).family in PRETRAINED


def pretrained_classifier(
    run: TrainingRun, base: ModelSource, *, labels: tuple[str, ...]
) -> Classifier:
    """Open the base with a head for these labels; tell what came from where.

    Raises:
        InvalidValueError: The base is for another task.
        InvalidCheckpointError: It is damaged, or not what the library takes.
    """
    asked = asked_of(run)
    if asked is not None:
        raise asked.refusal("it is computed by transformers")
    seed_torch(run.config.seed, "init")
    started = start_pretrained(Path(base.folder), labels=labels)
    if started.manifest.task != run.config.task:
        raise InvalidValueError(
            f"{base.name!r} is for {started.manifest.task}, not {run.config.task}.",
            param="recipe.model.base",
        )
    started.module.requires_grad_(requires_grad=True)
    run.tell_initialised(started.initialised)
    warn_of_large_rate(run)
    manifest = msgspec.structs.replace(
        started.manifest,
        labels=labels,
        inputs={name: _as_long(run, spec) for name, spec in started.manifest.inputs.items()},
        temperature=1.0,
        is_calibrated=False,
        lineage={},
        report={},
    )
    return Classifier(manifest=manifest, module=started.module)


def warn_of_large_rate(run: TrainingRun) -> None:
    """Tell the owner of a learning rate that may spoil what a network has learned before."""
    rule = run.config.optimizer
    if rule.name != "sgd" and rule.learning_rate > _LARGE_RATE:
        run.link.event(
            f"optimizer.learning_rate {rule.learning_rate:g} is large for a pretrained network: "
            "5e-5 is usual.",
            level="warn",
        )


def _as_long(run: TrainingRun, spec: InputSpec) -> InputSpec:
    """Return an input as it is; recordings no longer than the dataset's are."""
    if not isinstance(spec, AudioSpec):
        return spec
    found = declared_inputs(run.dataset.manifest, run.splits["train"], run.config.preprocess)
    lengths = [one.max_s for one in found.values() if isinstance(one, AudioSpec)]
    return msgspec.structs.replace(spec, max_s=min([spec.max_s, *lengths]))
