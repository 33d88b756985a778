"""An encoder to be trained that starts from a folder's weights, whatever stood at its end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ModelManifest
from purvey.models.encoder.building import TokenizerFiles
from purvey.models.encoder.config import from_hf
from purvey.models.encoder.module import EncoderModule
from purvey.models.encoder.modules import EmbeddingSetup, read_setup
from purvey.models.encoder.reading import read_encoder
from purvey.models.folder.json_file import read_object, read_optional_object
from purvey.models.folder.manifest import read_manifest
from purvey.models.initialised import Initialised
from purvey.models.tokenizer import CONFIG_NAME as TOKENIZER_CONFIG_NAME
from purvey.models.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_NAME
from purvey.models.weights import CONFIG_NAME, refuse_unsafe_files

_OUTPUT = "head.out."


@dataclass(frozen=True, kw_only=True)
class StartedEncoder:
    """An encoder before its first step.

    Args:
        module: The network.
        tokenizer: What turns texts into its tokens.
        setup: From states to a vector.
        initialised: What came from where.
    """

    module: EncoderModule
    tokenizer: TokenizerFiles
    setup: EmbeddingSetup
    initialised: Initialised

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, framing included."""
        own = self.module.config.max_tokens
        return min(own, self.setup.max_tokens or own, LIMITS.embedding_text_tokens)


def start_encoder(folder: Path, *, labels: Sequence[str] | None) -> StartedEncoder:
    """Open an encoder's folder for training.

    Args:
        folder: Of any task of the encoder's families.
        labels: Of the head that it gets; the base's own is kept where it is of these very labels,
            and its inner layer wherever there is one. None leaves it without a head.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe, not implemented or does not fit.
    """
    refuse_unsafe_files(folder)
    manifest, values = read_manifest(folder), read_object(folder / CONFIG_NAME)
    has_head = labels is not None
    config = replace(from_hf(values), has_head=has_head, num_labels=len(labels or ("",)))
    weights = read_encoder(folder, config, is_new_head=has_head)
    tensors, unused = dict(weights.tensors), list(weights.unused)
    if has_head and tuple(labels or ()) != manifest.labels:
        unused += [name for name in tensors if name.startswith(_OUTPUT)]
        tensors = {n: tensor for n, tensor in tensors.items() if not n.startswith(_OUTPUT)}
    module = EncoderModule(config)
    module.load_state_dict(tensors, strict=False)
    return StartedEncoder(
        module=module,
        tokenizer=read_tokenizer(folder),
        setup=read_setup(folder, _said_of_vectors(manifest), values, default="mean"),
        initialised=Initialised.of(module.state_dict(), tensors, unused=unused),
    )


def _said_of_vectors(manifest: ModelManifest) -> ModelManifest:
    """Return a manifest whose hyperparameters are about vectors; those of a classifier are not."""
    if manifest.task == "embedding":
        return manifest
    return ModelManifest(family="encoder", task="embedding")


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read a folder's tokenizer as it was written.

    Raises:
        InvalidCheckpointError: `tokenizer.json` is missing or no JSON object.
    """
    return TokenizerFiles(
        definition=read_object(folder / TOKENIZER_NAME, max_bytes=MAX_TOKENIZER_BYTES),
        config=read_optional_object(folder / TOKENIZER_CONFIG_NAME),
    )
