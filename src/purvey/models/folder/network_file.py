"""Weights of a network that the manifest describes: compared with its shapes, then taken over."""

from pathlib import Path

import torch
from torch import nn

from purvey.errors import InvalidCheckpointError
from purvey.models.folder.safetensors_file import read_header, read_tensors


def load_network_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file that holds its tensors and no others.

    Raises:
        InvalidCheckpointError: The file is missing, or a tensor is, or does not fit, or holds
            what is not finite; names the tensor.
    """
    if not path.is_file():
        raise InvalidCheckpointError(f"the model folder has no {path.name}.", param="model")
    found = {name: header.shape for name, header in read_header(path).items()}
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted(found.keys() ^ expected.keys()):
        state = "missing" if name in expected else "not part of this network"
        raise InvalidCheckpointError(f"tensor {name!r} is {state}.", param="model")
    for name, shape in expected.items():
        if found[name] != shape:
            message = f"tensor {name!r} is {list(found[name])}, not {list(shape)}."
            raise InvalidCheckpointError(message, param="model")
    tensors = read_tensors(path, is_finite_required=False)
    for name, _ in network.named_parameters():  # a buffer may: masks hold -inf
        if not bool(torch.isfinite(tensors[name]).all()):
            message = f"tensor {name!r} holds values that are not finite."
            raise InvalidCheckpointError(message, param="model")
    network.load_state_dict(tensors)
