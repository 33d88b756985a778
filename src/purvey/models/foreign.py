"""Causal language models that `transformers` computes and our decoder does not.

No code of a folder is ever run: the architecture must be one that the installed `transformers`
defines, weights are safetensors, and what would fetch kernels or unpack foreign formats is refused.
"""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from purvey.contracts.hugging_face import causal_architecture
from purvey.errors import InvalidCheckpointError
from purvey.models.chat import ChatTemplate
from purvey.models.folder.json_file import read_object
from purvey.models.folder.safetensors_file import read_header
from purvey.models.language import eos_ids_of
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import CONFIG_NAME, refuse_unsafe_files, weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
_FALLBACK_CONTEXT_TOKENS = 2_048
_REFUSALS = (ValueError, OSError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
"""What the library raises over a folder that does not fit; it has no error of its own."""


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A causal language model of `transformers` with what turns text into its tokens and back.

    Args:
        network: On the CPU, float32, in evaluation mode, without gradients.
        architecture: Its class.
        tokenizer: Its tokenizer.
        template: Its chat template; None for a base model.
        vocabulary_size: Token ids it has a row for.
        context_tokens: Longest prompt plus output.
    """

    network: nn.Module
    architecture: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    vocabulary_size: int
    context_tokens: int

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an output and are no part of its text."""
        return frozenset(eos_ids_of(self.tokenizer, self.template))

    @property
    def num_parameters(self) -> int:
        """Weights, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def num_bytes(self) -> int:
        """Memory of weights and buffers."""
        held = (*self.network.parameters(), *self.network.buffers())
        return sum(tensor.nbytes for tensor in held)


def load_foreign_model(folder: Path) -> ForeignModel:
    """Load a folder of an architecture that only `transformers` computes.

    Raises:
        InvalidCheckpointError: The architecture is not known to the installed `transformers`, it
            keeps no key/value cache, or the folder's files are missing, unsafe or do not fit.
    """
    refuse_unsafe_files(folder)
    values = read_object(folder / CONFIG_NAME)
    architecture = _architecture(values)
    for file in weight_files(folder):
        read_header(file)  # strictly, before a library maps it
    config = _config(folder, architecture)
    tokenizer = Tokenizer.from_folder(folder)
    network = _network(folder, architecture, config)
    vocabulary_size = network.get_input_embeddings().weight.shape[0]
    if tokenizer.vocabulary_size > vocabulary_size:
        raise _refusal(
            f"the tokenizer has {tokenizer.vocabulary_size} tokens, the model only "
            f"{vocabulary_size}."
        )
    return ForeignModel(
        network=network,
        architecture=architecture,
        tokenizer=tokenizer,
        template=ChatTemplate.from_folder(folder, tokenizer),
        vocabulary_size=vocabulary_size,
        context_tokens=_context_tokens(config),
    )


def _architecture(values: dict[str, Any]) -> str:
    architecture = causal_architecture(values)
    if architecture is None:
        raise _refusal(f"{CONFIG_NAME} names no architecture of a causal language model.")
    for key in _CODE_KEYS:
        if key in values:
            raise _refusal(f"{CONFIG_NAME} has the key {key!r}, which names code.")
    if values.get("quantization_config") is not None:
        raise _refusal(
            f"{CONFIG_NAME} has a quantization_config; weights must be plain numbers.",
        )
    return architecture


def _config(folder: Path, architecture: str) -> "PretrainedConfig":
    try:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError:
        raise InvalidCheckpointError(
            f"the architecture {architecture!r} needs the package 'transformers'.",
            param="model",
            hint="Install purvey[engine].",
        ) from None
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise _refusal(
            f"neither our decoder nor the installed transformers computes {architecture!r} as a "
            "causal language model."
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except _REFUSALS as error:
        raise _refusal(f"transformers refuses {CONFIG_NAME} ({type(error).__name__}).") from error


def _network(folder: Path, architecture: str, config: "PretrainedConfig") -> Any:  # noqa: ANN401 (transformers is untyped here)
    from transformers import AutoModelForCausalLM

    try:
        network, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="eager",  # known to every architecture, and to none by download
            output_loading_info=True,
        )
    except _REFUSALS as error:
        raise _refusal(
            f"transformers cannot load {architecture!r} from this folder ({type(error).__name__})."
        ) from error
    _require_whole(type(network).__name__, architecture, found)
    if "past_key_values" not in signature(network.forward).parameters:
        raise _refusal(f"{architecture!r} keeps no key/value cache, so it cannot be served.")
    return network.eval().requires_grad_(requires_grad=False)


def _require_whole(loaded: str, architecture: str, found: dict[str, Any]) -> None:
    if loaded != architecture:
        raise _refusal(
            f"{CONFIG_NAME} names {architecture!r}, and its model_type is of {loaded!r}."
        )
    for kind in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, found.get(kind) or ())):
            raise _refusal(f"tensor {names[0][:200]!r} is {kind.removesuffix('_keys')}.")


def _context_tokens(config: "PretrainedConfig") -> int:
    text = config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        value = getattr(text, name, None)
        if type(value) is int and value > 0:
            return value
    return _FALLBACK_CONTEXT_TOKENS


def _refusal(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="model")
