"""The memory of adapters: tables that any of them may lie in, and who computes a step with them.

A layer's A and B (scale folded in) lie in two tables of units, 16 ranks each, so that rows of
different adapters are computed by one call that looks up each row's own units. An adapter's units
are written before anybody knows of it and freed when nobody does any more; nothing of another is
moved. Paging adapters: Sheng et al. 2023, "S-LoRA", section 5.

Shape letters, this file only:
    U = units of a table   I = input features   R = ranks   r = ranks of a unit (16)
    O = output features    P = pieces of outputs            W = outputs of a piece
"""

import threading
from collections.abc import Sequence as Listed
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import pad

from purvey.engine.adapters.roster import Adapter, Piece
from purvey.engine.adapters.runs import RunPool
from purvey.engine.adapters.sites import UNIT_RANKS, Site, sites_of
from purvey.errors import CapacityError, InvalidCheckpointError
from purvey.models.config import DecoderConfig
from purvey.models.lora import AdapterWeights

_MOST_ROWS = 2**31 - 1
"""Rows of a table are looked up by 32-bit numbers."""
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Table:
    """One site of all layers: `a_UIr` and `b_UrW` of each, their rows, and which units are free."""

    site: Site
    a: list[Tensor]
    b: list[Tensor]
    a_rows: list[Tensor]
    b_rows: list[Tensor]
    units_of_a: RunPool
    units_of_b: RunPool


