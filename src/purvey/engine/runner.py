"""Runs one step: packed rows in, logits of the wanted rows out.

Shape letters, this file only:
    T = packed tokens   D = residual width   R = wanted rows   V = vocabulary
"""

import torch
from torch import Tensor

from purvey.engine.attention import PagedAttention
from purvey.engine.batch import Batch
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache


class Runner:
    """A decoder and its cache; float32 on CPU.

    A row's logits have the same bits in every batch (`frozen.py` says why). Running a batch
    twice writes the same keys and values to the same slots: a step may be repeated.
    """

    def __init__(self, decoder: FrozenDecoder, cache: KVCache) -> None:
        self._decoder, self.cache = decoder, cache

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Tensor]:
        """Return `logits_RV` for each span of the batch; R is `len(span.wanted)`, perhaps 0."""
        attend = PagedAttention(self.cache, batch)
        x_TD = self._decoder.hidden(batch.tokens_T, batch.positions_T, attend)
        logits_RV = self._decoder.logits(x_TD[batch.wanted_R])
        return list(torch.split(logits_RV, [len(span.wanted) for span in batch.spans]))
