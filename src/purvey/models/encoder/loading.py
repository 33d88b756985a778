"""Open a folder that gives vectors of texts or scores of pairs: an encoder, or a decoder.

Every tensor's name and shape is compared with the configuration from the headers alone, before any
is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.decoder import Decoder
from purvey.models.encoder.config import EncoderConfig, from_hf
from purvey.models.encoder.framing import Framer
from purvey.models.encoder.modules import EmbeddingSetup, read_setup
from purvey.models.encoder.names import Shape, expected_shapes, our_name
from purvey.models.folder.json_file import read_object
from purvey.models.folder.manifest import read_manifest
from purvey.models.folder.safetensors_file import read_header, read_tensors
from purvey.models.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_NAME
from purvey.models.weights import CONFIG_NAME, load_folder, refuse_unsafe_files, weight_files


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """An encoder's shape and its tensors by our names, float32 on the CPU."""

    config: EncoderConfig
    tensors: Mapping[str, Tensor]


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
    manifest, config = read_manifest(folder), read_object(folder / CONFIG_NAME)
    is_encoder = manifest.family == "encoder"
    network = _encoder(folder) if is_encoder else load_folder(folder, has_head=False)
    if isinstance(network, EncoderWeights):
        if network.config.has_head != (manifest.task == "rerank"):
            message = f"config.json: architectures name no model for {manifest.task}."
            raise InvalidCheckpointError(message, param="architectures")
    elif manifest.task != "embedding":
        raise InvalidCheckpointError("a decoder scores no pairs here.", param="model")
    setup = read_setup(folder, manifest, config, default="mean" if is_encoder else "last")
    definition = read_object(folder / TOKENIZER_NAME, max_bytes=MAX_TOKENIZER_BYTES)
    framer = Framer(definition, prompt=setup.prompt)
    _check_vocabulary(framer, network.config.vocabulary_size)
    return EmbeddingModel(network=network, framer=framer, setup=setup, manifest=manifest)


def _encoder(folder: Path) -> EncoderWeights:
    config = from_hf(read_object(folder / CONFIG_NAME))
    files = weight_files(folder)
    found: dict[str, Shape] = {}
    for file in files:
        for theirs, header in read_header(file).items():
            ours = our_name(theirs, config)
            if ours in found:
                raise InvalidCheckpointError(f"tensor {theirs!r} occurs twice.", param="model")
            if ours is not None:
                found[ours] = header.shape
    _check_depth(found, config)  # before as many layers are listed as a file may announce
    _check_shapes(found, expected_shapes(config))
    tensors: dict[str, Tensor] = {}
    for file in files:
        for theirs, tensor in read_tensors(file).items():
            if (ours := our_name(theirs, config)) is not None:
                tensors[ours] = tensor
    return EncoderWeights(config=config, tensors=tensors)


def _check_depth(found: Mapping[str, Shape], config: EncoderConfig) -> None:
    last = config.num_layers - 1
    if f"layers.{last}.query.weight" not in found:
        raise InvalidCheckpointError(f"the weights of layer {last} are missing.", param="model")


def _check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    for name in sorted(expected.keys() - found.keys()):
        raise InvalidCheckpointError(f"the tensor for {name!r} is missing.", param="model")
    for name in sorted(found.keys() - expected.keys()):
        message = f"tensor {name[:200]!r} is not part of this architecture."
        raise InvalidCheckpointError(message, param="model")
    for name, shape in expected.items():
        if found[name] != shape:
            message = f"the tensor for {name!r} is {list(found[name])}, not {list(shape)}."
            raise InvalidCheckpointError(message, param="model")


def _check_vocabulary(framer: Framer, vocabulary_size: int) -> None:
    if framer.vocabulary_size > vocabulary_size:
        message = (
            f"the tokenizer has {framer.vocabulary_size} tokens, the model only {vocabulary_size}."
        )
        raise InvalidCheckpointError(message, param="model")
