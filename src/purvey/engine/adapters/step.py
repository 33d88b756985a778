"""What adapters add in one step, to the rows of each sequence by its own adapter.

    y_T += (x_T A) B        of the row's adapter, with the scale folded into B

Rows past the prompt, one or few of each adapter, are summed over looked-up rows (`sums.py`): one
call for A and one for B, however many adapters there are, and each reads only its own. Rows of a
prompt are products of whole tiles (`tiles.py`). Which of the two computes a row follows from its
position, and its bits from its sequence alone: so it is for attention, and so it stays.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.engine.adapters.bank import AdapterBank
from purvey.engine.adapters.roster import Adapter
from purvey.engine.adapters.sites import OPENED
from purvey.engine.adapters.sums import RowSums
from purvey.engine.adapters.tiles import TileProducts
from purvey.engine.batch import Batch, Tile

Rows = tuple[tuple[int, Adapter], ...]
Tiles = tuple[tuple[Tile, Adapter], ...]


class StepAdditions:
    """The additions of one step; they serve every layer, and every step of the same rows.

    Args:
        bank: Where the numbers are.
        num_rows: Rows of the step.
        rows: Those past their prompts that have an adapter, in order.
        tiles: Those of prompts.
    """

    def __init__(self, bank: AdapterBank, num_rows: int, rows: Rows, tiles: Tiles) -> None:
        self._bank = bank
        self._at = [_at_site(bank, site, num_rows, rows, tiles) for site in range(len(bank.sites))]
        opened = sorted(row for addition in self._at[OPENED] for row in addition.rows)
        self._opened_R = torch.tensor(opened)

    def gate(self, layer: int) -> "GateAddition | None":
        """Return what is added to the joined gate of a layer; None where it is nothing."""
        if not len(self._opened_R):
            return None
        return GateAddition(step=self, layer=layer, rows_R=self._opened_R)

    def add_(self, site: int, layer: int, x_TI: Tensor, y_TO: Tensor) -> None:
        """Add to the outputs of a joined layer, in place; `x_TI` and `y_TO` are float32."""
        for addition in self._at[site]:
            addition.add_(self._bank.table(site), layer, x_TI, y_TO)


@dataclass(frozen=True, kw_only=True)
class GateAddition:
    """`StepAdditions` at the gate of one layer."""

    step: StepAdditions
    layer: int
    rows_R: Tensor  # noqa: N815 (tensors carry their axes)

    def add_(self, x_TI: Tensor, y_TO: Tensor) -> None:
        """Add to the outputs, in place: the gate's, then those that pass."""
        self.step.add_(OPENED, self.layer, x_TI, y_TO)


class Adaptation:
    """Plans the additions of step after step; the last plan serves as long as rows are the same.

    Args:
        bank: Where the numbers are.
    """

    def __init__(self, bank: AdapterBank) -> None:
        self._bank = bank
        self._last: tuple[tuple[int, Rows, Tiles], StepAdditions] | None = None

    def of(self, batch: Batch) -> StepAdditions | None:
        """Return what is added in a step; None where no row has an adapter."""
        rows, tiles = _rows_and_tiles(batch)
        if not rows and not tiles:
            return None
        key = len(batch.tokens_T), rows, tiles
        if self._last is None or self._last[0] != key:
            self._last = key, StepAdditions(self._bank, *key)
        return self._last[1]


def _rows_and_tiles(batch: Batch) -> tuple[Rows, Tiles]:
    rows: list[tuple[int, Adapter]] = []
    tiles: list[tuple[Tile, Adapter]] = []
    for span in batch.spans:
        adapter = span.sequence.adapter
        if adapter is None:
            continue
        for tile in span.tiles:
            if tile.start < span.sequence.num_prompt:
                tiles.append((tile, adapter))
            else:
                rows.append((tile.first_row, adapter))
    return tuple(rows), tuple(tiles)


def _at_site(
    bank: AdapterBank, number: int, num_rows: int, rows: Rows, tiles: Tiles
) -> list[RowSums | TileProducts]:
    site = bank.sites[number]
    found = [(row, a, piece) for row, a in rows if (piece := a.pieces[number]) is not None]
    sums = [RowSums(site, found, num_rows=num_rows)] if found else []
    products = [
        TileProducts(site, tile, adapter, piece)
        for tile, adapter in tiles
        if (piece := adapter.pieces[number]) is not None
    ]
    return [*sums, *products]
