"""Random changes of spectrograms (SpecAugment, Park et al. 2019) and a shift in time.

Shape letters, this file only:
    M = mel bands   F = frames   T = samples
"""

import torch
from torch import Tensor

from purvey.contracts.recipe_parts.inputs import AudioAugment


def augment_audio(x: Tensor, config: AudioAugment) -> Tensor:
    """Return a changed copy; chance comes from torch's default generator.

    What is blanked becomes 0, the mean of a normalised recording; what a shift moves out comes
    in again at the other end.

    Args:
        x: Features `x_MF`, or samples `x_T`, which have no bands to be blanked.
        config: Which changes.
    """
    length = x.shape[-1]
    shift = int(config.shift_fraction * length)
    # Moved also by 0: what is returned is always a copy, and chance is drawn alike.
    changed = x.roll(_below(2 * shift + 1) - shift, dims=-1)
    for _ in range(config.frequency_masks if x.ndim > 1 else 0):
        first, last = _span(len(x), config.frequency_mask_bands)
        changed[first:last] = 0.0
    for _ in range(config.time_masks):
        first, last = _span(length, int(config.time_mask_fraction * length))
        changed[..., first:last] = 0.0
    return changed


def _span(size: int, widest: int) -> tuple[int, int]:
    """Draw a width from 0 to `widest`, then a place for it."""
    width = _below(min(widest, size) + 1)
    first = _below(size - width + 1)
    return first, first + width


def _below(bound: int) -> int:
    return int(torch.randint(bound, ()))
