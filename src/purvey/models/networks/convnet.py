"""A plain convolutional network: stages of 3 x 3 convolutions, each stage at half the size.

As Simonyan and Zisserman 2015, with normalisation by groups, and the mean over all places (Lin et
al. 2014) where they have dense layers: any size of image goes in.

Shape letters, this file only:
    B = images   C = channels   H = rows   W = columns   F = features   L = outputs
"""

from collections.abc import Mapping

from torch import Tensor, nn

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


class ConvNet(nn.Module):
    """The network.

    Args:
        spec: The images.
        num_outputs: Logits of each.
        width: Channels of the first stage; each further one has twice as many.
        stages: How many; between them both sides are halved by the maximum of 2 x 2.
        depth: Convolutions of each stage.
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
        self.features = nn.Sequential(_stage(stem(spec, width), depth))
        for number in range(1, stages):
            first = convolve(width * 2 ** (number - 1), width * 2**number)
            self.features.append(nn.MaxPool2d(2, ceil_mode=True))
            self.features.append(_stage(first, depth))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * 2 ** (stages - 1), num_outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `logits_BL` of float32 images."""
        features_BF = self.features(x_BCHW).mean((2, 3))
        logits_BL: Tensor = self.head(self.dropout(features_BF))
        return logits_BL


def _stage(first: nn.Conv2d, depth: int) -> nn.Sequential:
    channels = first.out_channels
    layers: list[nn.Module] = []
    for convolution in (first, *(convolve(channels, channels) for _ in range(1, depth))):
        layers += [convolution, normalise(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _build(inputs: Mapping[str, InputSpec], num_outputs: int, fields: Fields) -> nn.Module:
    fields.refuse_unknown(HYPERPARAMETERS)
    spec = only_image(inputs, architecture=ARCHITECTURE.name)
    return ConvNet(
        spec,
        num_outputs=num_outputs,
        width=channels_asked(fields, default=32),
        stages=stages_asked(fields, spec),
        depth=depth_asked(fields, default=2),
        dropout=fields.fraction("dropout", default=0.0),
    )


ARCHITECTURE = Architecture(name="convnet", tasks=frozenset({"image-classification"}), build=_build)
