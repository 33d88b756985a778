"""Folders of Wav2Vec2 with a CTC head: opened to be served or trained, and written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from purvey.contracts.hugging_face import INPUTS_NAME
from purvey.contracts.model import AudioSpec, ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import read_object, write_object
from purvey.models.folder.manifest import write_manifest
from purvey.models.initialised import Initialised
from purvey.models.pretrained.folders import NORMALISED, prepared_inputs
from purvey.models.pretrained.library import (
    LibraryNetwork,
    check_folder_of_library,
    open_network,
)
from purvey.models.speech.vocabulary import Vocabulary
from purvey.models.speech.wav2vec2.network import CtcWav2Vec2
from purvey.models.speech.wav2vec2.tokens import VOCABULARY_NAME, CtcTokens, read_tokens
from purvey.models.weights import CONFIG_NAME

_CLASS = "Wav2Vec2ForCTC"
_HEAD = ("lm_head.weight", "lm_head.bias")
_NEVER_USED = frozenset({"wav2vec2.masked_spec_embed"})
_INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class StartedCtc:
    """A recogniser before its first step.

    Args:
        network: With its tokens.
        initialised: What came from where.
        kept: How many characters of a rebuilt vocabulary the base wrote too; None where the
            vocabulary is the base's.
    """

    network: CtcWav2Vec2
    initialised: Initialised
    kept: int | None


def load_ctc(folder: Path, manifest: ModelManifest) -> CtcWav2Vec2:
    """Load a folder in evaluation mode.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe or does not fit.
    """
    opened = _opened(folder, manifest)
    _require(opened, but=())
    return _wrapped(opened, manifest, _tokens(folder, opened))


def start_ctc(folder: Path, manifest: ModelManifest, said: Sequence[str]) -> StartedCtc:
    """Open a folder for training on transcripts; one that has no CTC head gets one.

    Its vocabulary is kept where it can write all that is said. Else it is made of the characters
    that are said. Of one that the base writes too, if only in the other case, the head keeps the
    row; all others are drawn from torch's default generator.

    Args:
        folder: A model's of this family, whatever it was for.
        manifest: Its own.
        said: The training transcripts.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe or does not fit.
        InvalidValueError: They have more characters than are allowed.
    """
    opened = _opened(folder, manifest)
    _require(opened, but=_HEAD)
    has_head = opened.missing.isdisjoint(_HEAD)
    tokens = _tokens(folder, opened) if has_head else None
    if tokens is not None and not Vocabulary(characters=tokens.characters).missing(said):
        return StartedCtc(
            network=_wrapped(opened, manifest, tokens),
            initialised=_initialised(opened, fresh=frozenset()),
            kept=None,
        )
    rebuilt = CtcTokens.of(Vocabulary.of(said).characters)
    kept = _replace_head(opened, tokens, rebuilt)
    return StartedCtc(
        network=_wrapped(opened, manifest, rebuilt),
        initialised=_initialised(opened, fresh=frozenset(_HEAD)),
        kept=kept,
    )


def save_ctc(folder: Path, network: CtcWav2Vec2, manifest: ModelManifest) -> None:
    """Write the folder as the library does, with its tokens, and our manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    network.network.save_pretrained(folder)
    network.tokens.save(folder)
    write_object(folder / INPUTS_NAME, prepared_inputs(manifest.inputs[_INPUT], manifest))
    write_manifest(folder, manifest)


def _opened(folder: Path, manifest: ModelManifest) -> LibraryNetwork:
    check_folder_of_library(folder)
    if not isinstance(manifest.inputs.get(_INPUT), AudioSpec):
        raise _refusal(f"{CONFIG_NAME} or {INPUTS_NAME} describes no input that is prepared here.")
    fields = Fields(read_object(folder / CONFIG_NAME))
    for name in ("add_adapter", "adapter_attn_dim"):
        if fields.values.get(name):
            raise fields.refusal(name, "is not implemented: layers behind the encoder")
    return open_network(folder, _CLASS, family=manifest.family)


def _require(opened: LibraryNetwork, *, but: Sequence[str]) -> None:
    for name in sorted(opened.missing - _NEVER_USED):
        if name not in but:
            raise _refusal(f"tensor {name[:200]!r} is missing or misshapen.")


def _tokens(folder: Path, opened: LibraryNetwork) -> CtcTokens:
    tokens = read_tokens(folder, num_outputs=opened.network.lm_head.out_features)
    if opened.network.config.pad_token_id != tokens.blank:
        raise _refusal(
            f"{CONFIG_NAME} has the blank at pad_token_id {opened.network.config.pad_token_id}, "
            f"and {VOCABULARY_NAME} at {tokens.blank}."
        )
    return tokens


def _wrapped(opened: LibraryNetwork, manifest: ModelManifest, tokens: CtcTokens) -> CtcWav2Vec2:
    own = Fields(manifest.hyperparameters, at="hyperparameters.")
    own.refuse_unknown((NORMALISED,))
    spec = manifest.inputs[_INPUT]
    assert isinstance(spec, AudioSpec), "a recogniser hears"
    return CtcWav2Vec2(
        opened.network,
        tokens=tokens,
        is_normalised=own.flag(NORMALISED, default=True),
        sample_rate_hz=spec.sample_rate_hz,
    ).eval()


@torch.no_grad()
def _replace_head(opened: LibraryNetwork, old: CtcTokens | None, new: CtcTokens) -> int:
    """Give the network a head of new tokens; return how many rows of characters it kept."""
    network = opened.network
    head = nn.Linear(network.lm_head.in_features, new.num_outputs)
    head.weight.normal_(0.0, network.config.initializer_range)
    head.bias.zero_()
    rows = {} if old is None else {c: number for number, c in old.written.items()}
    found = {number: _row(character, rows) for number, character in new.written.items()}
    if old is not None:
        found[new.blank] = old.blank
    for number, row in found.items():
        if row is not None:
            head.weight[number] = network.lm_head.weight[row]
            head.bias[number] = network.lm_head.bias[row]
    network.lm_head = head
    network.config.vocab_size, network.config.pad_token_id = new.num_outputs, new.blank
    return sum(found[number] is not None for number in new.written)


def _row(character: str, rows: dict[str, int]) -> int | None:
    """Return the row that writes a character, or else the same one in the other case."""
    spellings = (character, character.lower(), character.upper())
    return next((rows[spelling] for spelling in spellings if spelling in rows), None)


def _initialised(opened: LibraryNetwork, *, fresh: frozenset[str]) -> Initialised:
    names = [f"network.{name}" for name in opened.network.state_dict()]
    missing = {f"network.{name}" for name in opened.missing | fresh}
    return Initialised.of(names, set(names) - missing, unused=opened.unused)


def _refusal(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="model")
