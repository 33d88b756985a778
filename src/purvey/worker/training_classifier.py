"""Training a classifier: columns to inputs, the run, calibration, the final test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from purvey.contracts.data import ColumnKind, DatasetManifest
from purvey.contracts.engine import ImageInput, NamedInputs, NumberInput, PlainInput, TextInput
from purvey.contracts.jobs import JobSpec, ModelTrained
from purvey.contracts.model import ImageSpec, InputSpec, NumberSpec, TextSpec
from purvey.contracts.recipe import TrainConfig
from purvey.data.loader import Rows, load_splits
from purvey.errors import InvalidValueError
from purvey.evaluate.calibration import fit_temperature
from purvey.evaluate.metrics import accuracy, count_outcomes, macro_f1
from purvey.evaluate.reports import classification_report
from purvey.models.classifier import Classifier, Prepared, build_classifier, save_classifier
from purvey.models.initialise import initialise
from purvey.train.chance import seed_torch
from purvey.train.classification import ClassifierLearner, predict
from purvey.worker.job_link import JobLink
from purvey.worker.training_run import bootstrap, carry_out, generator, lineage

_KINDS: dict[type[InputSpec], ColumnKind] = {
    ImageSpec: "image",
    TextSpec: "text",
    NumberSpec: "number",
}


class PreparedExamples:
    """Inputs prepared once, collated batch by batch."""

    def __init__(self, classifier: Classifier, items: Sequence[Prepared]) -> None:
        self._classifier, self._items = classifier, items

    def __len__(self) -> int:
        """Rows there are."""
        return len(self._items)

    def logits(self, rows: Sequence[int]) -> Tensor:
        """Return `logits_BL` of some rows."""
        items = [self._items[row] for row in rows]
        return self._classifier.logits(self._classifier.collate(items))


def train(spec: JobSpec, config: TrainConfig, link: JobLink) -> ModelTrained:
    """Train, calibrate, test and save a classifier.

    Raises:
        InvalidValueError: The dataset does not fit the network; names the recipe's field.
        PurveyError: What the run raises.
    """
    if spec.dataset is None:
        raise InvalidValueError("a classifier is trained on a dataset.", param="dataset")
    if spec.base is not None:
        raise InvalidValueError(
            "classifiers are trained from scratch so far.",
            param="model.base",
            hint="Name model.architecture instead.",
        )
    manifest = spec.dataset.manifest
    classifier = _build(spec, config, manifest)
    link.event(f"Built {config.model.architecture} with {classifier.num_parameters:,} weights.")
    splits = load_splits(Path(spec.dataset.folder), manifest)
    examples = {name: _examples(classifier, manifest, rows) for name, rows in splits.items()}
    targets = {name: _targets(classifier, manifest, rows) for name, rows in splits.items()}
    nothing, no_targets = PreparedExamples(classifier, []), np.zeros(0, dtype=np.int64)
    validation = examples.get("validation", nothing)
    learner = ClassifierLearner(
        classifier.module,
        examples=examples["train"],
        targets=targets["train"],
        validation=validation,
        validation_targets=targets.get("validation", no_targets),
        measure=_measure,
        seed=config.seed,
    )
    state = carry_out(learner, spec, config, link)
    temperature = 1.0
    if len(validation):
        temperature = fit_temperature(predict(classifier.module, validation), targets["validation"])
    report = {}
    if len(examples.get("test", nothing)):
        report = classification_report(
            predict(classifier.module, examples["test"]),
            targets["test"],
            labels=classifier.labels,
            temperature=temperature,
            how=bootstrap(config),
        )
    trained = classifier.with_manifest(
        temperature=temperature,
        is_calibrated=len(validation) > 0,
        lineage=lineage(spec, config, state),
        report=report,
    )
    save_classifier(trained, Path(spec.output_dir))
    return ModelTrained(trained_rows=state.rows_seen, compute_s=state.compute_s, report=report)


def _build(spec: JobSpec, config: TrainConfig, manifest: DatasetManifest) -> Classifier:
    architecture, roots = _module_place(config.model.architecture, spec.module_roots)
    seed_torch(config.seed, "build")
    classifier = build_classifier(
        task=config.task,
        labels=manifest.labels,
        architecture=architecture,
        hyperparameters=config.model.hyperparameters,
        module_roots=roots,
    )
    initialise(classifier.module, config.init.scheme, generator=generator(config, "initialise"))
    return classifier


def _module_place(
    architecture: str | None, roots: tuple[str, ...]
) -> tuple[str | None, tuple[str, ...]]:
    """Split a module named by its absolute path, which the server let through, from its folder."""
    file, is_module, name = (architecture or "").partition(".py:")
    path = Path(f"{file}.py")
    if not is_module or not path.is_absolute():
        return architecture, roots
    return f"{path.name}:{name}", (str(path.parent),)


def _examples(classifier: Classifier, manifest: DatasetManifest, rows: Rows) -> PreparedExamples:
    columns = _columns(classifier, manifest)
    specs = classifier.manifest.inputs
    items = []
    for row in range(rows.num_rows):
        inputs: NamedInputs = {
            name: _input(rows, column, row, specs[name]) for name, column in columns.items()
        }
        items.append(classifier.prepare(inputs))
    return PreparedExamples(classifier, items)


def _columns(classifier: Classifier, manifest: DatasetManifest) -> dict[str, str]:
    """Map each input of the network to a column: by its name, or the only one by its kind."""
    specs = classifier.manifest.inputs
    found: dict[str, str] = {}
    for name, spec in specs.items():
        kind = _KINDS[type(spec)]
        named = any(c.name == name and c.kind == kind for c in manifest.columns)
        column = name if named else (manifest.column(kind) if len(specs) == 1 else None)
        if column is None:
            raise InvalidValueError(
                f"the network's input {name!r} needs a column of kind {kind!r}"
                f"{'' if len(specs) == 1 else ' and of that name'}.",
                param="dataset",
            )
        found[name] = column
    return found


def _input(rows: Rows, column: str, row: int, spec: InputSpec) -> PlainInput:
    if isinstance(spec, ImageSpec):
        return ImageInput(data=rows.images(column)[row])
    if isinstance(spec, TextSpec):
        return TextInput(text=rows.texts(column)[row])
    return NumberInput(value=rows.numbers(column)[row])


def _targets(classifier: Classifier, manifest: DatasetManifest, rows: Rows) -> NDArray[np.int64]:
    column = manifest.column("label")
    if column is None:
        raise InvalidValueError("the dataset has no label column.", param="dataset")
    numbers = {label: number for number, label in enumerate(classifier.labels)}
    return np.array([numbers[label] for label in rows.texts(column)], dtype=np.int64)


def _measure(logits: NDArray[np.float64], targets: NDArray[np.int64]) -> dict[str, float]:
    outcomes = count_outcomes(targets, logits.argmax(axis=1), num_labels=logits.shape[1])
    counts = outcomes.counts[None, :]
    return {
        "accuracy": float(accuracy(outcomes, counts)[0]),
        "macro_f1": float(macro_f1(outcomes, counts)[0]),
    }
