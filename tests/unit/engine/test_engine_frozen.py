"""The serving form of a decoder holds no more than its cache can use."""

import pytest
import torch

from purvey.engine.frozen import FrozenDecoder
from purvey.models.attention.dense import DenseAttention
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder

LONG = DecoderConfig(
    vocabulary_size=20,
    hidden_size=16,
    mlp_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_size=8,
    context_tokens=2**20,
)


def test_angles_are_kept_for_the_positions_that_can_occur() -> None:
    decoder = Decoder(LONG).eval()
    tokens_T = torch.arange(20)
    expected = decoder(tokens_T[None])[0].detach()
    frozen = FrozenDecoder(decoder, max_positions=20)
    x_TD = frozen.hidden(tokens_T, torch.arange(20), DenseAttention(num_sequences=1))
    torch.testing.assert_close(frozen.logits(x_TD), expected)
    with pytest.raises(IndexError):
        frozen.hidden(tokens_T[:1], torch.tensor([20]), DenseAttention(num_sequences=1))
