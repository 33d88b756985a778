"""A residual network of basic blocks (He et al. 2016), normalised by groups.

Shape letters, this file only:
    B = images   C = channels   H = rows   W = columns   F = features   L = outputs
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import relu

from purvey.contracts.model import ImageSpec, InputSpec
from purvey.models.folder.config_fields import Fields
from purvey.models.networks.base import Architecture
from purvey.models.networks.image_parts import (
    channels_asked,
    convolve,
    depth_asked,
    normalise,
    only_image,
    stages_asked,
    stem,
)

HYPERPARAMETERS = ("width", "stages", "depth", "dropout")


class Block(nn.Module):
    """Two convolutions beside a shortcut; section 3.3 there, a projection where shapes differ.

    The last gain begins at 0, and the block as its shortcut (Goyal et al. 2017, section 5.1).

    Args:
        in_channels: Channels of its input.
        channels: Channels of its output.
        stride: 2 halves both sides.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.first = convolve(in_channels, channels, stride=stride)
        self.first_norm = normalise(channels)
        self.second = convolve(channels, channels)
        self.second_norm = normalise(channels)
        nn.init.zeros_(self.second_norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = convolve(in_channels, channels, kernel=1, stride=stride)
            self.shortcut = nn.Sequential(projection, normalise(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's output, of `channels` channels."""
        y_BCHW = relu(self.first_norm(self.first(x_BCHW)))
        y_BCHW = self.second_norm(self.second(y_BCHW))
        return relu(y_BCHW + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """The network.

    Args:
        spec: The images.
        num_outputs: Logits of each.
        width: Channels of the first stage; each further one has twice as many.
        stages: How many; the first block of each but the first halves both sides.
        depth: Blocks of each stage.
        dropout: Probability of dropping a feature before the head, while training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        *,
        num_outputs: int,
        width: int,
        stages: int,
        depth: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(stem(spec, width), normalise(width), nn.ReLU())
        self.blocks = nn.Sequential()
        channels = width
        for stage in range(stages):
            for place in range(depth):
                stride = 2 if stage and not place else 1
                self.blocks.append(Block(channels, width * 2**stage, stride=stride))
                channels = width * 2**stage
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `logits_BL` of float32 images."""
        features_BF = self.blocks(self.stem(x_BCHW)).mean((2, 3))
        logits_BL: Tensor = self.head(self.dropout(features_BF))
        return logits_BL


def _build(inputs: Mapping[str, InputSpec], num_outputs: int, fields: Fields) -> nn.Module:
    fields.refuse_unknown(HYPERPARAMETERS)
    spec = only_image(inputs, architecture=ARCHITECTURE.name)
    return ResNet(
        spec,
        num_outputs=num_outputs,
        width=channels_asked(fields, default=32),
        stages=stages_asked(fields, spec),
        depth=depth_asked(fields, default=2),
        dropout=fields.fraction("dropout", default=0.0),
    )


ARCHITECTURE = Architecture(name="resnet", tasks=frozenset({"image-classification"}), build=_build)
