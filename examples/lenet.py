"""The classic small network for 32x32 images, as a user's own module (LeCun et al. 1998).

Shape letters: B = images, C = channels, H = rows, W = columns, F = features, L = classes.
"""

import torch
from torch import Tensor, nn

import purvey.module as pm


@pm.model(task="image-classification", input=pm.Image(height=32, width=32, channels=3))
class Net(nn.Module):
    """Two 5x5 convolutions with pooling, then three fully connected layers.

    Args:
        num_classes: Labels of the dataset; Purvey passes it.
        width: Channels of the first convolution; the second has 16.
    """

    def __init__(self, *, num_classes: int, width: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 16, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classify = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `logits_BL` for float32 images in [0, 1]."""
        features_BF = torch.flatten(self.features(x_BCHW), start_dim=1)
        logits_BL: Tensor = self.classify(features_BF)
        return logits_BL
