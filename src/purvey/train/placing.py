"""Where a network learns: on the processor, or on a CUDA device.

A device is where the weights are, and with them their gradients, the optimizer's memory and the
best and mean weights. Rows stay in the processor's memory, and a batch crosses over when it is
computed. A checkpoint is the same wherever it was written, and is resumed on either.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

Kind = Literal["cpu", "cuda"]


def kind_of(tensor: Tensor) -> Kind:
    """Return by what a tensor is computed with; what has no numbers is followed for a processor."""
    return "cuda" if tensor.is_cuda else "cpu"


def feed_across(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device, for callers that know nothing of it.

    Its inputs cross over to the device, and what it returns crosses back; gradients follow.
    """
    module.to(device)
    module.register_forward_pre_hook(
        lambda _, args, kwargs: (_on(device, args), _on(device, kwargs)), with_kwargs=True
    )
    module.register_forward_hook(lambda _, __, out: _on(torch.device("cpu"), out))


def _on(device: torch.device, values: Any) -> Any:  # noqa: ANN401 (whatever a module takes)
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), values)
