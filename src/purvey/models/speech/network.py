"""A CTC encoder: log-mel frames in, log-probabilities of characters at every fourth frame out.

Two convolutions halve bands and time, each of them. Blocks of a depthwise convolution over time and
an inner layer follow, as in ConvNeXt (Liu et al. 2022), in one dimension. There is no attention:
how far a step hears is known, so that windows of a long recording that overlap by that much give
what the whole would (`CtcEncoder.reach_steps`).

Shape letters, this file only:
    B = recordings   M = mel bands   F = frames   C = channels   H = bands that are left
    G = frames at half their rate   T = steps, ceil(F / 4)   D = width   I = inner width
    V = characters and the blank   K = steps that a convolution spans   N = samples
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu

from purvey.contracts.model import AudioSpec
from purvey.models.inputs.audio import HOP_S, log_mel
from purvey.models.speech.ctc import CtcNetwork
from purvey.models.speech.vocabulary import BLANK

FRAMES_PER_STEP = 4
DEFAULT_WIDTH, DEFAULT_DEPTH, DEFAULT_KERNEL, DEFAULT_DROPOUT = 128, 6, 15, 0.1
_CHANNELS = 16
"""Of the convolutions over bands and time."""
_EXPANSION = 2
_FRONT_REACH_STEPS = 2
"""Through both convolutions, and through the window of a frame's spectrum."""
_BLANK_ODDS = 20.0
"""How much more probable the blank is at first than all characters together: most steps say none,
and a network that begins by saying much learns for long to be silent."""


class Block(nn.Module):
    """Mix over time, then over channels; the sum with the input is returned."""

    def __init__(self, *, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, _EXPANSION * width)
        self.narrow = nn.Linear(_EXPANSION * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, is_heard_BT1: Tensor) -> Tensor:
        """Return `x_BTD`; steps past a recording's end are silence to those within."""
        y_BTD = self.norm(_over_time(self.over_time, x_BTD * is_heard_BT1))
        inner_BTI = gelu(self.widen(y_BTD))
        mixed_BTD: Tensor = x_BTD + self.dropout(self.narrow(inner_BTI))
        return mixed_BTD


class CtcEncoder(CtcNetwork):
    """Log-probabilities of the blank and of each character, step by step.

    Args:
        num_mels: Bands of the input.
        num_outputs: Characters, and the blank.
        width: Channels of the blocks.
        depth: Blocks.
        kernel: Steps that a block's convolution spans, odd.
        dropout: Probability of dropping each number that a block adds, while training.
    """

    def __init__(
        self,
        *,
        num_mels: int,
        num_outputs: int,
        width: int = DEFAULT_WIDTH,
        depth: int = DEFAULT_DEPTH,
        kernel: int = DEFAULT_KERNEL,
        dropout: float = DEFAULT_DROPOUT,
    ) -> None:
        super().__init__()
        assert kernel % 2, "a convolution that keeps the time has a middle"
        self.num_outputs = num_outputs
        self.reach_steps = _FRONT_REACH_STEPS + depth * (kernel // 2)
        self.halve = nn.Conv2d(1, _CHANNELS, 3, stride=2, padding=1)
        self.gather = nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=2, padding=1)
        self.enter = nn.Linear(_CHANNELS * _bands_left(num_mels), width)
        self.blocks = nn.ModuleList(
            Block(width=width, kernel=kernel, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_outputs)
        self._blank_lead = math.log(_BLANK_ODDS * max(1, num_outputs - 1))

    def features(self, samples_N: Tensor, spec: AudioSpec) -> Tensor:
        """Return `x_MF`, log-mel frames."""
        return log_mel(samples_N, sample_rate_hz=spec.sample_rate_hz, num_mels=spec.num_mels)

    def steps_of(self, length: int) -> int:
        """Return the steps of so many frames."""
        return steps_of(length)

    def step_samples(self, spec: AudioSpec) -> int:
        """Return the samples of a step."""
        return FRAMES_PER_STEP * round(HOP_S * spec.sample_rate_hz)

    def forward(self, x: Tensor, lengths_B: Tensor) -> Tensor:
        """Return `logp_BTV` of frames `x_BMF` in float32; those past an end mean nothing."""
        x_BMF = x
        halves_B = (lengths_B + 1) // 2
        y_BCHG = gelu(self.halve(x_BMF[:, None]))
        y_BCHG = y_BCHG * _is_heard(halves_B, y_BCHG.shape[3])[:, None, None, :]
        y_BCHT = gelu(self.gather(y_BCHG))
        x_BTD = self.enter(y_BCHT.flatten(1, 2).transpose(1, 2))
        is_heard_BT1 = _is_heard((halves_B + 1) // 2, x_BTD.shape[1])[:, :, None]
        for block in self.blocks:
            x_BTD = block(x_BTD, is_heard_BT1)
        logits_BTV: Tensor = self.head(self.norm(x_BTD)).float()
        lead_V = torch.zeros(logits_BTV.shape[2], device=logits_BTV.device)
        lead_V[BLANK] = self._blank_lead
        return (logits_BTV + lead_V).log_softmax(dim=-1)


def steps_of(num_frames: int) -> int:
    """Return how many steps the encoder makes of so many frames."""
    return -(-num_frames // FRAMES_PER_STEP)


def num_parameters_of(
    *, num_mels: int, num_outputs: int, width: int, depth: int, kernel: int
) -> int:
    """Count an encoder's parameters without building it."""
    front = _CHANNELS * (9 + 1) + _CHANNELS * (9 * _CHANNELS + 1)
    enter = width * (_CHANNELS * _bands_left(num_mels) + 1)
    inner = _EXPANSION * width
    block = width * (kernel + 1) + 2 * width + inner * (width + 1) + width * (inner + 1)
    return front + enter + depth * block + 2 * width + num_outputs * (width + 1)


def _over_time(layer: nn.Conv1d, x_BTD: Tensor) -> Tensor:
    """Apply a depthwise convolution as one over a picture of one row, channels last.

    On a CPU that is three times faster than `layer` itself, which has the channels first.
    """
    x_BD1T, weight_D11K = x_BTD.transpose(1, 2)[:, :, None], layer.weight[:, :, None]
    padding = (0, weight_D11K.shape[3] // 2)
    y_BD1T = conv2d(x_BD1T, weight_D11K, layer.bias, padding=padding, groups=layer.groups)
    return y_BD1T[:, :, 0].transpose(1, 2)


def _is_heard(lengths_B: Tensor, longest: int) -> Tensor:
    """Return 1 within each length and 0 past it, in float32."""
    places = torch.arange(longest, device=lengths_B.device)
    return (places < lengths_B[:, None]).float()


def _bands_left(num_mels: int) -> int:
    """Return how many bands two convolutions of stride 2 leave."""
    return (num_mels + 3) // 4
