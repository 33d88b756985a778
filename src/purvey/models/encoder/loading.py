"""Open a folder that gives vectors of texts or scores of pairs: an encoder, or a decoder."""

from dataclasses import dataclass
from pathlib import Path

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.decoder import Decoder
from purvey.models.encoder.config import EncoderConfig, from_hf
from purvey.models.encoder.framing import Framer
from purvey.models.encoder.modules import EmbeddingSetup, read_setup
from purvey.models.encoder.reading import EncoderWeights, read_encoder
from purvey.models.folder.json_file import read_object
from purvey.models.folder.manifest import read_manifest
from purvey.models.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_NAME
from purvey.models.weights import CONFIG_NAME, load_folder, refuse_unsafe_files


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel:
    """What turns texts into vectors, or pairs into scores.

    Args:
        network: An encoder's weights, or a decoder in evaluation mode.
        framer: From text to tokens.
        setup: From states to a vector.
        manifest: Its task is `embedding` or `rerank`.
    """

    network: EncoderWeights | Decoder
    framer: Framer
    setup: EmbeddingSetup
    manifest: ModelManifest

    @property
    def max_tokens(self) -> int:
        """Longest text, or pair, in tokens, framing included."""
        config = self.network.config
        own = config.max_tokens if isinstance(config, EncoderConfig) else config.context_tokens
        return min(own, self.setup.max_tokens or own, LIMITS.embedding_text_tokens)


def load_embedding_model(folder: Path) -> EmbeddingModel:
    """Load a folder whose task is `embedding` or `rerank`.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe, not implemented or does not fit.
    """
    refuse_unsafe_files(folder)
    manifest, values = read_manifest(folder), read_object(folder / CONFIG_NAME)
    is_encoder = manifest.family == "encoder"
    network: EncoderWeights | Decoder
    if is_encoder:
        config = from_hf(values)
        _check_head(config, manifest)
        network = read_encoder(folder, config)
    elif manifest.task != "embedding":
        raise InvalidCheckpointError("a decoder scores no pairs here.", param="model")
    else:
        network = load_folder(folder, has_head=False)
    setup = read_setup(folder, manifest, values, default="mean" if is_encoder else "last")
    return EmbeddingModel(
        network=network,
        framer=read_framer(folder, network.config.vocabulary_size, prompt=setup.prompt),
        setup=setup,
        manifest=manifest,
    )


def read_framer(folder: Path, vocabulary_size: int, *, prompt: str = "") -> Framer:
    """Read what turns a folder's texts into tokens.

    Args:
        folder: Where `tokenizer.json` lies.
        vocabulary_size: Tokens that the model has a row for.
        prompt: Written before every single text.

    Raises:
        InvalidCheckpointError: The file is missing or not understood, or has more tokens.
    """
    definition = read_object(folder / TOKENIZER_NAME, max_bytes=MAX_TOKENIZER_BYTES)
    framer = Framer(definition, prompt=prompt)
    if framer.vocabulary_size > vocabulary_size:
        message = (
            f"the tokenizer has {framer.vocabulary_size} tokens, the model only {vocabulary_size}."
        )
        raise InvalidCheckpointError(message, param="model")
    return framer


def _check_head(config: EncoderConfig, manifest: ModelManifest) -> None:
    is_ranker = manifest.task == "rerank"
    if config.has_head != is_ranker:
        message = f"config.json: architectures name no model for {manifest.task}."
        raise InvalidCheckpointError(message, param="architectures")
    if is_ranker and config.num_labels != 1:
        message = f"config.json: id2label has {config.num_labels} labels; one is scored."
        raise InvalidCheckpointError(message, param="id2label")
