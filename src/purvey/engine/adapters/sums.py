"""Additions to single rows, each by its own adapter: sums over looked-up rows of the tables.

Shape letters, this file only:
    T = packed rows   N = rows with an adapter   I = input features   O = output features
    U = units of all N   B = bags   L = looked-up rows of a table   W = width of a table
    r = ranks of a unit (16)
"""

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.engine.adapters.bank import Table, units_for
from purvey.engine.adapters.roster import Adapter, Piece
from purvey.engine.adapters.sites import UNIT_RANKS, Site

_SUM = 0
"""How `embedding_bag` joins a list."""
RowPiece = tuple[int, Adapter, Piece]


@dataclass(frozen=True, kw_only=True)
class _Bags:
    """Lists of a table's rows, each summed by itself; and of what their weights are made.

    Args:
        rows_L: The lists, one after the other, int32.
        starts_B: Where each begins.
        weights: Rows of the weights' source, each the weights of so many rows of the table;
            None takes all in order.
    """

    rows_L: Tensor  # noqa: N815 (tensors carry their axes)
    starts_B: Tensor  # noqa: N815 (tensors carry their axes)
    weights: Tensor | None

    def sums(self, table: Tensor, source: Tensor) -> Tensor:
        """Return a row for each bag; of zeros where it is empty."""
        weights = source if self.weights is None else source.index_select(0, self.weights)
        found_BW: Tensor = torch.embedding_bag(
            table, self.rows_L, self.starts_B, mode=_SUM, per_sample_weights=weights.flatten()
        )[0]
        return found_BW


class RowSums:
    """The rows of one step that one site adds to.

    Args:
        site: The site.
        rows: Row, adapter and the adapter's piece of the site; rows in order.
        num_rows: Rows of the step.
    """

    def __init__(self, site: Site, rows: Listed[RowPiece], *, num_rows: int) -> None:
        self.rows = [row for row, _, _ in rows]
        self._rows_N = None if len(rows) == num_rows else torch.tensor(self.rows)
        self._a, self._b = _bags_of_a(site, rows, num_rows), _bags_of_b(site, rows)

    def add_(self, table: Table, layer: int, x_TI: Tensor, y_TO: Tensor) -> None:
        """Add to the outputs, in place."""
        a_Lr, b_LW = table.a_rows[layer], table.b_rows[layer]
        low_Ur = self._a.sums(a_Lr, x_TI.to(a_Lr.dtype))
        added_NO = self._b.sums(b_LW, low_Ur).view(-1, y_TO.shape[1])
        if self._rows_N is None:
            y_TO.add_(added_NO)
        else:
            y_TO.index_add_(0, self._rows_N, added_NO.to(y_TO.dtype))


def _bags_of_a(site: Site, rows: Listed[RowPiece], num_rows: int) -> _Bags:
    """List, for every unit of every row, the unit's rows: one of 16 ranks for each input."""
    width, lists, sources = site.num_inputs, [], []
    for row, adapter, piece in rows:
        num_units = len(piece.targets) * units_for(adapter.rank)
        first = piece.first_a * width
        lists.append(torch.arange(first, first + num_units * width, dtype=torch.int32))
        sources += [row] * num_units
    starts_B = torch.arange(len(sources), dtype=torch.int32) * width
    return _Bags(rows_L=torch.cat(lists), starts_B=starts_B, weights=_all_or(sources, of=num_rows))


def _bags_of_b(site: Site, rows: Listed[RowPiece]) -> _Bags:
    """List, for every piece of every row's outputs, the rows of its ranks: none if left alone."""
    lists: list[Tensor] = []
    starts: list[int] = []
    sources: list[int] = []
    num_units = 0
    for _, adapter, piece in rows:
        per_rank, unit = units_for(adapter.rank), piece.first_b
        for target, num_pieces in enumerate(site.num_pieces):
            is_adapted = target in piece.targets
            for _ in range(num_pieces):
                starts.append(len(sources) * UNIT_RANKS)
                if is_adapted:
                    sources += range(num_units, num_units + per_rank)
            if is_adapted:
                end = unit + num_pieces * per_rank
                lists.append(torch.arange(unit * UNIT_RANKS, end * UNIT_RANKS, dtype=torch.int32))
                unit, num_units = end, num_units + per_rank
    return _Bags(
        rows_L=torch.cat(lists),
        starts_B=torch.tensor(starts, dtype=torch.int32),
        weights=_all_or(sources, of=num_units),
    )


def _all_or(sources: list[int], *, of: int) -> Tensor | None:
    return None if sources == list(range(of)) else torch.tensor(sources)
