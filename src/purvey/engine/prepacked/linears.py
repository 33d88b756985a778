"""Layers of a decoder from a shelf, or made once and put there.

Layers are asked for in one order, always the same for a decoder, and are kept in it. When they
come from the shelf the weights that are handed in are not looked at, and may have no memory.

Shape letters, this file only:
    I = input features   O = output features
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from purvey.engine.linears.activation import Gate, joined_gate
from purvey.engine.linears.base import Projection
from purvey.engine.prepacked.kinds import Kind, State
from purvey.engine.prepacked.packing import Packing
from purvey.errors import InternalError
from purvey.models.config import Activation
from purvey.models.folder.safetensors_file import read_tensors, write_tensors

logger = logging.getLogger(__name__)
_FILE_BYTES = 2**26


class _Linears:
    """A `LinearFactory` over states that come from somewhere."""

    def __init__(self, kind: Kind, packing: Packing) -> None:
        self._kind, self._packing = kind, packing

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Projection:
        """Build `x_TI @ weight_OI.T + bias_O`."""
        return self._layer(weight_OI, bias_O, is_head=False)

    def gated(self, gate: torch.nn.Linear, up: torch.nn.Linear, act: Activation) -> Gate:
        """Build `act(gate(x)) * up(x)`."""
        return joined_gate(gate, up, act, linear=self.linear)

    def head(self, weight_OI: Tensor) -> Projection:
        """Build the layer that gives logits."""
        return self._layer(weight_OI, None, is_head=True)

    def _layer(self, weight_OI: Tensor, bias_O: Tensor | None, *, is_head: bool) -> Projection:
        state = self._state(weight_OI, bias_O)
        return self._kind.layer(state, self._packing, is_head=is_head)

    def _state(self, weight_OI: Tensor, bias_O: Tensor | None) -> State:
        raise NotImplementedError


class KeptLinears(_Linears):
    """Layers from the files of an entry.

    Args:
        kind: What was kept.
        packing: Packs what is not packed in the files.
        files: Of the entry, in order.
    """

    def __init__(self, kind: Kind, packing: Packing, files: list[Path]) -> None:
        super().__init__(kind, packing)
        self._states = _states(files)

    def _state(self, weight_OI: Tensor, bias_O: Tensor | None) -> State:
        state = next(self._states, None)
        if state is None or len(next(iter(state.values()))) != len(weight_OI):
            raise InternalError("what was kept of a model's layers does not fit it")
        return state


class MakingLinears(_Linears):
    """Layers that are made, and written as they are made.

    Args:
        kind: What is kept.
        packing: Packs what is not packed.
        folder: Where files are put; None keeps nothing.
    """

    def __init__(self, kind: Kind, packing: Packing, folder: Path | None) -> None:
        super().__init__(kind, packing)
        self._folder = folder
        self._pending: dict[str, Tensor] = {}
        self._num_bytes = self._num_layers = self._num_files = 0

    def finish(self) -> bool:
        """Write what is left; tell whether all was written."""
        self._flush()
        return self._folder is not None

    def _state(self, weight_OI: Tensor, bias_O: Tensor | None) -> State:
        state = self._kind.state(weight_OI, bias_O)
        if self._folder is not None:
            self._pending |= {f"{self._num_layers:06}.{n}": t for n, t in state.items()}
            self._num_layers += 1
            self._num_bytes += sum(tensor.nbytes for tensor in state.values())
            if self._num_bytes >= _FILE_BYTES:
                self._flush()
        return state

    def _flush(self) -> None:
        pending, self._pending, self._num_bytes = self._pending, {}, 0
        if self._folder is None or not pending:
            return
        try:
            write_tensors(pending, self._folder / f"{self._num_files:06}.safetensors")
        except OSError:
            logger.warning("prepacked.not_written", exc_info=True)
            self._folder = None
        self._num_files += 1


def _states(files: list[Path]) -> Iterator[State]:
    for file in files:
        layers: dict[str, State] = {}
        for name, tensor in read_tensors(file, is_finite_required=False, is_widened=False).items():
            layer, _, part = name.partition(".")
            layers.setdefault(layer, {})[part] = tensor
        yield from (layers[layer] for layer in sorted(layers))
