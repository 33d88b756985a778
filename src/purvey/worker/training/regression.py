"""Train, test and save a model that gives a score."""

from typing import Any

import numpy as np

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import NumberSpec
from purvey.errors import InvalidValueError
from purvey.evaluate.metrics import Floats
from purvey.evaluate.scores import regression_report
from purvey.models.classifier import Classifier, save_classifier
from purvey.train.examples import predict
from purvey.train.regression import RegressionLearner
from purvey.worker.training.classifier import build_model
from purvey.worker.training.inputs import PreparedRows, number_spec, prepared_splits
from purvey.worker.training.placing import place_fed
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.slices import slices_of


def train_regression(run: TrainingRun) -> ModelTrained:
    """Run a regression job to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    column = _score_column(run)
    scores = _scores(run, column)
    model = build_model(run, labels=())
    # A base keeps the scale that its head was trained to.
    scale = model.manifest.score or number_spec(scores["train"], column)
    model = model.with_manifest(score=scale)
    examples = prepared_splits(run, model)
    targets = {split: (wanted - scale.mean) / scale.std for split, wanted in scores.items()}
    place_fed(run, model.module)
    learner = RegressionLearner(
        model.module,
        examples=examples["train"],
        targets=targets["train"],
        validation=examples["validation"],
        validation_targets=targets["validation"],
        deviation=scale.std,
        config=run.config.regression,
        seed=run.config.seed,
    )
    state = run.train(learner, code_sha256=model.manifest.module_sha256)
    report = _report(run, model, examples["test"], scores)
    save_classifier(model.with_manifest(lineage=run.lineage(), report=report), run.output)
    return run.result(state, report)


def _score_column(run: TrainingRun) -> str:
    column = run.dataset.manifest.column("score")
    if column is None:
        raise InvalidValueError(
            "the dataset has no score column: name one in its columns.", param="recipe.dataset"
        )
    return column


def _scores(run: TrainingRun, column: str) -> dict[str, Floats]:
    """Return the scores of each split.

    Raises:
        InvalidValueError: All training rows have the same.
    """
    scores = {
        split: np.asarray(rows.numbers(column), dtype=np.float64)
        for split, rows in run.splits.items()
    }
    if scores["train"].min() == scores["train"].max():
        raise InvalidValueError(
            f"every training row has the score {scores['train'][0]:g} in column {column!r}: there "
            "is nothing to learn.",
            param="recipe.dataset",
        )
    return scores


def _report(
    run: TrainingRun, model: Classifier, rows: PreparedRows, scores: dict[str, Floats]
) -> dict[str, Any]:
    if not len(rows):
        return {}
    run.link.event(f"Testing on {len(rows)} untouched rows.")
    scale = model.manifest.score or NumberSpec()
    return regression_report(
        predict(model.module, rows)[:, 0] * scale.std + scale.mean,
        scores["test"],
        baseline=float(scores["train"].mean()),
        how=run.bootstrap,
        slices=slices_of(run.dataset.manifest, run.splits),
    )
