"""Open any model folder by what its manifest says it is."""

from pathlib import Path

from purvey.contracts.model import ModelSource
from purvey.errors import InvalidCheckpointError
from purvey.models.chat import ChatTemplate
from purvey.models.classifier import Classifier, load_classifier
from purvey.models.encoder.loading import EmbeddingModel, load_embedding_model
from purvey.models.folder.manifest import read_manifest
from purvey.models.foreign import ForeignModel, load_foreign_model
from purvey.models.language import LanguageModel, load_language_model
from purvey.models.lora import ADAPTER_CONFIG_NAME, load_adapter, merge
from purvey.models.pretrained.clip import ClipModel, open_clip
from purvey.models.seeing.model import VisionLanguageModel, load_vision_language_model
from purvey.models.speech.recogniser import SpeechModel, load_speech_model
from purvey.models.speech.whisper.model import WhisperModel, load_whisper
from purvey.models.weights import refuse_unsafe_files

AnyModel = (
    LanguageModel
    | ForeignModel
    | Classifier
    | EmbeddingModel
    | ClipModel
    | SpeechModel
    | WhisperModel
    | VisionLanguageModel
)


def open_model(
    source: ModelSource, *, is_widened: bool = True, has_matrices: bool = True
) -> AnyModel:
    """Open a registered model for computing: float32, on the CPU, in evaluation mode.

    An adapter is merged onto its base. A user's module runs from the folder's own copy, whose
    digest is verified first.

    Args:
        source: Where it lies; for an adapter, also where its base lies.
        is_widened: Whether a language model that is no adapter comes as float32; else its weights
            keep their files' dtypes, to be served. Eyes always come as float32.
        has_matrices: Whether its linear layers have weights: not needed where they are kept in
            another form.

    Raises:
        InvalidCheckpointError: The folder is not usable; names what is wrong.
        IntegrityError: A user's module was changed after training.
    """
    folder = Path(source.folder)
    manifest = read_manifest(folder)
    if (manifest.family, manifest.task) == ("clip", "embedding"):
        return open_clip(folder)
    if manifest.task in ("embedding", "rerank"):
        return load_embedding_model(folder)
    if manifest.family == "transformers":
        return load_foreign_model(folder)
    if manifest.family == "whisper":
        return load_whisper(folder)
    if manifest.family == "speech" or manifest.task == "speech-recognition":
        return load_speech_model(folder)
    if manifest.family == "vision-language":
        return load_vision_language_model(folder, is_widened=is_widened, has_matrices=has_matrices)
    if manifest.family != "decoder":
        return load_classifier(folder)
    if not (folder / ADAPTER_CONFIG_NAME).is_file():
        return load_language_model(folder, is_widened=is_widened, has_matrices=has_matrices)
    if source.base_folder is None:
        message = f"{source.name!r} is an adapter and its base is not known."
        raise InvalidCheckpointError(message, param="model")
    return _open_adapter(folder, Path(source.base_folder))


def _open_adapter(folder: Path, base_folder: Path) -> LanguageModel:
    refuse_unsafe_files(folder)
    base = load_language_model(base_folder)
    load_adapter(base.decoder, folder)
    merge(base.decoder)
    own_template = ChatTemplate.from_folder(folder, base.tokenizer)
    return LanguageModel(
        decoder=base.decoder,
        tokenizer=base.tokenizer,
        template=own_template or base.template,
        manifest=read_manifest(folder),
    )
