"""Vectors of images and texts in one space: what comes in, and how it is computed.

Every image and every text is computed by itself, so its vector has the same bits whatever stands
beside it.

Shape letters, this file only:
    C = channels   H = rows   W = columns   D = vector size
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from purvey.contracts.embedding import Embed, Picture
from purvey.engine.embedding.door import EmbeddingDoor
from purvey.errors import InternalError, UnsupportedValueError
from purvey.models.encoder.framing import Framed
from purvey.models.images import ImageReader
from purvey.models.pretrained.clip import ClipModel

_BYTES_PER_FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An image as the network takes it.

    Args:
        x_CHW: Float32, on the CPU.
        cost: What it counts for in a batch, in tokens: its patches.
    """

    x_CHW: Tensor  # noqa: N815 (arrays carry their axes)
    cost: int

    def __len__(self) -> int:
        return self.cost


class PicturedDoor(EmbeddingDoor):
    """As `EmbeddingDoor`, for a model that sees images beside texts.

    Args:
        model: What embeds.
    """

    def __init__(self, model: ClipModel) -> None:
        super().__init__(
            model.tokenizer.framer(),
            vocabulary_size=model.vocabulary_size,
            max_tokens=model.max_tokens,
            vector_size=model.module.vector_size,
            sizes=None,
        )
        vision = model.module.network.config.vision_config
        self._spec, self._patches = model.spec, (vision.image_size // vision.patch_size) ** 2

    def inputs(self, question: Embed) -> list[Framed | Seen]:
        """Frame the texts and decode the images to embed, in order.

        Raises:
            UnsupportedValueError: Token ids, which lack what a vector is taken from.
            InvalidValueError: An image is refused, or too much for one request.
            PurveyError: As `texts`.
        """
        named = list(zip(question.inputs, question.params, strict=True))
        for given, param in named:
            if isinstance(given, tuple):
                raise UnsupportedValueError(
                    "this model takes texts and images; token ids lack the token that a text's "
                    "vector is taken from.",
                    param=param,
                )
        said = [(given, param) for given, param in named if not isinstance(given, Picture)]
        asked = msgspec.structs.replace(
            question,
            inputs=tuple(given for given, _ in said),
            params=tuple(param for _, param in said),
        )
        framed, images = iter(self.texts(asked)), ImageReader()
        return [
            Seen(x_CHW=images.tensor(given.data, self._spec, param=param), cost=self._patches)
            if isinstance(given, Picture)
            else next(framed)
            for given, param in named
        ]


class PicturedVectors:
    """Computes a model's vectors, float32 on the CPU; one thread at a time.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: ClipModel) -> None:
        self._module = model.module
        self.num_parameters = sum(p.numel() for p in model.module.parameters())
        self.num_bytes = self.num_parameters * _BYTES_PER_FLOAT
        with torch.inference_mode():
            self.scale = float(model.module.scale)

    @torch.inference_mode()
    def vectors(self, inputs: Sequence[Framed | Seen]) -> list[Tensor]:
        """Return a vector `v_D` of length 1 for each input."""
        return [self._vector(one) for one in inputs]

    def _vector(self, one: Framed | Seen) -> Tensor:
        network = self._module
        v_BD = network.images(one.x_CHW[None]) if isinstance(one, Seen) else network.texts([one])
        if not torch.isfinite(v_BD).all():
            raise InternalError("the model's answer is not finite.")
        return v_BD[0]
