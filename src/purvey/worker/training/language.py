"""Train, test and save a language model: from scratch, or a base tuned in full or by LoRA."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import ModelManifest, ModelSource
from purvey.errors import InvalidValueError
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.foreign import ForeignModel
from purvey.models.initialise import initialise
from purvey.models.initialised import Initialised
from purvey.models.language import LanguageModel, save_adapter_model, save_language_model
from purvey.models.loading import open_model
from purvey.models.lora import inject, merge
from purvey.models.tokenizer import Tokenizer
from purvey.train.chance import seed_torch
from purvey.worker.training.encoding import Encoder
from purvey.worker.training.lessons import lesson_of
from purvey.worker.training.placing import place
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.sizing import sized
from purvey.worker.training.texts import Corpus, read_corpus


def train_language_model(run: TrainingRun) -> ModelTrained:
    """Run a language model's job to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    corpus = read_corpus(run)
    base = run.spec.base
    model = _build(run, corpus) if base is None else _open_base(run, base)
    model, reaches = sized(run, model)
    template = model.template or ChatTemplate.default(model.tokenizer)
    encoder = Encoder(model.tokenizer, template, max_tokens=row_tokens(run, model))
    if run.config.train.method == "lora":
        inject(model.decoder, run.config.lora, generator=run.generator("init", "lora"))
    place(run, model.decoder)
    lesson = lesson_of(run, model.decoder, corpus, encoder)
    state = run.train(lesson.learner, reaches=reaches)
    report = lesson.report()
    has_template = model.template is not None or corpus.has_turns
    _save(run, model, template if has_template else None, report)
    return run.result(state, report)


def _open_base(run: TrainingRun, base: ModelSource) -> LanguageModel:
    if run.config.lora.base_precision != "fp32" and base.base_folder is not None:
        raise InvalidValueError(
            f"{base.name!r} is an adapter, which is merged with its base before it is tuned again; "
            "a base in 4 bits cannot be merged with.",
            param="recipe.lora.base_precision",
        )
    model = open_model(base)
    if isinstance(model, ForeignModel):
        raise InvalidValueError(
            f"{base.name!r} is computed by transformers: it is served, and not trained.",
            param="recipe.model.base",
        )
    if not isinstance(model, LanguageModel):
        raise InvalidValueError(
            f"{base.name!r} is not a language model.", param="recipe.model.base"
        )
    run.tell_initialised(Initialised.whole(model.decoder.state_dict()))
    return model


def _build(run: TrainingRun, corpus: Corpus) -> LanguageModel:
    config = run.config
    if config.model.architecture not in (None, "decoder"):
        raise InvalidValueError(
            f"{config.model.architecture!r} cannot generate text: use 'decoder'.",
            param="recipe.model.architecture",
        )
    if config.train.method == "lora":
        raise InvalidValueError(
            "train.method 'lora' adapts a base: set model.base.", param="recipe.train.method"
        )
    return new_language_model(run, corpus.training_texts(), config.hyperparameters)


def new_language_model(
    run: TrainingRun, texts: Sequence[str], hyperparameters: Mapping[str, Any]
) -> LanguageModel:
    """Build a decoder anew, with a tokenizer of its own, and without a chat template.

    The tokenizer's training is deterministic, so every attempt gets the same one.

    Args:
        run: The job.
        texts: What the tokenizer learns from.
        hyperparameters: The decoder's.

    Raises:
        InvalidValueError: Names the hyperparameter at fault.
    """
    config = run.config
    run.link.event("Training the tokenizer.")
    tokenizer = Tokenizer.train(texts, vocabulary_size=config.tokenizer.vocabulary_size)
    shape = DecoderConfig.from_hyperparameters(
        {"context_tokens": config.train.sequence_tokens, **hyperparameters},
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
    )
    seed_torch(config.seed, "init")
    decoder = run.built(lambda: Decoder(shape))
    initialise(decoder, config.init.scheme, generator=run.generator("init", "scheme"))
    return LanguageModel(decoder=decoder, tokenizer=tokenizer, template=None)


def row_tokens(run: TrainingRun, model: LanguageModel) -> int:
    """Return how long a row may be: as long as is wanted, and no longer than the context."""
    wanted, context = run.config.train.sequence_tokens, model.context_tokens
    if wanted > context:
        run.link.event(f"Rows are cut at the model's context of {context} tokens.")
    return min(wanted, context)


def _save(
    run: TrainingRun,
    model: LanguageModel,
    template: ChatTemplate | None,
    report: dict[str, object],
) -> None:
    """Write an adapter where the base is whole, else (also on an adapter) a whole folder."""
    is_adapted, base = run.config.train.method == "lora", run.spec.base
    manifest = ModelManifest(
        family="decoder", task="text-generation", lineage=run.lineage(), report=report
    )
    made = replace(model, template=template, manifest=manifest)
    if is_adapted and base is not None and base.base_folder is None:
        named = replace(made, manifest=msgspec.structs.replace(manifest, base=base.digest))
        save_adapter_model(run.output, named, run.config.lora, base_name=base.name)
        return
    if is_adapted:
        merge(model.decoder)
    save_language_model(run.output, made)
