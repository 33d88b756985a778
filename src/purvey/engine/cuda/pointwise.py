"""What lies between the linear layers: norms, rotation, the gate; each in one pass.

Shape letters, this file only:
    T = rows            D = residual width    N = query heads   K = key/value heads
    H = head width      I = width of the MLP  P = positions     F = H / 2
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.engine.cuda.cache import CudaCache
from purvey.engine.cuda.kernels import add_and_normalise, gate, rotate_and_store
from purvey.engine.cuda.linear import Partials, block_over
from purvey.models.config import Activation

_GATE_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A norm over a row: what its normalised values are multiplied with, in float32."""

    weight_D: Tensor  # noqa: N815 (tensors carry their axes)
    epsilon: float


def add_to_stream(
    stream_TD: Tensor, added: Partials | None, output: Gain | None, norm: Gain, dtype: torch.dtype
) -> Tensor:
    """Add a layer's output to the stream in place; return the normalised stream.

    Args:
        stream_TD: Float32.
        added: What is added; None only normalises.
        output: Norm of what is added, where the family has one.
        norm: Norm of the stream.
        dtype: Of what is returned.
    """
    num_rows, size = stream_TD.shape
    normed_TD = torch.empty((num_rows, size), dtype=dtype, device=stream_TD.device)
    bias_D = None if added is None else added.bias_O
    add_and_normalise[(num_rows,)](
        stream_TD,
        stream_TD if added is None else added.sums_STO,
        stream_TD if bias_D is None else bias_D,
        norm.weight_D if output is None else output.weight_D,
        norm.weight_D,
        normed_TD,
        num_rows,
        size,
        norm.epsilon,
        NUM_SPLITS=0 if added is None else added.num_splits,
        HAS_BIAS=bias_D is not None,
        HAS_OUTPUT_NORM=output is not None,
        BLOCK=block_over(size),
        num_warps=8,
    )
    return normed_TD


@dataclass(frozen=True, kw_only=True)
class HeadRule:
    """What happens to the heads of a layer's joined projection.

    Args:
        num_heads: Query heads.
        num_kv_heads: Key/value heads.
        head_size: Width of a head.
        query_gain: Norm of queries, where the family has one.
        key_gain: Norm of keys, likewise.
        cos_PF: Table of the layer's rotary embedding, float32; None where it has none.
        sin_PF: Likewise.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    query_gain: Gain | None
    key_gain: Gain | None
    cos_PF: Tensor | None  # noqa: N815 (tensors carry their axes)
    sin_PF: Tensor | None  # noqa: N815 (tensors carry their axes)


def place_heads(
    qkv: Partials,
    positions_T: Tensor,
    slots_T: Tensor,
    cache: CudaCache,
    layer: int,
    rule: HeadRule,
) -> Tensor:
    """Return `q_TNH`; keys and values go to their slots."""
    num_rows = positions_T.shape[0]
    k_KSH, v_KSH = cache.pools(layer)
    q_TNH = torch.empty(
        (num_rows, rule.num_heads, rule.head_size), dtype=k_KSH.dtype, device=k_KSH.device
    )
    unused = qkv.sums_STO
    gains = (rule.query_gain, rule.key_gain)
    rotate_and_store[(num_rows, rule.num_heads + 2 * rule.num_kv_heads)](
        qkv.sums_STO,
        unused if qkv.bias_O is None else qkv.bias_O,
        *(unused if gain is None else gain.weight_D for gain in gains),
        unused if rule.cos_PF is None else rule.cos_PF,
        unused if rule.sin_PF is None else rule.sin_PF,
        positions_T,
        slots_T,
        q_TNH,
        k_KSH,
        v_KSH,
        num_rows,
        k_KSH.shape[1],
        0.0 if rule.query_gain is None else rule.query_gain.epsilon,
        NUM_SPLITS=qkv.num_splits,
        NUM_HEADS=rule.num_heads,
        NUM_KV_HEADS=rule.num_kv_heads,
        HALF=rule.head_size // 2,
        BLOCK=block_over(rule.head_size // 2),
        HAS_BIAS=qkv.bias_O is not None,
        HAS_QK_NORM=rule.query_gain is not None,
        HAS_ROTATION=rule.cos_PF is not None,
        num_warps=1,
    )
    return q_TNH


def gated(opened_and_up: Partials, activation: Activation, dtype: torch.dtype) -> Tensor:
    """Return `activation(gate_TI) * up_TI` of a joined projection."""
    _, num_rows, width = opened_and_up.sums_STO.shape
    size, bias = width // 2, opened_and_up.bias_O
    out_TI = torch.empty((num_rows, size), dtype=dtype, device=opened_and_up.sums_STO.device)
    gate[(num_rows, -(-size // _GATE_BLOCK))](
        opened_and_up.sums_STO,
        opened_and_up.sums_STO if bias is None else bias,
        out_TI,
        num_rows,
        size,
        NUM_SPLITS=opened_and_up.num_splits,
        HAS_BIAS=bias is not None,
        IS_GELU=activation == "gelu_tanh",
        BLOCK=_GATE_BLOCK,
        num_warps=4,
    )
    return out_TI
