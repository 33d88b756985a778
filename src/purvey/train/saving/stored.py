"""Tensors of a checkpoint on disk: each is read when it is asked for, whole or a block of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from purvey.errors import IntegrityError
from purvey.models.folder.safetensors_file import TYPES, read_header
from purvey.train.saving.regions import Piece, Region, Spread, whole_of


class Stored(Mapping[str, Tensor]):
    """One part of a checkpoint, by the names of its tensors; what is read is a copy.

    Args:
        folder: Where its files lie.
        spreads: Which blocks of each tensor they hold.

    Raises:
        IntegrityError: A file does not hold what it should, or a tensor is not whole.
        InvalidCheckpointError: A file's header is damaged.
    """

    def __init__(self, folder: Path, spreads: Mapping[str, Spread]) -> None:
        self._spreads = spreads
        files = {piece.file for spread in spreads.values() for piece in spread.pieces}
        headers = {file: read_header(folder / file) for file in files}
        self._types: dict[str, torch.dtype] = {}
        for name, spread in spreads.items():
            found = [headers[piece.file].get(name) for piece in spread.pieces]
            shapes = [None if header is None else header.shape for header in found]
            types = {header.dtype for header in found if header is not None}
            wanted = [piece.region.shape for piece in spread.pieces]
            if shapes != wanted or len(types) != 1 or not spread.is_whole:
                raise IntegrityError(f"the tensor {name!r} of {folder.name!r} is not whole.")
            self._types[name] = TYPES[types.pop()]
        self._files: dict[str, Any] = {  # has no types
            file: safe_open(folder / file, framework="pt", device="cpu") for file in files
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._spreads[name].shape

    def block(self, name: str, region: Region) -> Tensor:
        """Read a block of a tensor, and of its files no more than the block."""
        found = torch.empty(region.shape, dtype=self._types[name])
        for piece in self._spreads[name].pieces:
            common = region.common(piece.region)
            if common is not None:
                found[common.slices(region)] = self._read(name, piece, common)
        return found

    def __getitem__(self, name: str) -> Tensor:
        return self.block(name, whole_of(self.shape(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._spreads)

    def __len__(self) -> int:
        return len(self._spreads)

    def _read(self, name: str, piece: Piece, region: Region) -> Tensor:
        mapped: Tensor = self._files[piece.file].get_tensor(name)  # only what is used is read
        return mapped[region.slices(piece.region)]


def stored_file(path: Path) -> Stored:
    """Open a file that holds whole tensors.

    Raises:
        InvalidCheckpointError: Its header is damaged.
    """
    spreads = {
        name: Spread(
            shape=header.shape, pieces=(Piece(file=path.name, region=whole_of(header.shape)),)
        )
        for name, header in read_header(path).items()
    }
    return Stored(path.parent, spreads)
