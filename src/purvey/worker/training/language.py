"""Train, test and save a language model: from scratch, or a base tuned in full or by LoRA."""

from dataclasses import replace

import msgspec
import numpy as np

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import ModelManifest, ModelSource
from purvey.errors import InvalidFileError, InvalidValueError
from purvey.evaluate.reports import TextLosses, language_report
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.foreign import ForeignModel
from purvey.models.initialise import initialise
from purvey.models.language import LanguageModel, save_adapter_model, save_language_model
from purvey.models.loading import open_model
from purvey.models.lora import inject, merge
from purvey.models.tokenizer import Tokenizer
from purvey.train.chance import seed_torch
from purvey.train.language import LanguageLearner, TokenRow, row_losses
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.texts import Corpus, Encoder, TokenRows, read_corpus


def train_language_model(run: TrainingRun) -> ModelTrained:
    """Run a language model's job to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    corpus = read_corpus(run)
    base = run.spec.base
    model = _build(run, corpus) if base is None else _open_base(base)
    template = model.template or ChatTemplate.default(model.tokenizer)
    encoder = Encoder(model.tokenizer, template, max_tokens=_row_tokens(run, model))
    rows = _rows(corpus, encoder, "train")
    if not rows:
        raise InvalidFileError("no training row holds anything to learn.", param="training_file")
    learner = LanguageLearner(
        model.decoder,
        rows,
        _rows(corpus, encoder, "validation"),
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
    )
    _tell_cuts(run, encoder)
    if run.config.train.method == "lora":
        inject(model.decoder, run.config.lora, generator=run.generator("init", "lora"))
    state = run.train(learner)
    report = _report(run, model.decoder, corpus, encoder)
    has_template = model.template is not None or corpus.has_conversations
    _save(run, model, template if has_template else None, report)
    return run.result(state, report)


def _open_base(base: ModelSource) -> LanguageModel:
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
    tokenizer = _tokenizer(run, corpus)
    hyperparameters = {
        "context_tokens": config.train.sequence_tokens,
        **config.model.hyperparameters,
    }
    shape = DecoderConfig.from_hyperparameters(
        hyperparameters,
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
    )
    seed_torch(config.seed, "init")
    decoder = Decoder(shape)
    initialise(decoder, config.init.scheme, generator=run.generator("init", "scheme"))
    return LanguageModel(decoder=decoder, tokenizer=tokenizer, template=None)


def _tokenizer(run: TrainingRun, corpus: Corpus) -> Tokenizer:
    """Train the tokenizer; its training is deterministic, so every attempt gets the same one."""
    run.link.event("Training the tokenizer.")
    size = run.config.tokenizer.vocabulary_size
    return Tokenizer.train(corpus.training_texts(), vocabulary_size=size)


def _row_tokens(run: TrainingRun, model: LanguageModel) -> int:
    wanted, context = run.config.train.sequence_tokens, model.context_tokens
    if wanted > context:
        run.link.event(f"Rows are cut at the model's context of {context} tokens.")
    return min(wanted, context)


def _rows(corpus: Corpus, encoder: Encoder, split: str) -> list[TokenRow]:
    if corpus.has_conversations:
        return encoder.conversations(corpus.conversations[split])
    return encoder.packed(corpus.texts[split]) if corpus.texts[split] else []


def _tell_cuts(run: TrainingRun, encoder: Encoder) -> None:
    if encoder.num_cut:
        run.link.event(
            f"{encoder.num_cut} conversations are longer than train.sequence_tokens and were cut; "
            f"{encoder.num_dropped} of them hold no answer before the cut and were left out.",
            level="warn",
        )


def _report(
    run: TrainingRun, decoder: Decoder, corpus: Corpus, encoder: Encoder
) -> dict[str, object]:
    """Test on the test split; of files, which have none, tell the validation file's loss."""
    splits = corpus.conversations if corpus.has_conversations else corpus.texts
    split = "test" if splits["test"] else "validation"
    if not splits[split]:
        return {}
    run.link.event(f"Testing on {len(splits[split])} documents of the {split} split.")
    tokens = _by_document(corpus, encoder, split)
    if not tokens.rows:
        return {}
    report = language_report(_document_losses(decoder, tokens), run.bootstrap)
    prefix = "" if split == "test" else "validation_"
    return {f"{prefix}{name}": value for name, value in report.items()}


def _by_document(corpus: Corpus, encoder: Encoder, split: str) -> TokenRows:
    if not corpus.has_conversations:
        return encoder.documents(corpus.texts[split])
    rows = encoder.conversations(corpus.conversations[split])
    return TokenRows(rows=rows, owners=list(range(len(rows))), num_documents=len(rows))


def _document_losses(decoder: Decoder, tokens: TokenRows) -> TextLosses:
    nats, counts = row_losses(decoder, tokens.rows)
    size = tokens.num_documents
    return TextLosses(
        nats=np.asarray(np.bincount(tokens.owners, nats, minlength=size), dtype=np.float64),
        tokens=np.asarray(np.bincount(tokens.owners, counts, minlength=size), dtype=np.float64),
    )


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
