"""CLIP (Radford et al. 2021): images and texts as vectors in one space, computed by `transformers`.

Shape letters, this file only:
    B = images or texts   C = channels   H = height   W = width   T = tokens   D = vector size
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from purvey.contracts.hugging_face import INPUTS_NAME
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec, ModelManifest
from purvey.contracts.sizes import check_parameters
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.encoder.building import TokenizerFiles, train_tokenizer
from purvey.models.encoder.framing import Framed, Framer
from purvey.models.encoder.starting import read_tokenizer
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import write_object
from purvey.models.folder.manifest import read_manifest, write_manifest
from purvey.models.initialised import Initialised
from purvey.models.pretrained.folders import prepared_images
from purvey.models.pretrained.library import check_folder_of_library, open_network
from purvey.models.pretrained.modules import Pretrained
from purvey.models.skeleton import without_numbers
from purvey.models.tokenizer import CONFIG_NAME as TOKENIZER_CONFIG_NAME
from purvey.models.tokenizer import TOKENIZER_NAME
from purvey.models.weights import CONFIG_NAME

ARCHITECTURE = "clip"
"""What recipes call one that is built anew."""
HYPERPARAMETERS = ("hidden_size", "num_layers", "num_heads", "mlp_size", "patch", "vector_size")
_LARGEST_SCALE = 100.0
"""Section 2.5: larger ones made training unstable."""
_HIGHEST_ENDS = 2
"""With this `eos_token_id` a text's vector is that of its highest id, as the first folders say."""
_PAD_ID = 0
_PROBE = "a"
_HEAD_SIZE = 32
_LEAST_PATCHES, _MOST_PATCHES = 7, 64
"""Of a side: as many unless told otherwise, where the side can be divided so; and at most."""


class PretrainedClip(Pretrained):
    """`CLIPModel`: a tower for images, one for texts, and how much their cosines say."""

    @property
    def log_scale(self) -> Tensor:
        """The parameter that `scale` follows."""
        parameter: Tensor = self.network.logit_scale
        return parameter

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by."""
        return self.log_scale.clamp(max=math.log(_LARGEST_SCALE)).exp()

    @property
    def vector_size(self) -> int:
        """Numbers of a vector."""
        return int(self.network.config.projection_dim)

    def images(self, x_BCHW: Tensor) -> Tensor:
        """Return `v_BD` of length 1, in float32."""
        return _unit(self.network.get_image_features(pixel_values=x_BCHW).pooler_output)

    def texts(self, texts: Sequence[Framed]) -> Tensor:
        """Return `v_BD` of length 1, in float32.

        What stands behind a text's end token is not looked at, so padding needs no mask.
        """
        longest = max(map(len, texts))
        padded = [[*text.ids, *[_PAD_ID] * (longest - len(text))] for text in texts]
        tokens_BT = torch.tensor(padded)
        return _unit(self.network.get_text_features(input_ids=tokens_BT).pooler_output)


@dataclass(frozen=True, kw_only=True)
class ClipModel:
    """A network with its tokenizer.

    Args:
        module: Float32, on the CPU.
        tokenizer: Ends every text with the token that its vector is taken from.
        manifest: How images are seen.
        initialised: What came from where.
    """

    module: PretrainedClip
    tokenizer: TokenizerFiles
    manifest: ModelManifest
    initialised: Initialised

    @property
    def spec(self) -> ImageSpec:
        """How images are seen."""
        spec = self.manifest.inputs["image"]
        assert isinstance(spec, ImageSpec), "CLIP sees images"
        return spec

    @property
    def max_tokens(self) -> int:
        """Longest text, framing included."""
        own = int(self.module.network.config.text_config.max_position_embeddings)
        return min(own, LIMITS.embedding_text_tokens)

    @property
    def vocabulary_size(self) -> int:
        """Token ids that have a row."""
        return int(self.module.network.config.text_config.vocab_size)


def open_clip(folder: Path) -> ClipModel:
    """Open a folder, in evaluation mode.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe or does not fit.
    """
    check_folder_of_library(folder)
    manifest = read_manifest(folder)
    if not isinstance(manifest.inputs.get("image"), ImageSpec):
        raise _refusal(f"{CONFIG_NAME} or {INPUTS_NAME} describes no image that is prepared here.")
    opened = open_network(folder, "CLIPModel", family=manifest.family)
    if opened.missing:
        raise _refusal(f"tensor {min(opened.missing)[:200]!r} is missing or misshapen.")
    module = PretrainedClip(opened.network)
    model = ClipModel(
        module=module.eval(),
        tokenizer=read_tokenizer(folder),
        manifest=manifest,
        initialised=Initialised.of(
            module.state_dict(), module.state_dict().keys(), unused=opened.unused
        ),
    )
    _check_tokens(model.tokenizer.framer(), opened.network.config.text_config)
    return model


def train_clip_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> TokenizerFiles:
    """Train byte-level BPE whose end token has an id that the library does not take for another.

    Deterministic.
    """
    return train_tokenizer(texts, vocabulary_size=vocabulary_size, is_end_first=True)


def build_clip(
    hyperparameters: Mapping[str, Any],
    *,
    spec: ImageSpec,
    tokenizer: TokenizerFiles,
    max_tokens: int,
) -> PretrainedClip:
    """Build two towers of one size; their weights come from torch's default generator.

    Args:
        hyperparameters: JSON values: `hidden_size`, `num_layers`, `num_heads`, `mlp_size`,
            `patch` (pixels of its side), `vector_size`.
        spec: The images, as high as wide.
        tokenizer: From `train_clip_tokenizer`.
        max_tokens: Longest text, framing included.

    Raises:
        InvalidValueError: Names the hyperparameter that is unknown or out of range, or how many
            parameters there would be.
    """
    from transformers import CLIPConfig, CLIPModel

    framer = tokenizer.framer()
    values = _config(hyperparameters, spec, framer, max_tokens)
    config = CLIPConfig(**values)
    empty = without_numbers(lambda: CLIPModel(config))
    counted = sum(parameter.numel() for parameter in empty.parameters())
    check_parameters(counted, f"{ARCHITECTURE!r} of these hyperparameters and tokens")
    return PretrainedClip(CLIPModel(config))


def save_clip(folder: Path, model: ClipModel) -> None:
    """Write the folder as the library does, and our manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    model.module.network.save_pretrained(folder)
    write_object(folder / INPUTS_NAME, prepared_images(model.spec, kind="CLIP"))
    write_object(folder / TOKENIZER_NAME, model.tokenizer.definition)
    write_object(folder / TOKENIZER_CONFIG_NAME, model.tokenizer.config)
    write_manifest(folder, model.manifest)


