import pytest

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.skeleton import skeleton

CONFIG = DecoderConfig(
    vocabulary_size=30, hidden_size=8, mlp_size=12, num_layers=2, num_heads=2, num_kv_heads=1,
    head_size=4, context_tokens=16,
)  # fmt: skip


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_skeleton_has_every_shape_and_no_number(is_tied: bool) -> None:
    config = DecoderConfig(**{**vars(CONFIG), "is_tied": is_tied})
    bare, whole = skeleton(config).state_dict(), Decoder(config).state_dict()
    assert {n: t.shape for n, t in bare.items()} == {n: t.shape for n, t in whole.items()}
    assert all(tensor.is_meta for tensor in bare.values())
