"""Decoding and prefill on a CUDA device: our engine's steps against the device's own limits.

Run as `python -m benchmarks.cuda_decode [1b|8b]`; prints one JSON line. Weights are random: speed
depends on shapes alone. Times are medians of device events; bandwidth and matmul rate are measured
in the same run. `transformers` decodes the same shape in the same precision as the peer.
"""

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from purvey.contracts.sampling import Sampling
from purvey.engine.batch import build_batch
from purvey.engine.blocks import BlockId
from purvey.engine.core import Core
from purvey.engine.cuda.cache import CudaCache
from purvey.engine.cuda.decoder import CudaDecoder
from purvey.engine.cuda.runner import CudaRunner
from purvey.engine.generation import Generation
from purvey.engine.request import Sequence
from purvey.models.config import DecoderConfig, Rope
from purvey.models.decoder import Decoder
from purvey.models.tokenizer import Tokenizer

SHAPES = {
    "1b": DecoderConfig(
        vocabulary_size=128_256,
        hidden_size=2_048,
        mlp_size=8_192,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_size=64,
        context_tokens=4_096,
        rope=Rope(theta=500_000.0),
    ),
    "8b": DecoderConfig(
        vocabulary_size=128_256,
        hidden_size=4_096,
        mlp_size=14_336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_size=128,
        context_tokens=4_096,
        rope=Rope(theta=500_000.0),
        is_tied=False,
    ),
}
PROMPT, OUTPUT = 128, 64


def main(shape: str = "1b") -> None:
    """Measure one shape."""
    config, device = SHAPES[shape], torch.device("cuda")
    told: dict[str, object] = {"bar": "cuda decode", "shape": shape}
    told["device"] = torch.cuda.get_device_name()
    told["bandwidth_gb_s"], told["matmul_tflop_s"] = _limits(device)
    theirs = _theirs(config)
    decoder = CudaDecoder(
        _random(config, device), dtype=torch.bfloat16, device=device, max_positions=4_096
    )
    cache = CudaCache(config, num_blocks=2_048, dtype=torch.bfloat16, device=device)
    runner = CudaRunner(decoder, cache, max_positions=4_096)
    for size in (1, 8, 64):
        step_s = _step_s(runner, config, size)
        moved = _bytes(decoder, config, size)
        told[f"step_ms_{size}"] = round(step_s * 1e3, 3)
        told[f"mbu_{size}"] = round(moved / step_s / 1e9 / float(str(told["bandwidth_gb_s"])), 3)
    told["prefill_512_ms"] = round(_prefill_s(runner, config, 512) * 1e3, 3)
    told["prefill_2048_ms"] = round(_prefill_s(runner, config, 2_048) * 1e3, 3)
    for size in (1, 64):
        told[f"engine_tok_s_{size}"] = round(_engine_rate(runner, config, size), 1)
    del decoder, cache, runner
    torch.cuda.empty_cache()
    told |= theirs
    sys.stdout.write(json.dumps(told) + "\n")


def _random(config: DecoderConfig, device: torch.device) -> Decoder:
    torch.set_default_dtype(torch.bfloat16)
    with device:
        decoder = Decoder(config)
        decoder.reset_parameters()
    torch.set_default_dtype(torch.float32)
    return decoder.eval()


def _limits(device: torch.device) -> tuple[float, float]:
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = _timed(lambda: target.copy_(source))
    a = torch.randn(8_192, 8_192, dtype=torch.bfloat16, device=device)
    matmul_s = _timed(lambda: a @ a)
    return round(2 * 2**30 / copy_s / 1e9, 1), round(2 * 8_192**3 / matmul_s / 1e12, 1)


