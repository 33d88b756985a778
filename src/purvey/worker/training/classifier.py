"""Train, calibrate, test and save a classifier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import ModelSource, Task
from purvey.errors import InvalidValueError
from purvey.evaluate.calibration import fit_temperature
from purvey.evaluate.metrics import accuracy, count_outcomes, macro_f1
from purvey.evaluate.reports import classification_report
from purvey.models.classifier import Classifier, build_classifier, save_classifier
from purvey.models.initialise import initialise
from purvey.models.initialised import Initialised
from purvey.models.loading import open_model
from purvey.models.networks import catalogue
from purvey.train.chance import seed_torch
from purvey.train.classification import ClassifierLearner, LossShape, balanced_weights
from purvey.train.examples import predict
from purvey.worker.training.encoders.opening import is_for_encoder, text_classifier
from purvey.worker.training.encoders.pretrained import is_pretrained, pretrained_classifier
from purvey.worker.training.inputs import (
    PreparedRows,
    declared_inputs,
    match_columns,
    prepared_splits,
)
from purvey.worker.training.placing import place_fed
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.shades import with_shades
from purvey.worker.training.sizing import grown_classifier, network_reaches_of
from purvey.worker.training.slices import slices_of
from purvey.worker.training.unused import refuse_unused

_MIXED: tuple[Task, ...] = ("classification", "regression")
"""Tasks whose pictures go in centred; networks of one image are as their recipes were tuned."""


def train_classifier(run: TrainingRun) -> ModelTrained:
    """Run a classification job to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    manifest = run.dataset.manifest
    label = manifest.column("label")
    if label is None:
        raise InvalidValueError(
            "the dataset has no label column: name one in its columns.", param="recipe.dataset"
        )
    classifier = build_model(run, labels=manifest.labels)
    reaches = network_reaches_of(run, classifier)
    examples = prepared_splits(run, classifier)
    targets = {
        split: _targets(rows.texts(label), manifest.labels) for split, rows in run.splits.items()
    }
    place_fed(run, classifier.module)
    learner = ClassifierLearner(
        classifier.module,
        examples=examples["train"],
        targets=targets["train"],
        validation=examples["validation"],
        validation_targets=targets["validation"],
        measure=lambda logits, wanted: measure(logits, wanted, num_labels=len(manifest.labels)),
        seed=run.config.seed,
        loss_shape=_loss_shape(run, targets["train"], num_labels=len(manifest.labels)),
    )
    state = run.train(learner, code_sha256=classifier.manifest.module_sha256, reaches=reaches)
    classifier = _calibrated(classifier, examples["validation"], targets["validation"])
    report = {}
    if len(examples["test"]):
        run.link.event(f"Testing on {len(examples['test'])} untouched rows.")
        report = classification_report(
            predict(classifier.module, examples["test"]),
            targets["test"],
            labels=manifest.labels,
            temperature=classifier.manifest.temperature,
            how=run.bootstrap,
            slices=slices_of(manifest, run.splits),
        )
    save_classifier(classifier.with_manifest(lineage=run.lineage(), report=report), run.output)
    return run.result(state, report)


def measure(
    logits: NDArray[np.float64], targets: NDArray[np.int64], *, num_labels: int
) -> dict[str, float]:
    """Return accuracy and macro F1 of validation logits."""
    outcomes = count_outcomes(targets, logits.argmax(axis=1), num_labels=num_labels)
    counts = outcomes.counts[None, :]
    return {
        "accuracy": float(accuracy(outcomes, counts)[0]),
        "macro_f1": float(macro_f1(outcomes, counts)[0]),
    }


def _loss_shape(run: TrainingRun, targets: NDArray[np.int64], *, num_labels: int) -> LossShape:
    loop = run.config.train
    is_balanced = loop.class_weights == "balanced"
    weights_L = balanced_weights(targets, num_labels=num_labels) if is_balanced else None
    return LossShape(label_weights=weights_L, smoothing=loop.label_smoothing)


def build_model(run: TrainingRun, *, labels: tuple[str, ...]) -> Classifier:
    """Build the network that the recipe asks for, or open its base; no labels for a regression.

    Raises:
        PurveyError: The recipe or the data does not allow it.
    """
    config, base = run.config, run.spec.base
    pretrained = _pretrained(run, labels)
    if pretrained is not None:
        refuse_unused(config, pretrained.manifest.inputs, is_declared_here=False)
        return pretrained
    seed_torch(config.seed, "init")
    if base is not None:
        tuned = _from_base(base, config.task, labels)
        run.tell_initialised(Initialised.whole(tuned.module.state_dict()))
        tuned = grown_classifier(run, tuned)
        refuse_unused(config, tuned.manifest.inputs, is_declared_here=False)
        return tuned
    architecture, roots = module_place(config.model.architecture, run.spec.module_roots)
    inputs = {}
    if architecture in catalogue.MODULES or (
        not architecture and config.task in catalogue.DEFAULTS
    ):
        inputs = declared_inputs(run.dataset.manifest, run.splits["train"], config.preprocess)
    if inputs and config.task in _MIXED:
        columns = match_columns(inputs, run.dataset.manifest)
        inputs = with_shades(inputs, run.splits["train"], columns)
    classifier = run.built(
        lambda: build_classifier(
            task=config.task,
            labels=labels,
            architecture=architecture,
            hyperparameters=config.hyperparameters,
            inputs=inputs,
            module_roots=roots,
        )
    )
    refuse_unused(config, classifier.manifest.inputs, is_declared_here=bool(inputs))
    initialise(classifier.module, config.init.scheme, generator=run.generator("init", "scheme"))
    return classifier


def _pretrained(run: TrainingRun, labels: tuple[str, ...]) -> Classifier | None:
    """Return a head on an encoder, or on a network of the library, where the recipe names one."""
    if run.config.task == "text-classification" and is_for_encoder(run):
        return text_classifier(run, labels=labels)
    base = run.spec.base
    if base is not None and is_pretrained(base):
        return pretrained_classifier(run, base, labels=labels)
    return None


def module_place(
    architecture: str | None, roots: tuple[str, ...]
) -> tuple[str | None, tuple[str, ...]]:
    """Return an architecture with the roots to look it up in.

    A module named by its absolute path, which the server lets only an administrator on the
    same machine do, is looked up in its own folder.
    """
    file, is_module, name = (architecture or "").partition(".py:")
    path = Path(f"{file}.py")
    if not is_module or not path.is_absolute():
        return architecture, roots
    return f"{path.name}:{name}", (str(path.parent),)


def _from_base(base: ModelSource, task: Task, labels: tuple[str, ...]) -> Classifier:
    model = open_model(base)
    if not isinstance(model, Classifier) or model.manifest.task != task:
        raise InvalidValueError(
            f"{base.name!r} is not a model for {task!r}.",
            param="recipe.model.base",
        )
    if model.labels != labels:
        raise InvalidValueError(
            f"the dataset's labels differ from those of {base.name!r}.",
            param="recipe.model.base",
            hint="Train from an architecture instead, or relabel the rows.",
        )
    model.module.requires_grad_(requires_grad=True)
    return model.with_manifest(temperature=1.0, is_calibrated=False, report={})


def _calibrated(
    classifier: Classifier, rows: PreparedRows, targets: NDArray[np.int64]
) -> Classifier:
    if not len(rows):
        return classifier
    temperature = fit_temperature(predict(classifier.module, rows), targets)
    return classifier.with_manifest(temperature=temperature, is_calibrated=True)


def _targets(labels: Sequence[str], names: tuple[str, ...]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[label] for label in labels], dtype=np.int64)
