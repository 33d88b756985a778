"""Reference paged attention. Slow and obvious on purpose: every fast backend is tested against it.

Shape letters, this file only:
    S = sequences   T = packed query tokens   N = query heads   K = key/value heads
    H = head width  P = blocks in the pool    B = positions per block
    Q = query tokens of one sequence          C = positions that one sequence can see
"""

import torch
from torch import Tensor

from purvey.models.attention.base import AttentionRule, capped, visible


def paged_attention(
    q_TNH: Tensor,
    k_PBKH: Tensor,
    v_PBKH: Tensor,
    *,
    tables: list[Tensor],
    starts: list[int],
    lengths: list[int],
    rule: AttentionRule,
) -> Tensor:
    """Causal attention of packed queries over block-paged keys and values.

    The keys and values of this step must already be in the pool.

    Args:
        q_TNH: Queries of all sequences back to back, in the model's dtype.
        k_PBKH: Key pool, same dtype and device.
        v_PBKH: Value pool, same dtype and device.
        tables: Per sequence, its block ids in order (int64).
        starts: Per sequence, positions already cached before this step.
        lengths: Per sequence, query tokens of this step; they sum to T.
        rule: Scale, window and bound of the scores.

    Returns:
        `out_TNH`, in the dtype of `q_TNH`. The softmax runs in float32. Each sequence is computed
        by itself, so its result does not depend on its neighbours, bit for bit.
    """
    assert q_TNH.shape[0] == sum(lengths), "packed queries and lengths disagree"
    outputs = []
    parts = torch.split(q_TNH, lengths)
    for q_QNH, table, start in zip(parts, tables, starts, strict=True):
        num_visible = start + q_QNH.shape[0]
        k_CKH = k_PBKH[table].flatten(0, 1)[:num_visible]
        v_CKH = v_PBKH[table].flatten(0, 1)[:num_visible]
        outputs.append(attend_sequence(q_QNH, k_CKH, v_CKH, start=start, rule=rule))
    return torch.cat(outputs)


def attend_sequence(
    q_QNH: Tensor, k_CKH: Tensor, v_CKH: Tensor, *, start: int, rule: AttentionRule
) -> Tensor:
    """Causal attention of one sequence's newest queries over all its positions.

    Args:
        q_QNH: Queries at positions `start` and after.
        k_CKH: Keys of positions 0 to `start + Q - 1`.
        v_CKH: Values of the same positions.
        start: Position of the first query.
        rule: Scale, window and bound of the scores.
    """
    num_queries, num_heads, _ = q_QNH.shape
    num_visible, num_kv_heads, _ = k_CKH.shape
    group = num_heads // num_kv_heads  # query head n reads key head n // group
    k_CNH = k_CKH.repeat_interleave(group, dim=1)
    v_CNH = v_CKH.repeat_interleave(group, dim=1)
    scores_NQC = torch.einsum("qnh,cnh->nqc", q_QNH.float(), k_CNH.float()) * rule.scale
    scores_NQC = capped(scores_NQC, rule.softcap)
    queries_Q = torch.arange(start, start + num_queries, device=q_QNH.device)
    keys_C = torch.arange(num_visible, device=q_QNH.device)
    mask_QC = visible(queries_Q, keys_C, rule.window)
    scores_NQC = scores_NQC.masked_fill(~mask_QC, float("-inf"))
    weights_NQC = scores_NQC.softmax(dim=-1)
    out_QNH = torch.einsum("nqc,cnh->qnh", weights_NQC, v_CNH.float())
    return out_QNH.to(q_QNH.dtype)
