"""A long recording as overlapping windows, whose middles together are the whole.

Shape letters, this file only:
    N = samples
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PIECE_S = 80.0
"""Seconds that are decoded at one time: of 8 channels at 48 kHz, as many samples as may be."""
_MARGIN_S = 1.0
"""Read beyond both ends of a piece and dropped: resampling takes what it cannot see for silence."""

Read = Callable[[float, float], Tensor]
"""From a start, so many seconds at most, both in seconds, to `samples_N`; empty past the end."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of a recording, and which of its steps count.

    Args:
        samples: `samples_N` at the model's rate.
        first_step: The first that counts.
        end_step: The first after it that does not; None counts all to the end.
    """

    samples: Tensor
    first_step: int
    end_step: int | None


def pieces(read: Read, *, sample_rate_hz: int) -> Iterator[Tensor]:
    """Yield a recording's samples piece by piece, each decoded when it is asked for."""
    start_s = 0.0
    while True:
        before_s = min(start_s, _MARGIN_S)
        read_N = read(start_s - before_s, before_s + PIECE_S + _MARGIN_S)
        new_N = read_N[round(before_s * sample_rate_hz) :]
        num_wanted = round(PIECE_S * sample_rate_hz)
        yield new_N[:num_wanted]
        if len(new_N) <= num_wanted:
            return
        start_s += PIECE_S


def windows(
    found: Iterator[Tensor], *, step_samples: int, window_steps: int, reach_steps: int
) -> Iterator[Window]:
    """Yield windows of one length, but for the last, that overlap by twice the reach.

    A recording that fits is one window. Else the steps that count lie `reach_steps` within every
    cut, so that they hear all that they would hear in the whole.

    Args:
        found: Pieces of the recording.
        step_samples: Samples of a step.
        window_steps: Steps of a window; more than twice the reach.
        reach_steps: How far a step hears to either side.
    """
    assert window_steps > 2 * reach_steps, "a window has a middle"
    size, first_step = window_steps * step_samples, 0
    waiting_N = torch.empty(0)
    for piece_N in found:
        waiting_N = torch.cat((waiting_N, piece_N))
        while len(waiting_N) > size:
            end_step = window_steps - reach_steps
            yield Window(samples=waiting_N[:size], first_step=first_step, end_step=end_step)
            waiting_N = waiting_N[size - 2 * reach_steps * step_samples :]
            first_step = reach_steps
    yield Window(samples=waiting_N, first_step=first_step, end_step=None)
