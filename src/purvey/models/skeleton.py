"""A network's shape without its numbers: what is counted, compared with files, and filled in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder

M = TypeVar("M")
_FILLS = frozenset({
    Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_,
    init.normal_, init.uniform_, init.kaiming_uniform_, init.zeros_, init.ones_,
})  # fmt: skip


def skeleton(config: DecoderConfig) -> Decoder:
    """Build a decoder on the meta device, in training mode."""
    return without_numbers(lambda: Decoder(config))


def without_numbers(build: Callable[[], M]) -> M:
    """Build a module, or what holds one, on the meta device.

    Initial values are not even pretended: on this device torch does so through its compiler,
    whose import alone takes longer than everything else that loads a model.
    """
    with torch.device("meta"), _Unfilled():
        return build()


class _Unfilled(TorchFunctionMode):
    """Leaves tensors as they are where they would be filled."""

    def __torch_function__(
        self,
        func: Callable[..., Any],  # Any: a protocol of torch, for all of its functions
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (as above)
        given = dict(kwargs or {})
        if func in _FILLS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)
