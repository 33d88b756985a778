"""Train, test and save a network that gives vectors of images and texts."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import ImageSpec, ModelManifest, TextSpec
from purvey.contracts.recipe_parts.building import TokenizerConfig
from purvey.contracts.recipe_parts.inputs import ImageAugment
from purvey.contracts.recipe_parts.pictured import (
    FAMILY,
    PictureColumns,
    check_pictured,
    picture_columns,
)
from purvey.data.loader import Rows
from purvey.errors import InvalidValueError
from purvey.evaluate.retrieval import Vectors, places, retrieval_metrics, retrieval_report
from purvey.evaluate.slices import length_slices
from purvey.models.encoder.texts import TextReader
from purvey.models.folder.manifest import read_manifest
from purvey.models.initialise import initialise
from purvey.models.initialised import Initialised
from purvey.models.pretrained.clip import (
    ClipModel,
    PretrainedClip,
    build_clip,
    open_clip,
    save_clip,
    train_clip_tokenizer,
)
from purvey.train.chance import seed_torch
from purvey.train.vectors.pictures import Pictures, PicturesLearner, embedded
from purvey.worker.training.encoders.pairs import ByPair
from purvey.worker.training.inputs import declared_inputs
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.seen import DecodedImages
from purvey.worker.training.shades import shaded
from purvey.worker.training.unused import refuse_unused

OF_IMAGES = "image_to_text_"
"""How the metrics of finding an image's text begin; those of finding a text's image have no more
than their names."""


def is_pictured(run: TrainingRun) -> bool:
    """Tell whether a recipe names a network for images and texts, as its base or to be built."""
    if run.spec.base is not None:
        return read_manifest(Path(run.spec.base.folder)).family == FAMILY
    return run.config.model.architecture == FAMILY


def train_pictured(run: TrainingRun) -> ModelTrained:
    """Run an embedding job of images and texts to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    config = run.config
    check_pictured(config.embedding, model=config.model)
    columns = picture_columns(config.embedding, run.dataset.manifest)
    model = _start(run, columns)
    reader = TextReader(framer=model.tokenizer.framer(), max_tokens=_longest(run, model))
    pictures = {
        split: _read(rows, columns, reader, model.spec, _augment(run, split))
        for split, rows in run.splits.items()
    }
    _check(run, pictures)
    validation = pictures["validation"]
    learner = PicturesLearner(
        model.module,
        rows=pictures["train"],
        validation=validation,
        measure=lambda images, texts: _metrics(validation, images, texts),
        score=lambda metrics: (metrics["mrr"] + metrics[f"{OF_IMAGES}mrr"]) / 2,
        batch_size=config.train.batch_size,
        seed=config.seed,
    )
    state = run.train(learner)
    report = _tested(run, model.module, columns, pictures["test"])
    manifest = msgspec.structs.replace(model.manifest, lineage=run.lineage(), report=report)
    save_clip(run.output, replace(model, manifest=manifest))
    return run.result(state, report)


def _start(run: TrainingRun, columns: PictureColumns, *, is_told: bool = True) -> ClipModel:
    """Open the base or build a network, as it is before the first step."""
    seed_torch(run.config.seed, "init")
    base = run.spec.base
    if base is None:
        return _new(run, columns, is_told=is_told)
    if run.config.tokenizer != TokenizerConfig():
        raise InvalidValueError(
            "section tokenizer has no effect with model.base, which has its own.",
            param="recipe.tokenizer",
        )
    if read_manifest(Path(base.folder)).task != run.config.task:
        raise InvalidValueError(
            f"{base.name!r} is no model for {run.config.task}.", param="recipe.model.base"
        )
    model = open_clip(Path(base.folder))
    refuse_unused(run.config, {"image": model.spec}, is_declared_here=False)
    model.module.requires_grad_(requires_grad=True)
    if is_told:
        run.tell_initialised(model.initialised)
    return model


def _new(run: TrainingRun, columns: PictureColumns, *, is_told: bool) -> ClipModel:
    config, training = run.config, run.splits["train"]
    spec = _declared(run, columns)
    refuse_unused(config, {"image": spec}, is_declared_here=True)
    if is_told:
        run.link.event("Training the tokenizer.")
    tokenizer = train_clip_tokenizer(
        training.texts(columns.text), vocabulary_size=config.tokenizer.vocabulary_size
    )
    module = run.built(
        lambda: build_clip(
            config.hyperparameters,
            spec=spec,
            tokenizer=tokenizer,
            max_tokens=config.train.sequence_tokens,
        )
    )
    initialise(module, config.init.scheme, generator=run.generator("init", "scheme"))
    return ClipModel(
        module=module,
        tokenizer=tokenizer,
        manifest=ModelManifest(
            family=FAMILY,
            task=config.task,
            inputs={"image": spec, "text": TextSpec()},
            architecture=FAMILY,
            hyperparameters=config.hyperparameters,
        ),
        initialised=Initialised.of(module.state_dict(), ()),
    )