def _timed(work: Callable[[], object], *, repeats: int = 20, warm_up: int = 5) -> float:
    times = []
    for number in range(warm_up + repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if number >= warm_up:
            times.append(begin.elapsed_time(end) / 1e3)
    return median(times)


def _sequences(config: DecoderConfig, count: int, length: int) -> list[Sequence]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        tokens: list[int] = torch.randint(
            0, config.vocabulary_size, (length,), generator=generator
        ).tolist()
        sequence = Sequence(
            request_id=f"r{number}", tokens=tokens, num_prompt=PROMPT, max_new_tokens=4_000
        )
        num_blocks = 2_048 // max(count, 1)
        sequence.blocks = [BlockId(number * num_blocks + i) for i in range(min(num_blocks, 256))]
        found.append(sequence)
    return found


def _step_s(runner: CudaRunner, config: DecoderConfig, count: int) -> float:
    """Time a step of outputs as the engine makes it, from the host's lists to logits there."""
    sequences = _sequences(config, count, PROMPT + 2)
    for sequence in sequences:
        sequence.num_cached = PROMPT + 1
    times = []
    for _ in range(30):
        batch = build_batch([(sequence, 1) for sequence in sequences], runner.cache)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        runner.run(batch)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return median(times[5:])


def _prefill_s(runner: CudaRunner, config: DecoderConfig, length: int) -> float:
    (sequence,) = _sequences(config, 1, length)
    sequence.num_prompt = length
    times = []
    for _ in range(8):
        batch = build_batch([(sequence, length)], runner.cache)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        runner.run(batch)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return median(times[3:])


def _bytes(decoder: CudaDecoder, config: DecoderConfig, count: int) -> float:
    kv = 2 * config.num_layers * config.num_kv_heads * config.head_size * 2 * (PROMPT + 2)
    return decoder.num_bytes - (0 if config.is_tied else decoder.num_embedding_bytes) + count * kv


def _engine_rate(runner: CudaRunner, config: DecoderConfig, count: int) -> float:
    """Return output tokens a second of the whole loop, prompts included."""
    tokenizer = Tokenizer.train(["a b c"], vocabulary_size=264)
    for _ in range(2):  # the second is warm
        core = Core(runner, max_batch_tokens=2_048)
        for sequence in _sequences(config, count, PROMPT):
            sequence.blocks, sequence.max_new_tokens = [], OUTPUT
            sequence.sampling = Sampling(temperature=0.0)
            core.submit(
                Generation(
                    sequence, tokenizer=tokenizer, stop_ids=frozenset(), reply=lambda _: None
                )
            )
        begin = time.perf_counter()
        while core.step():
            pass
        rate = count * OUTPUT / (time.perf_counter() - begin)
    return rate


def _theirs(config: DecoderConfig) -> dict[str, object]:
    """Measure `transformers.generate` with SDPA, eager and with a static compiled cache."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from purvey.models.families import to_hf

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**{**to_hf(config), "eos_token_id": None, "bos_token_id": None}),
            attn_implementation="sdpa",
        ).eval()
    torch.set_default_dtype(torch.float32)
    told: dict[str, object] = {}
    for count in (1, 64):
        ids_BT = torch.randint(0, config.vocabulary_size, (count, PROMPT), device="cuda")
        told[f"transformers_tok_s_{count}"] = round(_generate_rate(model, ids_BT), 1)
    try:
        ids_BT = torch.randint(0, config.vocabulary_size, (1, PROMPT), device="cuda")
        rate = _generate_rate(model, ids_BT, cache_implementation="static")
        told["transformers_static_compiled_tok_s_1"] = round(rate, 1)
    except Exception as error:  # noqa: BLE001 (the peer's own limits are part of the report)
        told["transformers_static_compiled_tok_s_1"] = repr(error)[:200]
    del model
    torch.cuda.empty_cache()
    return told


@torch.inference_mode()
def _generate_rate(model: object, ids_BT: Tensor, **options: object) -> float:
    rate = 0.0
    for _ in range(3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(  # type: ignore[attr-defined]
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=OUTPUT,
            min_new_tokens=OUTPUT,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
        torch.cuda.synchronize()
        rate = ids_BT.shape[0] * OUTPUT / (time.perf_counter() - begin)
    return rate


if __name__ == "__main__":
    main(*sys.argv[1:])
