"""Images of requests to the rows that their sequences begin with.

Shape letters, this file only:
    C = channels   H = rows of pixels   W = columns   N = patches   D = residual width
"""

import hashlib

import torch

from purvey.contracts.engine import ChatPrompt, Prompt
from purvey.contracts.model import ImageSpec
from purvey.engine.request import Picture
from purvey.errors import InvalidValueError
from purvey.models.images import ImageReader
from purvey.models.seeing.network import Eyes


class Sight:
    """Sees the image of a conversation, by itself: no other changes a bit of it. Thread-safe.

    Args:
        eyes: In evaluation mode, on the CPU.
        spec: How images are seen.
    """

    def __init__(self, eyes: Eyes, spec: ImageSpec) -> None:
        self._eyes, self.spec = eyes, spec

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
        """Return what the conversation's image becomes; None where it has none.

        Raises:
            InvalidValueError: It has more than one, or the image cannot be decoded.
        """
        if not isinstance(prompt, ChatPrompt) or not prompt.images:
            return None
        if len(prompt.images) > 1:
            raise InvalidValueError("the model sees one image at a time.", param="messages")
        data = prompt.images[0].data
        x_CHW = ImageReader().tensor(data, self.spec, param="messages")
        x_ND = self._eyes(x_CHW[None])[0]
        return Picture(digest=hashlib.sha256(data).digest(), num_tokens=len(x_ND), x_ND=x_ND)
