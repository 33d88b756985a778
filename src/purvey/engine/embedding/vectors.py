"""Forward passes over packed texts: a vector of each, or a score of each pair.

A row's result has the same bits whatever the other texts are and however many: linears are
row-stable (`linears/rows.py`), attention computes one text at a time, and what remains works on a
row, or on the rows of one text.

Shape letters, this file only:
    T = packed tokens   D = residual width   S = texts
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from purvey.engine.frozen import FrozenDecoder
from purvey.engine.linears.base import Projection
from purvey.engine.linears.float32 import Float32Linears
from purvey.engine.linears.rows import row_linear
from purvey.errors import InternalError
from purvey.models.attention.packed import PackedAttention
from purvey.models.encoder.framing import Framed
from purvey.models.encoder.loading import EmbeddingModel
from purvey.models.encoder.network import Encoder
from purvey.models.encoder.pooling import pooled, unit
from purvey.models.encoder.reading import EncoderWeights

_BYTES_PER_FLOAT = 4


class Vectors:
    """Computes a model's answers, float32 on the CPU; one thread at a time.

    Args:
        model: Its weights are packed; a decoder is emptied and cannot be used afterwards.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        self._pooling, network = model.setup.pooling, model.network
        self._network: Encoder | FrozenDecoder
        if isinstance(network, EncoderWeights):
            with torch.inference_mode():
                self._network = Encoder(network.config, network.tensors, linear=row_linear)
            self.num_parameters = self._network.num_parameters
            self.num_bytes = self.num_parameters * _BYTES_PER_FLOAT
        else:
            self.num_parameters = sum(p.numel() for p in network.parameters())
            self._network = FrozenDecoder(
                network, max_positions=model.max_tokens, linears=_Headless()
            )
            self.num_bytes = self._network.num_bytes

    @torch.inference_mode()
    def vectors(self, texts: Sequence[Framed]) -> list[Tensor]:
        """Return a vector `v_D` of length 1 for each text."""
        lengths = [len(text) for text in texts]
        vector_SD = pooled(self._hidden(texts, lengths), lengths, self._pooling)
        return [_finite(unit(vector_D)) for vector_D in vector_SD]

    @torch.inference_mode()
    def scores(self, pairs: Sequence[Framed]) -> list[Tensor]:
        """Return the score of each pair, in (0, 1): the sigmoid of its logit, float64."""
        assert isinstance(self._network, Encoder), "only encoders score pairs"
        lengths = [len(pair) for pair in pairs]
        first_SD = pooled(self._hidden(pairs, lengths), lengths, "cls")
        score_S = _finite(self._network.logits(first_SD)[:, 0])
        return [score.double().sigmoid() for score in score_S]

    def _hidden(self, texts: Sequence[Framed], lengths: list[int]) -> Tensor:
        tokens_T = _packed(text.ids for text in texts)
        positions_T = torch.cat([torch.arange(length) for length in lengths])
        if isinstance(self._network, FrozenDecoder):
            attend = PackedAttention(lengths, is_causal=True)
            return self._network.hidden(tokens_T, positions_T, attend)
        attend = PackedAttention(lengths, is_causal=False)
        types_T = _packed(text.types for text in texts)
        return self._network.hidden(tokens_T, positions_T, types_T, attend)


class _Headless(Float32Linears):
    """Builds a head of one row: nobody asks for logits."""

    def head(self, weight_OI: Tensor) -> Projection:
        return super().head(weight_OI[:1])


def _packed(rows: Iterable[tuple[int, ...]]) -> Tensor:
    return torch.tensor(list(itertools.chain.from_iterable(rows)), dtype=torch.int64)


def _finite(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise InternalError("the model's answer is not finite.")
    return values
