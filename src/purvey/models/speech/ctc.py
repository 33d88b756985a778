"""What a recogniser by CTC needs of its network, whoever computes it.

Shape letters, this file only:
    B = recordings   N = samples   T = steps   V = the blank, characters, and what is never written
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from purvey.contracts.model import AudioSpec


class CtcNetwork(nn.Module, ABC):
    """Features in, log-probabilities of characters out, step by step.

    Attributes:
        num_outputs: The blank, and the characters behind it that are written.
        reach_steps: How far a step hears to either side; of a network that hears a whole window, as
            far as it is taken to matter.
    """

    num_outputs: int
    reach_steps: int

    @abstractmethod
    def features(self, samples_N: Tensor, spec: AudioSpec) -> Tensor:
        """Return a recording as `forward` takes it, float32; what its last axis counts is time."""

    @abstractmethod
    def steps_of(self, length: int) -> int:
        """Return how many steps are made of features of a length."""

    @abstractmethod
    def step_samples(self, spec: AudioSpec) -> int:
        """Return how many samples lie between the beginnings of two steps."""

    @abstractmethod
    def forward(self, x: Tensor, lengths_B: Tensor) -> Tensor:
        """Return `logp_BTV` in float32; what lies past a recording's end means nothing.

        Args:
            x: Features of recordings, padded with 0 to the longest.
            lengths_B: How long those of each are, int64.
        """
