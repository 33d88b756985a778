"""The library's networks behind the shape that classifiers have: inputs in, logits out.

Shape letters, this file only:
    B = inputs   C = channels   H = height   W = width   T = samples   L = labels
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_LEAST_VARIANCE = 1e-7


class Pretrained(nn.Module):
    """What wraps a network of `transformers`.

    Args:
        network: The library's.
    """

    def __init__(self, network: Any) -> None:  # noqa: ANN401 (transformers is untyped here)
        super().__init__()
        self.network = network


class PretrainedViT(Pretrained):
    """`ViTForImageClassification` (Dosovitskiy et al. 2021), or `CLIPForImageClassification`."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `logits_BL`."""
        logits_BL: Tensor = self.network(pixel_values=x_BCHW).logits
        return logits_BL


class PretrainedWav2Vec2(Pretrained):
    """`Wav2Vec2ForSequenceClassification` (Baevski et al. 2020).

    Each recording is computed by itself and as long as it is, so what it is taken for depends
    neither on its company nor on its padding. What the library masks while training by chance of
    its own is left out.

    Args:
        network: The library's.
        is_normalised: Whether samples get mean 0 and variance 1 before.
    """

    def __init__(self, network: Any, *, is_normalised: bool) -> None:  # noqa: ANN401 (as above)
        super().__init__(network)
        network.config.apply_spec_augment = False
        self._is_normalised = is_normalised
        self._least_samples = heard_at_once(network.config)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Return `logits_BL` of samples that end in silence of exact zeros, or in none."""
        rows = [self._prepared(x_T) for x_T in x_BT]
        return torch.cat([self.network(input_values=x_T[None]).logits for x_T in rows])

    def _prepared(self, x_T: Tensor) -> Tensor:
        heard = x_T.nonzero()
        x_T = x_T[: int(heard[-1, 0]) + 1] if len(heard) else x_T[:0]
        x_T = pad(x_T, (0, max(0, self._least_samples - len(x_T))))
        return standardised(x_T) if self._is_normalised else x_T


def standardised(x_T: Tensor) -> Tensor:
    """Return samples with mean 0 and variance 1; silence stays 0."""
    variance, mean = torch.var_mean(x_T, correction=0)
    return (x_T - mean) / (variance + _LEAST_VARIANCE).sqrt()


def heard_at_once(config: Any) -> int:  # noqa: ANN401 (as above)
    """Return how many samples one step of the convolutions hears."""
    samples = 1
    pairs = zip(config.conv_kernel, config.conv_stride, strict=True)
    for kernel, stride in reversed(list(pairs)):
        samples = (samples - 1) * stride + kernel
    return samples
