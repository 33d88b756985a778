"""An encoder that classifies texts: its folder opened to be served."""

from dataclasses import dataclass
from pathlib import Path

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.encoder.config import EncoderConfig, from_hf
from purvey.models.encoder.loading import read_framer
from purvey.models.encoder.module import EncoderModule
from purvey.models.encoder.reading import read_encoder
from purvey.models.encoder.texts import TextReader
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import read_object
from purvey.models.skeleton import without_numbers
from purvey.models.weights import CONFIG_NAME


@dataclass(frozen=True, kw_only=True)
class TextClassifier:
    """The network with its head, and what turns texts into its tokens."""

    module: EncoderModule
    reader: TextReader


def load_text_classifier(folder: Path, manifest: ModelManifest) -> TextClassifier:
    """Load a folder of family `encoder` and task `text-classification`, float32 on the CPU.

    Raises:
        InvalidCheckpointError: Names what is missing, not implemented or does not fit.
    """
    config = from_hf(read_object(folder / CONFIG_NAME))
    if not config.has_head or config.num_labels != len(manifest.labels):
        message = (
            f"config.json: its architecture does not end in the {len(manifest.labels)} labels of "
            f"{manifest.task}."
        )
        raise InvalidCheckpointError(message, param="architectures")
    weights = read_encoder(folder, config)
    module = without_numbers(lambda: EncoderModule(config))
    module.load_state_dict(weights.tensors, assign=True)
    framer = read_framer(folder, config.vocabulary_size)
    return TextClassifier(
        module=module.eval(),
        reader=TextReader(framer=framer, max_tokens=_longest(config, manifest)),
    )


def _longest(config: EncoderConfig, manifest: ModelManifest) -> int:
    own = Fields(manifest.hyperparameters, at="hyperparameters.")
    own.refuse_unknown(("max_tokens",))
    limit = min(config.max_tokens, LIMITS.embedding_text_tokens)
    return min(limit, own.count("max_tokens", default=limit))
