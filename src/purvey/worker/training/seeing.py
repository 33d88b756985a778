"""Train, test and save a model that answers about an image: anew, or on a registered base."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from purvey.contracts.data import SPLITS
from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import ImageSpec, ModelSource
from purvey.contracts.recipe_parts.building import TokenizerConfig
from purvey.errors import InvalidValueError
from purvey.evaluate.answers import answer_report
from purvey.evaluate.reports import TextLosses
from purvey.evaluate.slices import Slice
from purvey.models.chat import ChatTemplate
from purvey.models.initialised import Initialised
from purvey.models.language import LanguageModel
from purvey.models.loading import open_model
from purvey.models.lora import inject, merge
from purvey.models.seeing.model import (
    ARCHITECTURE,
    IMAGE,
    VISION_PREFIX,
    VisionLanguageModel,
    save_vision_language_model,
    with_new_eyes,
)
from purvey.models.seeing.network import Seeing
from purvey.train.chance import seed_torch
from purvey.train.seeing.learner import SeeingLearner, judge
from purvey.worker.training.inputs import declared_inputs
from purvey.worker.training.language import new_language_model, row_tokens
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.seen import (
    Encoder,
    SeenSplit,
    Talks,
    image_columns,
    read_talks,
    seen_split,
)
from purvey.worker.training.slices import slices_of
from purvey.worker.training.unused import refuse_unused


def train_seeing(run: TrainingRun) -> ModelTrained:
    """Run the job of a model that answers about images to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    talks = read_talks(run)
    base = run.spec.base
    model = _build(run, talks) if base is None else _from_base(run, base)
    num_images = len(image_columns(run.dataset.manifest))
    model = model.seeing(num_images)
    encoder = Encoder(model, num_images=num_images, max_tokens=row_tokens(run, model.language))
    if run.config.train.method == "lora":
        inject(model.language.decoder, run.config.lora, generator=run.generator("init", "lora"))
    training, validation, tested = (
        seen_split(run, encoder, talks[split], split) for split in SPLITS
    )
    if not training.rows.tokens:
        raise InvalidValueError(
            "no training row is short enough: raise train.sequence_tokens, or make "
            f"model.hyperparameters.{VISION_PREFIX}patch larger.",
            param="recipe.train.sequence_tokens",
        )
    module = model.module
    learner = SeeingLearner(
        module,
        rows=training.rows,
        validation=validation.rows,
        seed=run.config.seed,
        is_packed=run.config.train.packing,
        smoothing=run.config.train.label_smoothing,
    )
    state = run.train(learner)
    report = _report(run, module, tested)
    _save(run, model, encoder.template, report)
    return run.result(state, report)


def _report(run: TrainingRun, module: Seeing, tested: SeenSplit) -> dict[str, Any]:
    """Test on the untouched rows, if there are any."""
    num_rows = len(tested.kept)
    if not num_rows:
        return {}
    run.link.event(f"Testing on {num_rows} untouched rows.")
    judged = judge(module, tested.rows)
    losses = TextLosses(nats=judged.nats_N, tokens=judged.counts_N)
    is_right_N = judged.is_right_N.astype(np.float64)
    return answer_report(losses, is_right_N, run.bootstrap, _slices(run, tested))


def _build(run: TrainingRun, talks: Talks) -> VisionLanguageModel:
    config = run.config
    if config.model.architecture not in (None, ARCHITECTURE):
        raise InvalidValueError(
            f"{config.model.architecture!r} cannot answer about images: use {ARCHITECTURE!r}.",
            param="recipe.model.architecture",
        )
    of_eyes, of_decoder = _parted(config.hyperparameters)
    texts = [turn.content for talk in talks["train"] for turn in talk]
    language = new_language_model(run, texts, of_decoder)
    return _with_new_eyes(run, language, of_eyes)


def _from_base(run: TrainingRun, base: ModelSource) -> VisionLanguageModel:
    """Go on from a model that sees, or give a language model eyes."""
    config = run.config
    if config.lora.base_precision != "fp32":
        raise InvalidValueError(
            "the adapter is merged with its base, which a base in 4 bits cannot be.",
            param="recipe.lora.base_precision",
        )
    if config.tokenizer != TokenizerConfig():
        raise InvalidValueError(
            "section tokenizer has no effect on a base, which has its own.",
            param="recipe.tokenizer",
        )
    of_eyes, of_decoder = _parted(config.hyperparameters)
    model = open_model(base)
    is_seeing = isinstance(model, VisionLanguageModel)
    strange = next(iter({**of_decoder, **(of_eyes if is_seeing else {})}), None)
    if strange is not None:
        raise InvalidValueError(
            f"model.hyperparameters.{strange} shapes a new network; {base.name!r} has its own.",
            param=f"recipe.model.hyperparameters.{strange}",
        )
    if isinstance(model, VisionLanguageModel):
        refuse_unused(config, {IMAGE: model.spec}, is_declared_here=False)
        run.tell_initialised(Initialised.whole(model.module.state_dict()))
        return model
    if not isinstance(model, LanguageModel):
        raise InvalidValueError(
            f"{base.name!r} is no language model that is computed here.", param="recipe.model.base"
        )
    seeing = _with_new_eyes(run, model, of_eyes)
    names = list(seeing.module.state_dict())
    old = {name for name in names if name.startswith("decoder.")}
    run.tell_initialised(Initialised.of(names, old))
    return seeing


def _with_new_eyes(
    run: TrainingRun, language: LanguageModel, hyperparameters: dict[str, Any]
) -> VisionLanguageModel:
    config = run.config
    inputs = declared_inputs(run.dataset.manifest, run.splits["train"], config.preprocess)
    spec = next(spec for spec in inputs.values() if isinstance(spec, ImageSpec))
    refuse_unused(config, {IMAGE: spec}, is_declared_here=True)
    seed_torch(config.seed, "init", "eyes")
    return run.built(lambda: with_new_eyes(language, hyperparameters=hyperparameters, spec=spec))


def _parted(hyperparameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return those of the eyes, and those of the decoder."""
    of_eyes = {n: v for n, v in hyperparameters.items() if n.startswith(VISION_PREFIX)}
    return of_eyes, {n: v for n, v in hyperparameters.items() if n not in of_eyes}


def _slices(run: TrainingRun, tested: SeenSplit) -> list[Slice]:
    """Return the slices of the test rows, numbered as those that were kept."""
    places = {row: place for place, row in enumerate(tested.kept)}
    found: list[Slice] = []
    for one in slices_of(run.dataset.manifest, run.splits):
        rows = np.array([places[row] for row in one.rows if row in places], dtype=np.int64)
        if len(rows):
            found.append(Slice(column=one.column, value=one.value, rows=rows))
    return found


def _save(
    run: TrainingRun,
    model: VisionLanguageModel,
    template: ChatTemplate,
    report: dict[str, Any],  # JSON values
) -> None:
    """Write a whole folder; an adapter is merged into its base, whose eyes are new."""
    if run.config.train.method == "lora":
        merge(model.language.decoder)
    manifest = msgspec.structs.replace(model.manifest, lineage=run.lineage(), report=report)
    language = replace(model.language, template=template)
    made = VisionLanguageModel(language=language, eyes=model.eyes, manifest=manifest)
    save_vision_language_model(run.output, made)
