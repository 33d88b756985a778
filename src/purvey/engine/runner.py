"""Runs one step: packed rows in, logits of the wanted rows out.

Shape letters, this file only:
    T = packed tokens   D = residual width   R = wanted rows   V = vocabulary
"""

from collections.abc import Sequence as Listed
from typing import Protocol

import torch

from purvey.engine.adapters.bank import AdapterBank
from purvey.engine.adapters.step import Adaptation
from purvey.engine.attention.paged import PagedAttention
from purvey.engine.batch import Batch
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache, Places
from purvey.engine.logits import HostLogits, SpanLogits


class StepRunner(Protocol):
    """What computes the steps of a core, wherever it does."""

    @property
    def cache(self) -> Places:
        """Where keys and values are."""
        ...

    @property
    def layers(self) -> int:
        """Layers computed so far, where they are counted: a long step shows that it goes on."""
        ...

    def run(self, batch: Batch) -> Listed[SpanLogits]:
        """Return the logits of each span's wanted rows; they are valid until the next run."""
        ...

    def release(self, request_id: str) -> None:
        """Learn that a sequence has ended, or gave its blocks back."""
        ...


class Runner:
    """A decoder, its cache, and what its adapters are kept in, if it has any; float32 on CPU.

    A row's logits have the same bits in every batch (`frozen.py` says why). Running a batch
    twice writes the same keys and values to the same slots: a step may be repeated.
    """

    def __init__(
        self, decoder: FrozenDecoder, cache: KVCache, bank: AdapterBank | None = None
    ) -> None:
        self._decoder, self.cache = decoder, cache
        self._adaptation = None if bank is None else Adaptation(bank)

    @property
    def layers(self) -> int:
        """Layers computed so far; read by any thread."""
        return self._decoder.layers_computed

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[HostLogits]:
        """Return the logits of each span's wanted rows, perhaps of none."""
        attend = PagedAttention(self.cache, batch)
        additions = None if self._adaptation is None else self._adaptation.of(batch)
        x_TD = self._decoder.hidden(
            batch.tokens_T, batch.positions_T, attend, additions, batch.given
        )
        logits_RV = self._decoder.logits(x_TD[batch.wanted_R])
        parts = torch.split(logits_RV, [len(span.wanted) for span in batch.spans])
        return [HostLogits(part_RV) for part_RV in parts]

    def release(self, request_id: str) -> None:
        """Do nothing: blocks are all that a sequence holds here."""
