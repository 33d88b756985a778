"""A language model ready to answer: decoder, tokenizer, chat template, in and out of a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from purvey.contracts.model import ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.chat import ChatTemplate
from purvey.models.decoder import Decoder
from purvey.models.folder.json_file import write_object
from purvey.models.folder.manifest import HUGGING_FACE, read_manifest, write_manifest
from purvey.models.lora import save_adapter
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import load_folder, save_folder

if TYPE_CHECKING:
    from purvey.contracts.recipe_parts.adapting import LoraConfig  # engines load without recipes

GENERATION_CONFIG_NAME = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A decoder with what turns text into its tokens and back.

    Args:
        decoder: On the CPU, in evaluation mode; float32, or in its file's dtypes to be served.
        tokenizer: Its tokenizer.
        template: Its chat template; None for a base model.
        manifest: What the folder says of itself.
    """

    decoder: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate | None
    manifest: ModelManifest = HUGGING_FACE

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus output, in tokens."""
        return self.decoder.config.context_tokens

    @property
    def vocabulary_size(self) -> int:
        """Token ids it has a row for."""
        return self.decoder.config.vocabulary_size

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an output: the model's own, and the one that ends a chat's answer."""
        return eos_ids_of(self.tokenizer, self.template)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an output and are no part of its text."""
        return frozenset(self.eos_ids)

    @property
    def num_parameters(self) -> int:
        """Weights, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.decoder.parameters())


def load_language_model(
    folder: Path, *, is_widened: bool = True, has_matrices: bool = True
) -> LanguageModel:
    """Load a whole language model (not an adapter) from its folder.

    Args:
        folder: The model's folder.
        is_widened: As in `load_folder`.
        has_matrices: As in `load_folder`.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe or does not fit.
    """
    decoder = load_folder(folder, is_widened=is_widened, has_matrices=has_matrices)
    tokenizer = Tokenizer.from_folder(folder)
    check_vocabulary(decoder, tokenizer)
    return LanguageModel(
        decoder=decoder,
        tokenizer=tokenizer,
        template=ChatTemplate.from_folder(folder, tokenizer),
        manifest=read_manifest(folder),
    )


def save_language_model(folder: Path, model: LanguageModel) -> None:
    """Write a folder that `transformers` and `load_language_model` read alike."""
    tokenizer = model.tokenizer
    config = model.decoder.config.with_tokens(bos_id=tokenizer.bos_id, eos_ids=model.eos_ids)
    save_folder(model.decoder, folder, config=config)
    tokenizer.save(folder)
    if model.template is not None:
        model.template.save(folder)
    generation = {"bos_token_id": config.bos_id, "eos_token_id": list(config.eos_ids) or None}
    write_object(folder / GENERATION_CONFIG_NAME, generation)
    write_manifest(folder, model.manifest)


def save_adapter_model(
    folder: Path, model: LanguageModel, config: "LoraConfig", *, base_name: str
) -> None:
    """Write only a model's adapters, its chat template and its manifest; needs its base to load.

    Args:
        folder: Made where missing.
        model: Its decoder is adapted (`lora.inject`); its manifest names the base's digest.
        config: As given to `lora.inject`.
        base_name: The base's name, for people and for `peft`.
    """
    assert model.manifest.base is not None, "an adapter's manifest names the digest of its base"
    save_adapter(model.decoder, folder, config, base_name=base_name)
    if model.template is not None:
        model.template.save(folder)
    write_manifest(folder, model.manifest)


def eos_ids_of(tokenizer: Tokenizer, template: ChatTemplate | None) -> tuple[int, ...]:
    """Return the tokens that end an output: the tokenizer's, and the one that ends a turn."""
    turn_end = None if template is None else template.turn_end(tokenizer)
    own = tokenizer.eos_ids
    return own if turn_end is None or turn_end in own else (*own, turn_end)


def check_vocabulary(decoder: Decoder, tokenizer: Tokenizer) -> None:
    """Verify that every token of the tokenizer has a row in the embedding.

    Raises:
        InvalidCheckpointError: The tokenizer is larger than the model's vocabulary.
    """
    if tokenizer.vocabulary_size > decoder.config.vocabulary_size:
        message = (
            f"the tokenizer has {tokenizer.vocabulary_size} tokens, "
            f"the model only {decoder.config.vocabulary_size}."
        )
        raise InvalidCheckpointError(message, param="model")
