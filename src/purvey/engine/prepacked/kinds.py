"""What is kept of a layer, by precision, and how a layer comes back from it.

Kept is what took work and can be mapped: 8-bit integers with their scales. 4 bits are not kept yet.
Wider precisions are no more than the model's own file in another dtype, and the layout of their
kernels cannot be mapped: they are made anew.

Shape letters, this file only:
    I = input features   O = output features
"""

from functools import partial
from typing import Protocol

from torch import Tensor

from purvey.engine.linears.base import Projection
from purvey.engine.linears.choice import Chosen
from purvey.engine.linears.int8 import DynamicInt8, dynamic_levels, int8_layer, quantise_outputs
from purvey.engine.prepacked.packing import Packing
from purvey.engine.prepacked.shifted_int8 import ShiftedInt8, is_exact

State = dict[str, Tensor]


class Kind(Protocol):
    """Layers of one precision."""

    @property
    def version(self) -> str:
        """What the kept bytes depend on beside the weights; another one is another entry."""
        ...

    def state(self, weight_OI: Tensor, bias_O: Tensor | None) -> State:
        """Do the work that is kept."""
        ...

    def layer(self, state: State, packing: Packing, *, is_head: bool) -> Projection:
        """Return what serves; it may hold the state's tensors, which may be a mapped file's."""
        ...


class Int8Kind:
    """Integers and scales; the operator's own packing is put off until a first answer is out."""

    version = "int8.1"

    def state(self, weight_OI: Tensor, bias_O: Tensor | None) -> State:
        """Quantise."""
        q_OI, scale_O = quantise_outputs(weight_OI)
        bias = {} if bias_O is None else {"bias": bias_O.detach().float()}
        return {"q": q_OI, "scale": scale_O} | bias

    def layer(self, state: State, packing: Packing, *, is_head: bool) -> Projection:
        """Compute by the kernel that is packed quickly until the faster one is packed."""
        q_OI, scale_O, bias_O = state["q"], state["scale"], state.get("bias")
        levels = dynamic_levels()
        if levels is None or not is_exact():
            return int8_layer(q_OI, scale_O, bias_O)
        return packing.defer(
            ShiftedInt8(q_OI, scale_O, bias_O, levels=levels),
            partial(DynamicInt8, q_OI, scale_O, bias_O, levels=levels),
            is_head=is_head,
        )


def kind_of(chosen: Chosen) -> Kind | None:
    """Return what is kept of a precision; None where nothing is."""
    return Int8Kind() if chosen == "int8" else None
