"""Whether something is computed on a CUDA device."""

import torch

from purvey.contracts.deployment import Device
from purvey.errors import SettingError


def has_cuda(device: Device, *, param: str) -> bool:
    """Tell whether what may be computed on a device is.

    Args:
        device: What the operator wants.
        param: The setting that says so.

    Raises:
        SettingError: It is to be, and there is none.
    """
    if device == "cpu":
        return False
    if torch.cuda.is_available():
        return True
    if device == "cuda":
        raise SettingError(
            "there is no CUDA device that this build of torch can use.",
            param=param,
            hint=f"Set {param} to cpu or auto, or install a CUDA build of torch and its driver.",
        )
    return False