class AdapterBank:
    """Holds the numbers of adapters of one decoder; safe in any thread.

    Tables are as long as all of `adapter_bytes` would need in one of them. Only what was written
    takes memory.

    Args:
        config: The base.
        dtype: Of the tables: float32 beside float32 layers, else bfloat16.
        adapter_bytes: What adapters may take together.
    """

    def __init__(self, config: DecoderConfig, *, dtype: torch.dtype, adapter_bytes: int) -> None:
        self.dtype, self.sites = dtype, sites_of(config)
        self._num_layers, self._adapter_bytes = config.num_layers, adapter_bytes
        self._tables: dict[int, Table] = {}
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What adapters take now."""
        return self._used_bytes

    def table(self, site: int) -> Table:
        """Return the table of a site that some adapter was given a piece of."""
        return self._tables[site]

    @torch.inference_mode()
    def load(self, digest: str, weights: AdapterWeights) -> Adapter:
        """Write an adapter where nothing else lies.

        Raises:
            CapacityError: Says the arithmetic; nothing is changed.
            InvalidCheckpointError: A number overflows once it is scaled; nothing is changed.
        """
        targets = [self._adapted(site, weights) for site in self.sites]
        num_bytes = sum(map(self._bytes_of, self.sites, targets, [weights.rank] * len(targets)))
        with self._lock:
            adapter = self._reserve(digest, weights.rank, num_bytes, targets)
        try:
            for number, piece in enumerate(adapter.pieces):
                if piece is not None:
                    self._write(self._tables[number], piece, weights)
        except InvalidCheckpointError:
            self.free(adapter)
            raise
        return adapter

    def free(self, adapter: Adapter) -> None:
        """Take an adapter's memory back; nothing may compute with it any more."""
        with self._lock:
            self._give_back(adapter.pieces, adapter.rank)
            self._used_bytes -= adapter.num_bytes

    def check(self) -> None:
        """Verify that the memory is free which no adapter has; called by tests when none is."""
        for table in self._tables.values():
            for units in (table.units_of_a, table.units_of_b):
                assert units.num_free == units.num_units, "units were lost"
        assert not self._used_bytes, "bytes were lost"

    def _adapted(self, site: Site, weights: AdapterWeights) -> tuple[int, ...]:
        """Return which layers of a site are adapted in any block."""
        ends = {name.split(".", 2)[2] for name in weights.pairs}
        return tuple(number for number, target in enumerate(site.targets) if target in ends)

    def _bytes_of(self, site: Site, targets: tuple[int, ...], rank: int) -> int:
        numbers = sum(site.num_inputs + site.num_outputs[target] for target in targets)
        return numbers * units_for(rank) * UNIT_RANKS * self.dtype.itemsize * self._num_layers

    def _reserve(
        self, digest: str, rank: int, num_bytes: int, targets: Listed[tuple[int, ...]]
    ) -> Adapter:
        if self._used_bytes + num_bytes > self._adapter_bytes:
            raise CapacityError(
                f"the adapter takes {num_bytes / _MIB:.1f} MiB of rank {rank}, others take "
                f"{self._used_bytes / _MIB:.1f} MiB, and together they may take "
                f"{self._adapter_bytes / _MIB:.1f} MiB (adapter_bytes).",
                hint="Drop another adapter, or raise adapter_bytes.",
            )
        pieces: list[Piece | None] = []
        try:
            for number, adapted in enumerate(targets):
                pieces.append(self._take(number, adapted, rank) if adapted else None)
        except CapacityError:
            self._give_back(pieces, rank)
            raise
        self._used_bytes += num_bytes
        return Adapter(digest, rank=rank, num_bytes=num_bytes, pieces=tuple(pieces))

    def _take(self, number: int, targets: tuple[int, ...], rank: int) -> Piece:
        if number not in self._tables:
            self._tables[number] = self._new_table(self.sites[number])
        table = self._tables[number]
        num_a, num_b = _num_units(table.site, targets, rank)
        first_a = table.units_of_a.take(num_a)
        try:
            first_b = table.units_of_b.take(num_b)
        except CapacityError:
            table.units_of_a.give_back(first_a, num_a)
            raise
        return Piece(targets=targets, first_a=first_a, first_b=first_b)

    def _give_back(self, pieces: Listed[Piece | None], rank: int) -> None:
        for number, piece in enumerate(pieces):
            if piece is not None:
                table = self._tables[number]
                num_a, num_b = _num_units(table.site, piece.targets, rank)
                table.units_of_a.give_back(piece.first_a, num_a)
                table.units_of_b.give_back(piece.first_b, num_b)

    def _new_table(self, site: Site) -> Table:
        shape_a, shape_b = (site.num_inputs, UNIT_RANKS), (UNIT_RANKS, site.piece_outputs)
        num_a, num_b = self._most_units(shape_a), self._most_units(shape_b)
        layers = range(self._num_layers)
        a = [torch.empty((num_a, *shape_a), dtype=self.dtype) for _ in layers]
        b = [torch.empty((num_b, *shape_b), dtype=self.dtype) for _ in layers]
        return Table(
            site=site,
            a=a,
            b=b,
            a_rows=[one.flatten(0, 1) for one in a],
            b_rows=[one.flatten(0, 1) for one in b],
            units_of_a=RunPool(num_a),
            units_of_b=RunPool(num_b),
        )

    def _most_units(self, shape: tuple[int, int]) -> int:
        num_rows, width = shape
        unit_bytes = num_rows * width * self.dtype.itemsize * self._num_layers
        return min(self._adapter_bytes // unit_bytes, _MOST_ROWS // num_rows)

    def _write(self, table: Table, piece: Piece, weights: AdapterWeights) -> None:
        num_a, num_b = _num_units(table.site, piece.targets, weights.rank)
        for layer in range(self._num_layers):
            a_UIr = table.a[layer][piece.first_a : piece.first_a + num_a]
            b_UrW = table.b[layer][piece.first_b : piece.first_b + num_b]
            first_a = first_b = 0
            for target in piece.targets:
                name = f"layers.{layer}.{table.site.targets[target]}"
                last_a = first_a + units_for(weights.rank)
                last_b = first_b + units_for(weights.rank) * table.site.num_pieces[target]
                pair = weights.pairs.get(name)
                _write_a(a_UIr[first_a:last_a], None if pair is None else pair[0], name)
                b_OR = None if pair is None else pair[1] * weights.scale
                _write_b(b_UrW[first_b:last_b], b_OR, name)
                first_a, first_b = last_a, last_b


def units_for(rank: int) -> int:
    """Count the units that a rank fills."""
    return ceil(rank / UNIT_RANKS)


def _num_units(site: Site, targets: tuple[int, ...], rank: int) -> tuple[int, int]:
    """Count the units of A and of B."""
    per_rank = units_for(rank)
    num_pieces = sum(site.num_pieces[target] for target in targets)
    return per_rank * len(targets), per_rank * num_pieces


def _write_a(a_UIr: Tensor, a_RI: Tensor | None, name: str) -> None:
    """Write ranks 0 to 15 as the first unit, and so on; a layer left alone is all zeros."""
    if a_RI is None:
        a_UIr.zero_()
        return
    filled_RI = pad(a_RI, (0, 0, 0, len(a_UIr) * UNIT_RANKS - len(a_RI)))
    a_UIr.copy_(filled_RI.view(len(a_UIr), UNIT_RANKS, -1).transpose(1, 2))
    _check_finite(a_UIr, name)


def _write_b(b_UrW: Tensor, b_OR: Tensor | None, name: str) -> None:
    """Write piece after piece of outputs, all ranks of each as neighbouring units."""
    if b_OR is None:
        b_UrW.zero_()
        return
    num_units, _, width = b_UrW.shape
    num_pieces = len(b_OR) // width
    num_ranks = num_units // num_pieces * UNIT_RANKS
    filled_OR = pad(b_OR, (0, num_ranks - b_OR.shape[1]))
    b_UrW.view(num_pieces, num_ranks, width).copy_(
        filled_OR.view(num_pieces, width, num_ranks).transpose(1, 2)
    )
    _check_finite(b_UrW, name)


def _check_finite(numbers: Tensor, name: str) -> None:
    if not bool(torch.isfinite(numbers).all()):
        raise InvalidCheckpointError(
            f"the adapter's numbers for {name!r} overflow once they are scaled.", param="model"
        )
