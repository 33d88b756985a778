"""Layers that serve before they are packed, and the thread that packs them meanwhile."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from purvey.engine.linears.base import Projection

GRACE_S = 1.0
"""How long packing waits for a first step to have the processor for itself."""


class Packing:
    """Packs layers in the background, in the order in which they were deferred.

    A layer gives the same bits before and after, so the change may fall into the middle of a step.
    """

    def __init__(self) -> None:
        self._layers: list[Deferred] = []
        self._has_answered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="packing")

    def defer(
        self, plain: Projection, pack: Callable[[], Projection], *, is_head: bool = False
    ) -> "Deferred":
        """Return a layer that computes as `plain` does until `pack` has made it faster.

        Args:
            plain: Computes until then, and is forgotten then.
            pack: Makes what computes afterwards, with the same bits.
            is_head: Whether it is the last of a step.
        """
        answered = self._has_answered if is_head else None
        self._layers.append(Deferred(plain, pack, answered=answered))
        return self._layers[-1]

    def start(self) -> None:
        """Begin when a first step is done, or after a while; end with the process."""
        if self._layers:
            self._thread.start()

    def finish(self) -> None:
        """Pack what is left now, and wait for it."""
        self._has_answered.set()
        if self._layers:
            self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        self._has_answered.wait(GRACE_S)
        for layer in self._layers:
            if not threading.main_thread().is_alive():
                return
            layer.pack()


class Deferred:
    """A layer that becomes a faster one; see `Packing.defer`."""

    def __init__(
        self,
        plain: Projection,
        pack: Callable[[], Projection],
        *,
        answered: threading.Event | None,
    ) -> None:
        self._layer, self._pack, self._answered = plain, pack, answered

    @property
    def num_bytes(self) -> int:
        """Memory of its weights."""
        return self._layer.num_bytes

    def __call__(self, x_TI: Tensor) -> Tensor:
        """Return `y_TO`."""
        y_TO = self._layer(x_TI)
        if self._answered is not None and len(x_TI):
            self._answered.set()
        return y_TO

    def pack(self) -> None:
        """Become the faster layer; called once."""
        self._layer = self._pack()
        del self._pack  # and what it holds
