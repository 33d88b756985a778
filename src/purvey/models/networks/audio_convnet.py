"""A convolutional network over log-mel features, which keeps pitch and forgets the moment.

Stages of 3 x 3 convolutions, each at half the size of the one before. What they find is pooled over
time, by mean and by maximum, and told apart by pitch: a tone an octave higher is another sound.

Shape letters, this file only:
    B = recordings   M = mel bands   F = frames   C = channels   P = pitches, the bands at the end
    E = features of a recording   L = outputs
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from purvey.contracts.model import AudioSpec, InputSpec
from purvey.errors import InvalidValueError
from purvey.models.folder.config_fields import Fields
from purvey.models.networks.base import Architecture
from purvey.models.networks.image_parts import (
    channels_asked,
    convolve,
    depth_asked,
    normalise,
)

HYPERPARAMETERS = ("width", "stages", "depth", "dropout")
_USUAL_STAGES, _MOST_STAGES = 4, 8


class AudioConvNet(nn.Module):
    """The network.

    Args:
        num_mels: M.
        num_outputs: L.
        width: Channels of the first stage; each further one has twice as many.
        stages: How many; between them bands and frames are halved by the maximum of 2 x 2.
        depth: Convolutions of each stage.
        dropout: Probability in [0, 1) of dropping a feature before the head while training.
    """

    def __init__(
        self,
        num_mels: int,
        *,
        num_outputs: int,
        width: int,
        stages: int,
        depth: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        given, pitches = 1, num_mels
        for number in range(stages):
            if number:
                self.stages.append(nn.MaxPool2d(2, ceil_mode=True))
                pitches = -(-pitches // 2)
            channels = width * 2**number
            self.stages.append(_stage(given, channels, depth=depth))
            given = channels
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * given * pitches, num_outputs)

    def forward(self, x_BMF: Tensor) -> Tensor:
        """Return `logits_BL` of float32 log-mel features, of any number of frames."""
        x_BCPF = self.stages(x_BMF[:, None])
        features_BE = torch.cat([x_BCPF.mean(dim=3), x_BCPF.amax(dim=3)], dim=1).flatten(1)
        logits_BL: Tensor = self.head(self.dropout(features_BE))
        return logits_BL


def _stage(given: int, channels: int, *, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [convolve(channels if number else given, channels), normalise(channels)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _build(inputs: Mapping[str, InputSpec], num_outputs: int, fields: Fields) -> nn.Module:
    fields.refuse_unknown(HYPERPARAMETERS)
    specs = tuple(inputs.values())
    if len(specs) != 1 or not isinstance(specs[0], AudioSpec) or not specs[0].num_mels:
        raise InvalidValueError(
            f"the architecture {ARCHITECTURE.name!r} takes the mel bands of one recording and "
            "nothing else.",
            param="model.architecture",
            hint="For several inputs use the task 'classification'.",
        )
    return AudioConvNet(
        specs[0].num_mels,
        num_outputs=num_outputs,
        width=channels_asked(fields, default=16),
        stages=fields.count("stages", default=_USUAL_STAGES, at_most=_MOST_STAGES),
        depth=depth_asked(fields, default=1),
        dropout=fields.fraction("dropout", default=0.1),
    )


ARCHITECTURE = Architecture(
    name="audio-convnet", tasks=frozenset({"audio-classification"}), build=_build
)
