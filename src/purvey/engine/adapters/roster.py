"""Which adapters are loaded, and how many compute with each. Torch-free; safe in any thread.

An adapter that is dropped goes on for those who hold it; the last one out frees its memory.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from purvey.errors import AdapterNotLoadedError


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Where an adapter's numbers lie for the layers that share one input (`bank.py`).

    Args:
        targets: Which of them it adapts, by their place among these layers.
        first_a: First unit of A.
        first_b: First unit of B.
    """

    targets: tuple[int, ...]
    first_a: int
    first_b: int


class Adapter:
    """One loaded adapter, as sequences know it; equal only to itself.

    Args:
        digest: What requests name it by.
        rank: Width of its additions.
        num_bytes: Memory it takes.
        pieces: Where it lies, by site; a site that it leaves alone has none.
    """

    def __init__(
        self, digest: str, *, rank: int, num_bytes: int, pieces: tuple[Piece | None, ...]
    ) -> None:
        self.digest, self.rank, self.num_bytes, self.pieces = digest, rank, num_bytes, pieces


class Roster:
    """The adapters of one engine.

    Invariants: an adapter is loaded, leaving or gone; only one that is loaded or leaving has
    holders; one that is leaving has at least one. Who waits, waits for one that is leaving.

    Args:
        free: Told once of every adapter that is gone, in whichever thread let go last.
    """

    def __init__(self, free: Callable[[Adapter], None]) -> None:
        self._free = free
        self._loaded: dict[str, Adapter] = {}
        self._num_holders: dict[Adapter, int] = {}
        self._leaving: set[Adapter] = set()
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.Lock()

    @property
    def digests(self) -> tuple[str, ...]:
        """Those that requests may name, in order."""
        with self._lock:
            return tuple(sorted(self._loaded))

    def put(self, adapter: Adapter) -> None:
        """Let requests name an adapter; none of its digest may be loaded."""
        with self._lock:
            assert adapter.digest not in self._loaded, "an adapter was loaded twice"
            self._loaded[adapter.digest] = adapter
            self._num_holders[adapter] = 0

    def find(self, digest: str) -> Adapter | None:
        """Return the loaded adapter of a digest, unheld."""
        with self._lock:
            return self._loaded.get(digest)

    def take(self, digest: str) -> Adapter:
        """Return the loaded adapter of a digest, held once for the caller.

        Raises:
            AdapterNotLoadedError: It is not loaded, or was dropped.
        """
        with self._lock:
            adapter = self._loaded.get(digest)
            if adapter is None:
                message = f"the adapter {digest!r} is not loaded."
                raise AdapterNotLoadedError(message, param="model")
            self._num_holders[adapter] += 1
            return adapter

    def hold(self, adapter: Adapter) -> None:
        """Add a holder to an adapter that the caller holds."""
        with self._lock:
            assert self._num_holders.get(adapter), "held an adapter that nobody holds"
            self._num_holders[adapter] += 1

    def release(self, adapter: Adapter) -> None:
        """Drop one holder; the last one of a leaving adapter frees it."""
        with self._lock:
            assert self._num_holders.get(adapter), "released an adapter that nobody holds"
            self._num_holders[adapter] -= 1
            gone, told = self._settle(adapter.digest)
        self._tell(gone, told)

    def drop(self, digest: str, then: Callable[[], None]) -> None:
        """Let no new request name an adapter; `then` is called when nothing computes with it."""
        with self._lock:
            adapter = self._loaded.pop(digest, None)
            if adapter is not None:
                self._leaving.add(adapter)
            self._waiting.setdefault(digest, []).append(then)
            gone, told = self._settle(digest)
        self._tell(gone, told)

    def check(self) -> None:
        """Verify the invariants; called by tests."""
        with self._lock:
            loaded = set(self._loaded.values())
            assert loaded.isdisjoint(self._leaving), "in two places"
            assert loaded | self._leaving == self._num_holders.keys(), "one was lost"
            assert all(self._num_holders[one] for one in self._leaving), "one should be gone"
            assert min(self._num_holders.values(), default=0) >= 0, "released too often"
            assert self._waiting.keys() <= {one.digest for one in self._leaving}, "left waiting"

    def _settle(self, digest: str) -> tuple[list[Adapter], list[Callable[[], None]]]:
        """Forget those that leave and have no holder; return them, and who waited for the last."""
        leaving = [one for one in self._leaving if one.digest == digest]
        gone = [one for one in leaving if not self._num_holders[one]]
        for one in gone:
            self._leaving.remove(one)
            del self._num_holders[one]
        told = self._waiting.pop(digest, []) if len(gone) == len(leaving) else []
        return gone, told

    def _tell(self, gone: list[Adapter], told: list[Callable[[], None]]) -> None:
        for adapter in gone:
            self._free(adapter)
        for then in told:
            then()
