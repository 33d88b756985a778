"""A checkpoint that several ranks write at once, each its own share, as one set of files.

Of a divided tensor every rank writes the block that it holds; of what all hold alike, each writes
some tensors whole, so that shares are of like size. In each rank the writing thread does this
beside training: the first one makes the folder, and adds index, state and manifest once it has
heard of every share. So a set that lacks one never becomes a checkpoint, and any number of ranks
can read it: each asks for the blocks that it will hold (`Stored.block`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from torch import Tensor

from purvey.errors import InternalError
from purvey.models.folder.safetensors_file import write_tensors
from purvey.train.checkpoint import (
    INDEX,
    Snapshot,
    Written,
    aside_of,
    flush,
    is_written,
    write_checkpoint,
)
from purvey.train.saving.regions import Piece, Region, Spread, Spreads, joined, torn, whole_of


class Writers(Protocol):
    """The writing threads of all ranks; each calls everything in the same order."""

    @property
    def rank(self) -> int:
        """This one, from 0, which is the first."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def agreed(self, claim: object) -> bool:
        """Return whether the first one's claim is true."""
        ...

    def gathered(self, payload: bytes) -> list[bytes]:
        """Return on the first one what the others have given, by rank; on those, nothing."""
        ...


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Which block of a divided tensor a rank holds, and the shape of the whole."""

    shape: tuple[int, ...]
    region: Region


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank has written: hex SHA-256 by file, and where each tensor's block is."""

    files: dict[str, str]
    spreads: Spreads


Place = Callable[[str, Tensor], Held | None]
"""Says by its name what a tensor is a block of; None where every rank holds all of it."""


class Sharing:
    """Writes checkpoints together with the other ranks.

    Args:
        writers: All of them, over connections that nobody else uses.
        place: What this rank holds.
    """

    def __init__(self, writers: Writers, place: Place) -> None:
        self._writers, self._place = writers, place

    @property
    def num_ranks(self) -> int:
        """How many ranks write."""
        return self._writers.size

    def write(self, snapshot: Snapshot, root: Path, *, run_digest: str) -> Written | None:
        """Write this rank's share of a snapshot.

        Returns:
            On the first rank, once all shares are on disk, what `write_checkpoint` returns.

        Raises:
            OSError: The disk refuses; no folder carries the checkpoint's name.
            RuntimeError: A rank is gone; likewise.
        """
        if self._writers.rank == 0:
            if is_written(root, snapshot.state.step, run_digest=run_digest):
                self._writers.agreed(claim=False)
            return write_checkpoint(snapshot, root, run_digest=run_digest, fill=self._fill)
        if self._writers.agreed(claim=False):  # what the first one claims counts
            share = self._written(aside_of(root, snapshot.state.step), snapshot)
            self._writers.gathered(msgspec.json.encode(share))
        return None

    def _fill(self, folder: Path, snapshot: Snapshot) -> dict[str, str]:
        """Write the first share, wait for the others, and say what they are together."""
        self._writers.agreed(claim=True)
        shares = [self._written(folder, snapshot)]
        shares += [msgspec.json.decode(x, type=Share) for x in self._writers.gathered(b"")]
        spreads = joined(share.spreads for share in shares)
        if missing := torn(spreads):
            raise InternalError(f"no rank has written all of {missing[0]!r}.")
        files = {name: digest for share in shares for name, digest in share.files.items()}
        content = msgspec.json.encode(spreads)
        (folder / INDEX).write_bytes(content)
        return files | {INDEX: hashlib.sha256(content).hexdigest()}

    def _written(self, folder: Path, snapshot: Snapshot) -> Share:
        files: dict[str, str] = {}
        spreads: Spreads = {}
        for part, tensors in snapshot.parts.items():
            name = f"{part}-{self._writers.rank}-of-{self._writers.size}.safetensors"
            found = {key: (tensors[key], held) for key, held in self._mine(tensors)}
            spreads[part] = {
                key: Spread(shape=held.shape, pieces=(Piece(file=name, region=held.region),))
                for key, (_, held) in found.items()
            }
            if found:
                chosen = {key: tensor for key, (tensor, _) in found.items()}
                files[name] = write_tensors(chosen, folder / name)
                flush(folder / name)
        return Share(files=files, spreads=spreads)

    def _mine(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Held]]:
        """Yield what this rank writes: blocks of its own, and its turn of what all hold."""
        held = {key: self._place(key, tensor) for key, tensor in tensors.items()}
        common = [key for key, place in held.items() if place is None]
        common.sort(key=lambda key: (-tensors[key].nbytes, key))
        for key in common[self._writers.rank :: self._writers.size]:
            shape = tuple(tensors[key].shape)
            yield key, Held(shape=shape, region=whole_of(shape))
        for key, place in held.items():
            if place is not None and place.region.num_elements:
                yield key, place
