"""The device code. Each kernel gives a row the same bits whatever the other rows are.

A row's sums are taken in one order that depends on its own position and on the model's shape
alone: tiles have constant sizes, and work that is split is split at constant places and added up
in order. Launchers with checked shapes are in the modules beside this one.

Names: `*_ptr` are tensors, contiguous in the order that the launcher states; upper-case
parameters are compile-time constants.
"""

import triton
import triton.language as tl


@triton.jit
def linear_partials(
    x_ptr,  # rows x num_in
    w_ptr,  # num_out x num_in
    partials_ptr,  # splits x rows x num_out, float32
    num_rows,
    num_out,
    num_in,
    split_size,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Multiply rows with weights over one split of the inputs."""
    split = tl.program_id(2)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outs = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    first = split * split_size
    last = tl.minimum(first + split_size, num_in)
    ins = tl.arange(0, BLOCK_K)
    x_at = x_ptr + rows[:, None].to(tl.int64) * num_in + ins[None, :]
    w_at = w_ptr + outs[None, :] * num_in + ins[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(first, last, BLOCK_K):
        is_in = start + ins < last
        x = tl.load(x_at + start, mask=(rows[:, None] < num_rows) & is_in[None, :], other=0.0)
        w = tl.load(w_at + start, mask=(outs[None, :] < num_out) & is_in[:, None], other=0.0)
        sums = tl.dot(x, w, sums, input_precision="ieee")
    base = partials_ptr + split.to(tl.int64) * num_rows * num_out
    at = base + rows[:, None].to(tl.int64) * num_out + outs[None, :]
    tl.store(at, sums, mask=(rows[:, None] < num_rows) & (outs[None, :] < num_out))


@triton.jit
def _added(partials_ptr, offsets, mask, step, NUM_SPLITS: tl.constexpr):
    """Add up the splits of a linear layer, first to last."""
    total = tl.load(partials_ptr + offsets, mask=mask, other=0.0)
    for split in tl.static_range(1, NUM_SPLITS):
        total += tl.load(partials_ptr + split * step + offsets, mask=mask, other=0.0)
    return total


@triton.jit
def _normalised(x, gain, size, epsilon):
    return x * tl.rsqrt(tl.sum(x * x, axis=0) / size + epsilon) * gain


@triton.jit
def add_and_normalise(
    stream_ptr,  # rows x size, float32, updated
    partials_ptr,  # splits x rows x size
    bias_ptr,
    output_gain_ptr,
    gain_ptr,
    normed_ptr,  # rows x size
    num_rows,
    size,
    epsilon,
    NUM_SPLITS: tl.constexpr,  # 0: nothing is added
    HAS_BIAS: tl.constexpr,
    HAS_OUTPUT_NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add a layer's output to the stream, then write the stream's normalised copy."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    mask = places < size
    x = tl.load(stream_ptr + row * size + places, mask=mask, other=0.0)
    if NUM_SPLITS > 0:
        step = tl.full((), size, tl.int64) * num_rows
        added = _added(partials_ptr, row * size + places, mask, step, NUM_SPLITS)
        if HAS_BIAS:
            added += tl.load(bias_ptr + places, mask=mask, other=0.0)
        if HAS_OUTPUT_NORM:
            output_gain = tl.load(output_gain_ptr + places, mask=mask, other=0.0)
            added = _normalised(added, output_gain, size, epsilon)
        x += added
        tl.store(stream_ptr + row * size + places, x, mask=mask)
    gain = tl.load(gain_ptr + places, mask=mask, other=0.0)
    normed = _normalised(x, gain, size, epsilon)
    tl.store(normed_ptr + row * size + places, normed.to(normed_ptr.dtype.element_ty), mask=mask)


@triton.jit
def rotate_and_store(
    partials_ptr,  # splits x rows x (heads x head size)
    bias_ptr,
    query_gain_ptr,
    key_gain_ptr,
    cos_ptr,  # positions x half a head
    sin_ptr,
    positions_ptr,
    slots_ptr,
    q_ptr,  # rows x query heads x head size
    k_ptr,  # key heads x slots x head size
    v_ptr,
    num_rows,
    num_slots,
    epsilon,
    NUM_SPLITS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_QK_NORM: tl.constexpr,
    HAS_ROTATION: tl.constexpr,
):
    """Finish one head of a joined projection: norm and rotation, then to its place."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    width: tl.constexpr = (NUM_HEADS + 2 * NUM_KV_HEADS) * 2 * HALF
    places = tl.arange(0, BLOCK)
    mask = places < HALF
    step = tl.full((), width, tl.int64) * num_rows
    offset = head * 2 * HALF + places
    left = _added(partials_ptr, row * width + offset, mask, step, NUM_SPLITS)
    right = _added(partials_ptr, row * width + offset + HALF, mask, step, NUM_SPLITS)
    if HAS_BIAS:
        left += tl.load(bias_ptr + offset, mask=mask, other=0.0)
        right += tl.load(bias_ptr + offset + HALF, mask=mask, other=0.0)
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    if HAS_QK_NORM and not is_value:
        gain_ptr = query_gain_ptr
        if head >= NUM_HEADS:
            gain_ptr = key_gain_ptr
        squares = tl.sum(left * left, axis=0) + tl.sum(right * right, axis=0)
        factor = tl.rsqrt(squares / (2 * HALF) + epsilon)
        left = left * factor * tl.load(gain_ptr + places, mask=mask, other=0.0)
        right = right * factor * tl.load(gain_ptr + HALF + places, mask=mask, other=0.0)
    if HAS_ROTATION and not is_value:
        position = tl.load(positions_ptr + row)
        cos = tl.load(cos_ptr + position * HALF + places, mask=mask, other=0.0)
        sin = tl.load(sin_ptr + position * HALF + places, mask=mask, other=0.0)
        turned = left * cos - right * sin
        right = right * cos + left * sin
        left = turned
    slot = tl.load(slots_ptr + row).to(tl.int64)
    if head < NUM_HEADS:
        out_ptr = q_ptr + (row * NUM_HEADS + head) * 2 * HALF
    elif is_value:
        pool = (head - NUM_HEADS - NUM_KV_HEADS).to(tl.int64) * num_slots
        out_ptr = v_ptr + (pool + slot) * 2 * HALF
    else:
        pool = (head - NUM_HEADS).to(tl.int64) * num_slots
        out_ptr = k_ptr + (pool + slot) * 2 * HALF
    tl.store(out_ptr + places, left.to(q_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + HALF + places, right.to(q_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def gate(
    partials_ptr,  # splits x rows x (gate, then up)
    bias_ptr,
    out_ptr,  # rows x size
    num_rows,
    size,
    NUM_SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_GELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Finish a joined gate and up projection: `activation(gate) * up`."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = places < size
    step = tl.full((), 2, tl.int64) * size * num_rows
    opened = _added(partials_ptr, row * 2 * size + places, mask, step, NUM_SPLITS)
    up = _added(partials_ptr, row * 2 * size + size + places, mask, step, NUM_SPLITS)
    if HAS_BIAS:
        opened += tl.load(bias_ptr + places, mask=mask, other=0.0)
        up += tl.load(bias_ptr + size + places, mask=mask, other=0.0)
    if IS_GELU:
        inner = 0.7978845608028654 * (opened + 0.044715 * opened * opened * opened)
        opened = 0.5 * opened * (1.0 + _tanh(inner))
    else:
        opened = opened * tl.sigmoid(opened)
    out = (opened * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * size + places, out, mask=mask)


@triton.jit
def _first_key(position, window, BLOCK_C: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """Return where the keys of a tile begin: what its first query sees, from a block's start."""
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(0, position - window + 1) // BLOCK_C * BLOCK_C
    return first


@triton.jit
def _is_seen(keys, positions, window, HAS_WINDOW: tl.constexpr):
    is_seen = keys[None, :] <= positions[:, None]
    if HAS_WINDOW:
        is_seen = is_seen & (keys[None, :] > positions[:, None] - window)
    return is_seen


@triton.jit
def attend(
    q_ptr,  # rows x query heads x head size
    k_ptr,  # key heads x slots x head size
    v_ptr,
    tiles_ptr,  # tiles x (first row, queries, first position, table's row)
    tables_ptr,  # sequences x blocks
    out_ptr,  # rows x query heads x head size, where there is one split
    parts_ptr,  # splits x rows x query heads x head size, float32, where there are more
    logsums_ptr,  # splits x rows x query heads
    num_rows,
    num_slots,
    table_size,
    split_size,
    scale,
    softcap,
    window,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    IS_SPLIT: tl.constexpr,
):
    """Attend one tile of queries of one key head to one split of what they see.

    The query heads of a group are further queries of their key head. Softmax runs in float32
    from the first key to the last (Milakov and Gimelshein 2018); keys that are masked change no
    bit.
    """
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first_row = tl.load(tiles_ptr + tile * 4)
    num_queries = tl.load(tiles_ptr + tile * 4 + 1)
    start = tl.load(tiles_ptr + tile * 4 + 2)
    table_ptr = tables_ptr + tl.load(tiles_ptr + tile * 4 + 3).to(tl.int64) * table_size
    begin = _first_key(start, window, BLOCK_C, HAS_WINDOW)
    end = start + num_queries
    if IS_SPLIT:
        begin = tl.maximum(begin, split * split_size)
        end = tl.minimum(end, (split + 1) * split_size)
    if begin >= end:
        return
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    x = tl.arange(0, BLOCK_X)
    rows = (first_row + x // group).to(tl.int64)
    heads = kv_head * group + x % group
    positions = start + x // group
    is_query = x // group < num_queries
    h = tl.arange(0, BLOCK_H)
    c = tl.arange(0, BLOCK_C)
    is_h = h < HEAD_SIZE
    q_at = (rows * NUM_HEADS + heads)[:, None] * HEAD_SIZE + h[None, :]
    q_mask = is_query[:, None] & is_h[None, :]
    q = tl.load(q_ptr + q_at, mask=q_mask, other=0.0)
    best = tl.full((BLOCK_X,), float("-inf"), dtype=tl.float32)
    mass = tl.zeros((BLOCK_X,), dtype=tl.float32)
    out = tl.zeros((BLOCK_X, BLOCK_H), dtype=tl.float32)
    pool = kv_head.to(tl.int64) * num_slots
    for first in range(begin, end, BLOCK_C):
        keys = first + c
        is_key = keys < end
        block = tl.load(table_ptr + keys // BLOCK_TOKENS, mask=is_key, other=0)
        slots = pool + block.to(tl.int64) * BLOCK_TOKENS + keys % BLOCK_TOKENS
        k_at = k_ptr + slots[None, :] * HEAD_SIZE + h[:, None]
        k = tl.load(k_at, mask=is_key[None, :] & is_h[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = softcap * _tanh(scores / softcap)
        is_seen = is_key[None, :] & _is_seen(keys, positions, window, HAS_WINDOW)
        scores = tl.where(is_seen, scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, axis=1))
        base = tl.where(new_best == float("-inf"), 0.0, new_best)
        kept = tl.exp(best - base)
        p = tl.exp(scores - base[:, None])
        v_at = v_ptr + slots[:, None] * HEAD_SIZE + h[None, :]
        v = tl.load(v_at, mask=is_key[:, None] & is_h[None, :], other=0.0)
        mass = mass * kept + tl.sum(p, axis=1)
        out = tl.dot(p.to(v.dtype), v, out * kept[:, None], input_precision="ieee")
        best = new_best
    out = out / tl.where(mass == 0.0, 1.0, mass)[:, None]
    if IS_SPLIT:
        part = split.to(tl.int64) * num_rows * NUM_HEADS
        tl.store(parts_ptr + part * HEAD_SIZE + q_at, out, mask=q_mask)
        logsum = tl.where(mass == 0.0, float("-inf"), best + tl.log(mass))
        tl.store(logsums_ptr + part + rows * NUM_HEADS + heads, logsum, mask=is_query)
    else:
        tl.store(out_ptr + q_at, out.to(out_ptr.dtype.element_ty), mask=q_mask)


@triton.jit
def combine(
    parts_ptr,  # splits x rows x query heads x head size
    logsums_ptr,  # splits x rows x query heads
    tiles_ptr,  # tiles of one query, as in `attend`
    out_ptr,  # rows x query heads x head size
    num_rows,
    split_size,
    window,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Weigh the splits of one head of one row by what they saw, first to last."""
    row = tl.load(tiles_ptr + tl.program_id(0) * 4).to(tl.int64)
    num_queries = tl.load(tiles_ptr + tl.program_id(0) * 4 + 1)
    position = tl.load(tiles_ptr + tl.program_id(0) * 4 + 2)
    if num_queries == 0:
        return
    head = tl.program_id(1)
    begin = _first_key(position, window, BLOCK_C, HAS_WINDOW)
    h = tl.arange(0, BLOCK_H)
    mask = h < HEAD_SIZE
    step = tl.full((), NUM_HEADS, tl.int64) * num_rows
    at = row * NUM_HEADS + head
    best = tl.full((), float("-inf"), dtype=tl.float32)
    mass = tl.zeros((), dtype=tl.float32)
    out = tl.zeros((BLOCK_H,), dtype=tl.float32)
    for split in range(begin // split_size, position // split_size + 1):
        logsum = tl.load(logsums_ptr + split * step + at)
        new_best = tl.maximum(best, logsum)
        base = tl.where(new_best == float("-inf"), 0.0, new_best)
        kept, weight = tl.exp(best - base), tl.exp(logsum - base)
        part = tl.load(parts_ptr + (split * step + at) * HEAD_SIZE + h, mask=mask, other=0.0)
        out = out * kept + part * weight
        mass = mass * kept + weight
        best = new_best
    out = out / tl.where(mass == 0.0, 1.0, mass)
    tl.store(out_ptr + at * HEAD_SIZE + h, out.to(out_ptr.dtype.element_ty), mask=mask)
