"""Images of requests to the rows that their sequences begin with.

Shape letters, this file only:
    C = channels   H = rows of pixels   W = columns   N = patches of all images
    D = residual width
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from purvey.contracts.engine import ChatPrompt, ImageInput, Prompt
from purvey.contracts.model import ImageSpec
from purvey.engine.request import Picture
from purvey.errors import InvalidValueError
from purvey.models.images import ImageReader
from purvey.models.seeing.network import Eyes


class Sight:
    """Sees the images of a conversation, each by itself: no other changes a bit of it. Thread-safe.

    Args:
        eyes: In evaluation mode, on the CPU.
        inputs: How images are seen, all alike: one for each that a conversation may have.
    """

    def __init__(self, eyes: Eyes, inputs: Mapping[str, ImageSpec]) -> None:
        self._eyes, self.inputs = eyes, inputs
        self._spec = next(iter(inputs.values()))

    @property
    def num_parameters(self) -> int:
        """Weights."""
        return sum(parameter.numel() for parameter in self._eyes.parameters())

    @property
    def num_bytes(self) -> int:
        """Memory of the weights."""
        return sum(parameter.nbytes for parameter in self._eyes.parameters())

    @torch.inference_mode()
    def see(self, prompt: Prompt) -> Picture | None:
        """Return what the conversation's images become, in order; None where it has none.

        Raises:
            InvalidValueError: It has more than the model has learned to see, or one cannot be
                decoded.
        """
        images = self._images(prompt)
        if not images:
            return None
        reader, digest = ImageReader(), hashlib.sha256()
        parts: list[Tensor] = []
        for image in images:
            x_CHW = reader.tensor(image.data, self._spec, param="messages")
            parts.append(self._eyes(x_CHW[None])[0])
            digest.update(hashlib.sha256(image.data).digest())
        x_ND = torch.cat(parts)
        return Picture(digest=digest.digest(), num_tokens=len(x_ND), x_ND=x_ND)

    def num_held(self, prompt: Prompt) -> int:
        """Return how many positions the conversation's images take; none is decoded.

        Raises:
            InvalidValueError: It has more than the model has learned to see.
        """
        return len(self._images(prompt)) * self._eyes.num_rows

    def _images(self, prompt: Prompt) -> tuple[ImageInput, ...]:
        images = prompt.images if isinstance(prompt, ChatPrompt) else ()
        if len(images) > len(self.inputs):
            raise InvalidValueError(
                f"the model has learned to see {len(self.inputs)} image(s) in a conversation, "
                f"not {len(images)}.",
                param="messages",
            )
        return images
