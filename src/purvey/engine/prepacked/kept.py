"""One model's prepacked weights: found on the shelf, or made and put there."""

import threading
from collections.abc import Callable
from pathlib import Path

from purvey.engine.frozen import FrozenDecoder
from purvey.engine.linears.base import LinearFactory
from purvey.engine.prepacked.kinds import Kind
from purvey.engine.prepacked.linears import KeptLinears, MakingLinears
from purvey.engine.prepacked.packing import Packing
from purvey.engine.prepacked.shelf import Shelf, key_of

Make = Callable[[LinearFactory], FrozenDecoder]


class KeptWeights:
    """The layers of one model in one precision.

    Args:
        kind: What is kept of a layer.
        digest: Of the model's folder.
        shelf: Where entries are; None keeps nothing.
        num_bytes: About how much an entry takes.
    """

    def __init__(self, kind: Kind, *, digest: str, shelf: Shelf | None, num_bytes: int) -> None:
        self._kind, self._shelf, self._num_bytes = kind, shelf, num_bytes
        self._key = key_of(digest, kind.version)
        self._files = None if shelf is None else shelf.find(self._key)

    @property
    def is_there(self) -> bool:
        """Whether the layers are on the shelf, so that the model's own matrices are not needed."""
        return self._files is not None

    def frozen(self, make: Make) -> FrozenDecoder:
        """Make a decoder of layers that are kept, or will be; packing goes on behind it."""
        packing = Packing()
        if self._files is not None:
            decoder = make(KeptLinears(self._kind, packing, self._files))
        else:
            decoder = self._made(make, packing)
        packing.start()
        return decoder

    def discard(self) -> None:
        """Throw away what was found: it is of no use."""
        self._files = None
        if self._shelf is not None:
            self._shelf.discard(self._key)

    def _made(self, make: Make, packing: Packing) -> FrozenDecoder:
        aside = None
        if self._shelf is not None:
            aside = self._shelf.begin(self._key, num_bytes=self._num_bytes)
        linears, is_written = MakingLinears(self._kind, packing, aside), False
        try:
            decoder = make(linears)
            is_written = linears.finish()
        finally:
            if self._shelf is not None and aside is not None:
                self._put(self._shelf, aside, is_written=is_written)
        return decoder

    def _put(self, shelf: Shelf, aside: Path, *, is_written: bool) -> None:
        if not is_written:
            shelf.abandon(aside)
        elif shelf.finish(aside, self._key):
            threading.Thread(target=shelf.seal, args=(self._key,), name="sealing").start()
