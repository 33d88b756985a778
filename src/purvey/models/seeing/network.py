"""Eyes for a decoder: patches become rows of its stream (LLaVA, Liu et al. 2023).

A vision transformer turns each patch into a vector; a perceptron of two layers, as in LLaVA 1.5,
turns that into a row as the decoder's embedding makes them. The rows of a sequence's images stand
before it, one image after the other, at the first positions, and are attended to as tokens are.

Shape letters, this file only:
    B = images   C = channels   H = rows   W = columns   N = patches of each
    D = residual width of the decoder   T = packed positions   G = B * N of them, given by images
"""

import torch
from torch import Tensor, nn

from purvey.contracts.model import ImageSpec
from purvey.models.attention.base import Attention
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.networks.vit import PatchEncoder, Sizes

HELD_ID = 0
"""Stands in a sequence where an image gives the row, so that it has an id at every position."""


class Eyes(nn.Module):
    """Images to rows of a decoder's stream.

    Args:
        spec: The images.
        sizes: Shape of the encoder.
        hidden_size: Residual width of the decoder.
    """

    def __init__(self, spec: ImageSpec, sizes: Sizes, *, hidden_size: int) -> None:
        super().__init__()
        self.encoder = PatchEncoder(spec, sizes)
        into, out = nn.Linear(sizes.width, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.projector = nn.Sequential(into, nn.GELU(), out)
        for layer in (into, out):  # torch's own shrinks what is seen beside what is always there
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def num_rows(self) -> int:
        """Rows that an image becomes, one for each patch."""
        return len(self.encoder.positions)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `x_BND` of float32 images."""
        x_BND: Tensor = self.projector(self.encoder(x_BCHW))
        return x_BND


class Seeing(nn.Module):
    """A decoder and its eyes, as they are trained together.

    Args:
        eyes: Give rows as wide as the decoder's.
        decoder: The decoder; LoRA adapters, if any, are in place.
    """

    def __init__(self, eyes: Eyes, decoder: Decoder) -> None:
        super().__init__()
        self.eyes, self.decoder = eyes, decoder

    def shown(self, x_BCHW: Tensor, *, num_each: int = 1) -> "Shown":
        """Return the decoder of sequences that have these images in front, so many each."""
        return Shown(self, x_BCHW, num_each=num_each)


class Shown:
    """A decoder that sees images; used as a decoder is, for one forward pass.

    Args:
        model: What sees.
        x_BCHW: The images of each sequence, in order; float32.
        num_each: Images of one sequence.
    """

    def __init__(self, model: Seeing, x_BCHW: Tensor, *, num_each: int) -> None:
        self._eyes, self._decoder, self._x_BCHW = model.eyes, model.decoder, x_BCHW
        self._num_held = num_each * model.eyes.num_rows

    @property
    def config(self) -> DecoderConfig:
        """The decoder's shape."""
        return self._decoder.config

    @property
    def head(self) -> Tensor:
        """The matrix `head_VD` that gives logits."""
        return self._decoder.head

    def logits(self, x_TD: Tensor) -> Tensor:
        """Return `logits_TV` in float32 of final states."""
        return self._decoder.logits(x_TD)

    def hidden(self, tokens_T: Tensor, positions_T: Tensor, attend: Attention) -> Tensor:
        """Return the normalised final states `x_TD` of packed tokens.

        Args:
            tokens_T: Token ids (int64); any at the positions that images give.
            positions_T: Position of each within its sequence (int64).
            attend: Knows which rows belong together.
        """
        given_GD = self._eyes(self._x_BCHW).flatten(0, 1)
        rows_G = (positions_T < self._num_held).nonzero().squeeze(1)
        assert len(rows_G) == len(given_GD), "every sequence begins with the rows of its images"
        x_TD = self._decoder.embedded(tokens_T)
        x_TD = torch.index_copy(x_TD, 0, rows_G, given_GD.to(x_TD.dtype))
        return self._decoder.states(x_TD, positions_T, attend)