def _declared(run: TrainingRun, columns: PictureColumns) -> ImageSpec:
    """Return how images are seen: as the recipe says, else as high as wide as most of them are."""
    manifest, asked = run.dataset.manifest, run.config.preprocess.image
    only = msgspec.structs.replace(
        manifest, columns=tuple(c for c in manifest.columns if c.name == columns.image)
    )
    found = declared_inputs(only, run.splits["train"], run.config.preprocess).values()
    spec = next(one for one in found if isinstance(one, ImageSpec))
    if asked.height is None and asked.width is None:
        side = min(spec.height, spec.width)
        spec = msgspec.structs.replace(spec, height=side, width=side)
    return shaded(spec, run.splits["train"].media(columns.image))


def _longest(run: TrainingRun, model: ClipModel) -> int:
    wanted = run.config.train.sequence_tokens
    if run.spec.base is not None and wanted > model.max_tokens:
        run.link.event(f"Texts are cut at the {model.max_tokens} tokens that the base takes.")
    return min(wanted, model.max_tokens)


def _augment(run: TrainingRun, split: str) -> ImageAugment | None:
    return run.config.augment.image if split == "train" else None


def _read(
    rows: Rows,
    columns: PictureColumns,
    reader: TextReader,
    spec: ImageSpec,
    augment: ImageAugment | None,
) -> Pictures:
    """Read a split; texts that are too long are cut, and what is there twice is held once.

    Raises:
        InvalidValueError: A text has no tokens, or an image cannot be decoded.
    """
    said, encoded = rows.texts(columns.text), rows.media(columns.image)
    keys = [hashlib.sha256(data).hexdigest() for data in encoded]
    texts, text_of = _numbered(said)
    different, image_of = _numbered(keys)
    data_of = dict(zip(keys, encoded, strict=True))
    return Pictures(
        images=DecodedImages(
            [data_of[key] for key in different], num_each=1, spec=spec, augment=augment
        ),
        num_images=len(different),
        texts=[reader.framed(text, param="recipe.dataset") for text in texts],
        image_of=image_of,
        text_of=text_of,
        by_text=ByPair(said, image_of),
        by_image=ByPair(keys, text_of),
    )


def _numbered(values: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the different values in order, and the number of each one's."""
    numbers: dict[str, int] = {}
    places_of = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), places_of


def _check(run: TrainingRun, pictures: dict[str, Pictures]) -> None:
    training = pictures["train"]
    if min(training.num_images, len(training.texts)) < 2:
        raise InvalidValueError(
            "the training split has fewer than two different images, or texts.",
            param="recipe.dataset",
        )
    if not len(pictures["validation"]):
        run.tell_unvalidated()


def _metrics(rows: Pictures, images_MD: Vectors, texts_KD: Vectors) -> dict[str, float]:
    """Return the metrics of finding images by their texts, then of finding texts."""
    of_texts = retrieval_metrics(places(texts_KD[rows.text_of], images_MD, rows.by_text))
    of_images = retrieval_metrics(places(images_MD[rows.image_of], texts_KD, rows.by_image))
    return of_texts | {f"{OF_IMAGES}{name}": value for name, value in of_images.items()}


def _tested(
    run: TrainingRun, module: PretrainedClip, columns: PictureColumns, rows: Pictures
) -> dict[str, Any]:
    if not len(rows):
        return {}
    run.link.event(f"Testing on {len(rows)} untouched rows.")
    untrained = _start(run, columns, is_told=False).module  # as it was before the first step
    (images_MD, texts_KD), (images0_MD, texts0_KD) = (
        embedded(network, rows) for network in (module, untrained)
    )
    lengths = [float(len(rows.texts[number])) for number in rows.text_of]
    of_texts = retrieval_report(
        places(texts_KD[rows.text_of], images_MD, rows.by_text),
        untrained_N=places(texts0_KD[rows.text_of], images0_MD, rows.by_text),
        num_candidates=rows.num_images,
        how=run.bootstrap,
        slices=length_slices(columns.text, lengths, unit="tokens"),
    )
    of_images = retrieval_report(
        places(images_MD[rows.image_of], texts_KD, rows.by_image),
        untrained_N=places(images0_MD[rows.image_of], texts0_KD, rows.by_image),
        num_candidates=len(rows.texts),
        how=run.bootstrap,
    )
    return of_texts | {f"{OF_IMAGES}{name}": value for name, value in of_images.items()}
