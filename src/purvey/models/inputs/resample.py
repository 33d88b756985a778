"""Another sampling rate, by a windowed sinc evaluated at each phase that occurs (polyphase).

Up to four fifths of the lower half rate everything passes; what lies above it is damped by 80 dB.

Shape letters, this file only:
    T = samples   K = taps of the filter   U = phases, the new samples of one common period
"""

import math
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

_MOST_PHASES = 10_000
"""Of a ratio of rates; one that has more is off by less than a ten-thousandth part."""
_ZEROS = 24
"""Zero crossings of the sinc on each side."""
_ROLLOFF = 0.9
"""Where the filter is half down, as a share of the lower half rate."""
_KAISER_BETA = 8.0


def resampled(samples_T: Tensor, *, from_hz: int, to_hz: int) -> Tensor:
    """Return the samples at another rate: `ceil(T * to_hz / from_hz)` of them, float32.

    Outside the recording there is silence.
    """
    finest = _MOST_PHASES // max(1, to_hz // from_hz)
    ratio = Fraction(to_hz, from_hz).limit_denominator(finest)
    up, down = ratio.numerator, ratio.denominator
    if up == down or not len(samples_T):
        return samples_T
    taps_UK = _taps(up, down)
    half = taps_UK.shape[1] // 2
    num_new = math.ceil(len(samples_T) * ratio)
    padded_1T = pad(samples_T, (half - 1, half))[None]
    new_T = samples_T.new_empty(num_new)
    for phase in range(min(up, num_new)):
        count = -(-(num_new - phase) // up)
        first = phase * down // up
        last = first + (count - 1) * down + 2 * half  # the last window begins at a sample
        found_1T = conv1d(padded_1T[:, first:last], taps_UK[phase][None, None], stride=down)
        new_T[phase::up] = found_1T[0]
    return new_T


@lru_cache(maxsize=16)
def _taps(up: int, down: int) -> Tensor:
    """Return the filter at each phase; each sums to 1, so that a constant stays what it is."""
    cutoff = min(1.0, up / down) * _ROLLOFF
    half = math.ceil(_ZEROS / cutoff)
    fractions_U = (torch.arange(up) * down % up).double() / up
    places_K = torch.arange(2 * half, dtype=torch.float64) - (half - 1)
    distance_UK = places_K[None] - fractions_U[:, None]
    inside_UK = (1 - (distance_UK / half).square()).clamp_min(0)
    window_UK = torch.special.i0(_KAISER_BETA * inside_UK.sqrt())
    taps_UK: Tensor = torch.sinc(cutoff * distance_UK) * window_UK
    return (taps_UK / taps_UK.sum(dim=1, keepdim=True)).float()