def _config(
    hyperparameters: Mapping[str, Any], spec: ImageSpec, framer: Framer, max_tokens: int
) -> dict[str, Any]:
    """Return the fields of a `CLIPConfig`."""
    fields = Fields(hyperparameters, error=InvalidValueError, at="model.hyperparameters.")
    fields.refuse_unknown(HYPERPARAMETERS)
    if spec.height != spec.width:
        raise InvalidValueError(
            f"{ARCHITECTURE!r} sees images as high as wide, not {spec.height} x {spec.width}.",
            param="recipe.preprocess.image",
            hint="Set preprocess.image.height and width to one number.",
        )
    width = fields.count("hidden_size", default=128, at_most=8_192)
    num_heads = fields.count("num_heads", default=max(1, width // _HEAD_SIZE))
    if width % num_heads:
        raise fields.refusal("num_heads", f"must divide hidden_size {width}")
    vector_size = fields.count("vector_size", default=width, at_most=8_192)
    tower = {
        "hidden_size": width,
        "intermediate_size": fields.count("mlp_size", default=4 * width, at_most=65_536),
        "num_hidden_layers": fields.count("num_layers", default=2, at_most=64),
        "num_attention_heads": num_heads,
        "projection_dim": vector_size,
    }
    begin, *_, end = framer.text(_PROBE).ids
    text = {
        "vocab_size": framer.vocabulary_size,
        "max_position_embeddings": max_tokens,
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": _PAD_ID,
    }
    image = {
        "image_size": spec.height,
        "num_channels": spec.channels,
        "patch_size": _patch(fields, spec.height),
    }
    return {
        "text_config": tower | text,
        "vision_config": tower | image,
        "projection_dim": vector_size,
    }


def _patch(fields: Fields, side: int) -> int:
    divisors = [size for size in range(1, side + 1) if side % size == 0]
    many = [size for size in divisors if side // size >= min(side, _LEAST_PATCHES)]
    patch = fields.count("patch", default=max(many), at_most=side)
    if patch not in divisors or side // patch > _MOST_PATCHES:
        raise fields.refusal(
            "patch",
            f"must divide the images' side, {side}, into at most {_MOST_PATCHES}",
        )
    return patch


def _check_tokens(framer: Framer, config: Any) -> None:  # noqa: ANN401 (transformers is untyped here)
    """Make sure that every text ends with the token that its vector is taken from."""
    if framer.vocabulary_size > config.vocab_size:
        raise _refusal(
            f"the tokenizer has {framer.vocabulary_size} tokens, the model only "
            f"{config.vocab_size}."
        )
    ids, end = framer.text(_PROBE).ids, config.eos_token_id
    taken = max(ids) if end == _HIGHEST_ENDS else end
    if taken not in ids or ids.index(taken) != len(ids) - 1:
        raise _refusal(f"tokenizer.json does not end a text with eos_token_id {end}.")


def _unit(v_BD: Tensor) -> Tensor:
    return normalize(v_BD.float(), dim=-1, eps=torch.finfo(torch.float32).tiny)


def _refusal(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="model")
