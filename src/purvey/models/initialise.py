"""Drawing fresh weights by a named scheme, from an explicit generator.

`kaiming_*`: He et al. 2015, equation 10 (gain for ReLU). `xavier_*`: Glorot and Bengio 2010,
equation 16. `normal_002`: N(0, 0.02), as GPT-2.
"""

import torch
from torch import nn

from purvey.contracts.recipe_parts.building import InitScheme

_Dense = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@torch.no_grad()
def initialise(module: nn.Module, scheme: InitScheme, *, generator: torch.Generator) -> None:
    """Draw the weights of a module's linear and convolution layers anew, in place.

    Their biases become 0. Normalisation layers and the user's own parameters stay as built.
    Embeddings have no fan-in; only `normal_002` draws them. `default` changes nothing.

    Args:
        module: A network; on the meta device there is nothing to draw.
        scheme: Name of the scheme.
        generator: Source of chance; layers draw from it in the order of `module.modules()`.
    """
    if scheme == "default" or any(p.is_meta for p in module.parameters()):
        return
    for layer in module.modules():
        if isinstance(layer, _Dense):
            _draw(layer.weight, scheme, generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.Embedding | nn.EmbeddingBag) and scheme == "normal_002":
            layer.weight.normal_(0.0, 0.02, generator=generator)


def _draw(weight: torch.Tensor, scheme: InitScheme, generator: torch.Generator) -> None:
    if scheme == "kaiming_normal":
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    elif scheme == "kaiming_uniform":
        nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    elif scheme == "xavier_normal":
        nn.init.xavier_normal_(weight, generator=generator)
    elif scheme == "xavier_uniform":
        nn.init.xavier_uniform_(weight, generator=generator)
    else:
        weight.normal_(0.0, 0.02, generator=generator)
