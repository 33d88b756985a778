"""Additions to a tile of a prompt: products with one adapter's numbers, in one shape.

A tile is filled up to 32 rows, so the products of an adapter have the same shape whatever else is
computed, and a row's bits follow from its own tile.

Shape letters, this file only:
    T = packed rows   Q = rows of a tile (32)   q = of them, those that are there
    I = input features   O = output features   S = layers of the site that are adapted
    R = ranks, filled up to units   J = units of a layer   r = ranks of a unit (16)
    U = J x S   P = pieces of outputs   W = outputs of a piece
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from purvey.engine.adapters.bank import Table, units_for
from purvey.engine.adapters.roster import Adapter, Piece
from purvey.engine.adapters.sites import UNIT_RANKS, Site
from purvey.engine.batch import TILE_TOKENS, Tile


class TileProducts:
    """One tile at one site.

    Args:
        site: The site.
        tile: Which rows.
        adapter: Theirs.
        piece: The adapter's piece of the site.
    """

    def __init__(self, site: Site, tile: Tile, adapter: Adapter, piece: Piece) -> None:
        self._num_units, num_layers = units_for(adapter.rank), len(piece.targets)
        self.rows = range(tile.first_row, tile.first_row + tile.num_queries)
        self._slice = slice(self.rows.start, self.rows.stop)
        self._fill = TILE_TOKENS - tile.num_queries
        layer_of = [
            number
            for number, target in enumerate(piece.targets)
            for _ in range(site.num_pieces[target])
        ]
        self._layer_of_P = torch.tensor(layer_of)
        num_b = self._num_units * len(layer_of)
        self._a = slice(piece.first_a, piece.first_a + self._num_units * num_layers)
        self._b = slice(piece.first_b, piece.first_b + num_b)
        self._columns = _columns(site, piece)

    def add_(self, table: Table, layer: int, x_TI: Tensor, y_TO: Tensor) -> None:
        """Add to the outputs, in place; computed in float32, whatever the table is kept in.

        A product of bfloat16 matrices takes ten times as long where a processor has none of its
        own, and the table's rows are widened in a fraction of either.
        """
        a_UIr, b_UrW = table.a[layer][self._a].float(), table.b[layer][self._b].float()
        x_QI = pad(x_TI[self._slice], (0, 0, 0, self._fill)).float()
        low_UQr = torch.bmm(x_QI.expand(len(a_UIr), -1, -1), a_UIr)
        low_SJQr = low_UQr.view(-1, self._num_units, TILE_TOKENS, UNIT_RANKS)
        low_SQR = low_SJQr.transpose(1, 2).flatten(2)
        b_PRW = b_UrW.view(len(self._layer_of_P), -1, b_UrW.shape[2])
        added_PQW = torch.bmm(low_SQR.index_select(0, self._layer_of_P), b_PRW)
        added_QO = added_PQW.transpose(0, 1).flatten(1)
        for theirs, ours in self._columns:
            y_TO[self._slice, theirs] += added_QO[: len(self.rows), ours]


def _columns(site: Site, piece: Piece) -> list[tuple[slice, slice]]:
    """Pair the outputs of the site with those of the piece, layer by layer."""
    columns, start, ours = [], 0, 0
    for target, width in enumerate(site.num_outputs):
        if target in piece.targets:
            columns.append((slice(start, start + width), slice(ours, ours + width)))
            ours += width
        start += width
    return columns
