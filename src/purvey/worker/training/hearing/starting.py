"""A recogniser before its first step: built anew, or opened from a base of any family."""

from collections.abc import Sequence
from pathlib import Path

from purvey.contracts.model import AudioSpec, ModelManifest, ModelSource
from purvey.errors import InvalidValueError
from purvey.models.folder.manifest import read_manifest
from purvey.models.initialise import initialise
from purvey.models.initialised import Initialised
from purvey.models.loading import open_model
from purvey.models.speech.listening import Recogniser
from purvey.models.speech.recogniser import SpeechModel, build_speech_model, recogniser_of
from purvey.models.speech.vocabulary import Vocabulary
from purvey.models.speech.wav2vec2.folders import start_ctc
from purvey.models.speech.whisper.model import LANGUAGE, WhisperModel, load_whisper
from purvey.train.chance import seed_torch
from purvey.worker.training.encoders.pretrained import warn_of_large_rate
from purvey.worker.training.inputs import declared_inputs
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.sizing import asked_of, grown_recogniser
from purvey.worker.training.unused import refuse_unused

_SHOWN_LANGUAGES = 10


def start_recogniser(run: TrainingRun, said: Sequence[str]) -> Recogniser:
    """Build the network that the recipe asks for, or open its base; tell what came from where.

    Args:
        run: The job.
        said: The training transcripts, normalised.

    Raises:
        PurveyError: The recipe, the base or the transcripts do not allow it.
    """
    seed_torch(run.config.seed, "init")
    base = run.spec.base
    manifest = None if base is None else read_manifest(Path(base.folder))
    is_whisper = manifest is not None and manifest.family == "whisper"
    if run.config.model.language is not None and not is_whisper:
        raise InvalidValueError(
            "model.language is for a base of the Whisper family; leave it out.",
            param="recipe.model.language",
        )
    if base is None or manifest is None:
        return _new(run, said)
    if is_whisper:
        model: Recogniser = _whisper(run, base)
    elif manifest.family == "wav2vec2":
        model = _wav2vec2(run, base, manifest, said)
    else:
        model = _own(run, base, said)
    refuse_unused(run.config, model.manifest.inputs, is_declared_here=False)
    return model


def _new(run: TrainingRun, said: Sequence[str]) -> SpeechModel:
    config = run.config
    inputs = declared_inputs(run.dataset.manifest, run.splits["train"], config.preprocess)
    spec = next(spec for spec in inputs.values() if isinstance(spec, AudioSpec))
    model = run.built(
        lambda: build_speech_model(
            architecture=config.model.architecture,
            hyperparameters=config.hyperparameters,
            spec=spec,
            vocabulary=Vocabulary.of(said),
        )
    )
    refuse_unused(config, model.manifest.inputs, is_declared_here=True)
    initialise(model.module, config.init.scheme, generator=run.generator("init", "scheme"))
    return model


def _own(run: TrainingRun, base: ModelSource, said: Sequence[str]) -> SpeechModel:
    model = open_model(base)
    if not isinstance(model, SpeechModel):
        raise InvalidValueError(
            f"{base.name!r} is not a model for 'speech-recognition'.", param="recipe.model.base"
        )
    model.vocabulary.check_covers(said, whose=repr(base.name))
    model.module.requires_grad_(requires_grad=True)
    run.tell_initialised(Initialised.whole(model.module.state_dict()))
    return grown_recogniser(run, model.with_manifest(report={}))


def _wav2vec2(
    run: TrainingRun, base: ModelSource, manifest: ModelManifest, said: Sequence[str]
) -> SpeechModel:
    _refuse_growth(run)
    if run.config.augment.audio.frequency_masks:
        raise InvalidValueError(
            f"{base.name!r} hears samples, which have no bands to be masked; leave "
            "augment.audio.frequency_masks out.",
            param="recipe.augment.audio.frequency_masks",
        )
    started = start_ctc(Path(base.folder), manifest, said)
    run.tell_initialised(started.initialised)
    model = recogniser_of(started.network, manifest)
    _tell_vocabulary(run, model, started.kept)
    warn_of_large_rate(run)
    started.network.requires_grad_(requires_grad=True)
    return model.with_manifest(lineage={}, report={})


def _tell_vocabulary(run: TrainingRun, model: SpeechModel, kept: int | None) -> None:
    """Tell, and have the lineage say, whether what it writes is what its base wrote."""
    size = len(model.manifest.vocabulary)
    if kept is None:
        run.notes["vocabulary"] = {"size": size, "is_of_base": True}
        run.link.event(f"It writes the {size} characters of its base.")
        return
    run.notes["vocabulary"] = {"size": size, "is_of_base": False, "kept": kept}
    run.link.event(
        f"The base cannot write all that is said: it writes the {size} characters of the "
        f"transcripts instead, {kept} of which the base knew.",
        **run.notes["vocabulary"],
    )


def _whisper(run: TrainingRun, base: ModelSource) -> WhisperModel:
    _refuse_growth(run)
    model = load_whisper(Path(base.folder))
    run.tell_initialised(Initialised.whole(model.module.state_dict()))
    warn_of_large_rate(run)
    language = _language(run, model, base.name)
    model.module.requires_grad_(requires_grad=True)
    model.network.model.encoder.embed_positions.requires_grad_(requires_grad=False)  # sinusoids
    spoken = {} if language is None else {LANGUAGE: language}
    return model.with_manifest(hyperparameters=spoken, lineage={}, report={})


def _language(run: TrainingRun, model: WhisperModel, base: str) -> str | None:
    """Return the language of the transcripts; None of a base that tells none apart."""
    asked, known = run.config.model.language, sorted(model.tokens.languages)
    shown = ", ".join(known[:_SHOWN_LANGUAGES]) + (", ..." if len(known) > _SHOWN_LANGUAGES else "")
    if not known:
        if asked is None:
            return None
        complaint = f"{base!r} tells no languages apart; leave model.language out."
    elif (language := asked or model.language) is None:
        complaint = f"{base!r} knows several languages ({shown}): name that of the transcripts."
    elif language not in known:
        complaint = f"{base!r} knows no language {language!r}; it knows {shown}."
    else:
        return language
    raise InvalidValueError(complaint, param="recipe.model.language")


def _refuse_growth(run: TrainingRun) -> None:
    asked = asked_of(run)
    if asked is not None:
        raise asked.refusal("it is computed by transformers")
