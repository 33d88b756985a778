"""Which blocks of a tensor the files of a checkpoint hold, when several ranks wrote it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import msgspec


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """A block of a tensor.

    Args:
        start: Its first index in every dimension.
        shape: How far it reaches from there.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def stop(self) -> tuple[int, ...]:
        """The index behind its last one in every dimension."""
        return tuple(a + n for a, n in zip(self.start, self.shape, strict=True))

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def common(self, other: "Region") -> "Region | None":
        """Return what two blocks of one tensor have in common; None for nothing."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        return Region(start=start, shape=shape) if all(n > 0 for n in shape) else None

    def slices(self, within: "Region") -> tuple[slice, ...]:
        """Return where it lies in another block of the same tensor, which holds it."""
        begin = (a - b for a, b in zip(self.start, within.start, strict=True))
        return tuple(slice(a, a + n) for a, n in zip(begin, self.shape, strict=True))


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A block of a tensor, in a file, under the tensor's name."""

    file: str
    region: Region


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor that lies in several files: its shape, and the blocks that it is made of."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every number of it lies in exactly one piece."""
        regions = [piece.region for piece in self.pieces]
        if any(len(region.start) != len(self.shape) for region in regions):
            return False
        whole = whole_of(self.shape)
        held = sum(region.num_elements for region in regions)
        return (
            held == whole.num_elements
            and all(not r.num_elements or r.common(whole) == r for r in regions)
            and all(a.common(b) is None for a, b in combinations(regions, 2))
        )


Spreads = dict[str, dict[str, Spread]]
"""Part of a checkpoint (`model`, `optimizer`, ...), then name of the tensor."""


def whole_of(shape: Sequence[int]) -> Region:
    """Return the block that is all of a tensor."""
    return Region(start=(0,) * len(shape), shape=tuple(shape))


def chunk(length: int, *, rank: int, size: int) -> tuple[int, int]:
    """Return a rank's start and length of a dimension, divided as `torch.chunk` divides it.

    All but the last that hold anything hold alike; ranks behind it hold nothing.
    """
    most = math.ceil(length / size)
    start = min(rank * most, length)
    return start, min(most, length - start)


def joined(shares: Iterable[Mapping[str, Mapping[str, Spread]]]) -> Spreads:
    """Put together what several ranks have written of the same tensors."""
    found: Spreads = {}
    for share in shares:
        for part, spreads in share.items():
            tensors = found.setdefault(part, {})
            for name, spread in spreads.items():
                held = tensors.get(name, Spread(shape=spread.shape, pieces=()))
                tensors[name] = Spread(shape=spread.shape, pieces=held.pieces + spread.pieces)
    return found


def torn(spreads: Spreads) -> list[str]:
    """Name the tensors of which a number is missing, or there twice."""
    return [
        f"{part}/{name}"
        for part, tensors in spreads.items()
        for name, spread in tensors.items()
        if not spread.is_whole
    ]
