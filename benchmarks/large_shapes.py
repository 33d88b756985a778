"""Large shapes on one machine: what they take to load and to answer, and that they do.

A Llama shape of 1.5 billion weights in 8 bits, and one of 3 billion in 4 bits with a cache for
4,096 positions: random weights in bfloat16, sharded, written once. Each is loaded by an engine
process and asked for a few tokens behind a prompt that fills the cache; told are its own
arithmetic and the kernel's high-water mark. To pass, each stays within 24 GiB.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.harness import Report, publish
from purvey.contracts.deployment import Precision
from purvey.contracts.engine import Finished, Generate, LoadModel, TokenPrompt
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.client import LocalEngineLauncher
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.families import to_hf
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import CONFIG_NAME, INDEX_NAME, their_name

LIMIT_BYTES = 24 * 2**30
SHARD_BYTES = 2**30
OUTPUT = 4
_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, what it is served in, and the positions that its cache holds."""

    name: str
    precision: Precision
    positions: int
    config: DecoderConfig


SHAPES = (
    Shape(
        name="1.5B",
        precision="int8",
        positions=2_048,
        config=DecoderConfig(
            vocabulary_size=32_000,
            hidden_size=2_048,
            mlp_size=8_192,
            num_layers=24,
            num_heads=32,
            num_kv_heads=8,
            head_size=64,
            context_tokens=4_096,
        ),
    ),
    Shape(
        name="3B",
        precision="int4",
        positions=4_096,
        config=DecoderConfig(
            vocabulary_size=128_256,
            hidden_size=3_072,
            mlp_size=8_192,
            num_layers=28,
            num_heads=24,
            num_kv_heads=8,
            head_size=128,
            context_tokens=4_096,
        ),
    ),
)


def main() -> int:
    """Load each shape, have it answer, publish."""
    kept = os.environ.get("PURVEY_BENCH_MODELS")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(kept or scratch)
        found = {shape.name: asyncio.run(_served(shape, root / shape.name)) for shape in SHAPES}
    is_met = all(
        one["peak_bytes"] <= LIMIT_BYTES and one["tokens"] == OUTPUT for one in found.values()
    )
    publish(
        Report(
            bar="large_shapes",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target="each loads and answers within 24 GiB",
            verdict="met" if is_met else "missed",
            figures=found,
            notes=[f"Weights are kept in PURVEY_BENCH_MODELS where that is set: {bool(kept)}."],
        )
    )
    return 0 if is_met else 1


async def _served(shape: Shape, folder: Path) -> dict[str, Any]:
    if not (folder / INDEX_NAME).is_file():
        _write(shape.config, folder)
    config = shape.config
    per_position = 2 * config.num_layers * config.num_kv_heads * config.head_size * _FLOAT_BYTES
    load = LoadModel(
        source=ModelSource(name=shape.name, folder=str(folder), digest=""),
        num_threads=os.cpu_count() or 1,
        kv_cache_bytes=shape.positions * per_position,
        max_batch_tokens=512,
        precision=shape.precision,
    )
    start = time.perf_counter()
    engine = await LocalEngineLauncher(cwd=folder).launch(load)
    loaded_s = time.perf_counter() - start
    tokens, prompt_tokens = 0, shape.positions - OUTPUT
    request = Generate(
        request_id="bench",
        prompt=TokenPrompt(tokens=tuple(range(10, 10 + prompt_tokens))),
        sampling=Sampling(temperature=0.0, max_tokens=OUTPUT),
    )
    start = time.perf_counter()
    async for event in engine.generate(request):
        if isinstance(event, Finished):
            tokens = event.completion_tokens
    answered_s = time.perf_counter() - start
    model, peak_bytes = engine.model, _peak_bytes(engine.pid)
    await engine.close(timeout_s=30)
    return {
        "precision": model.precision,
        "parameters": model.num_parameters,
        "weights_bytes": model.weights_bytes,
        "kv_cache_bytes": model.resident_bytes - model.weights_bytes,
        "workspace_bytes": model.workspace_bytes,
        "peak_bytes": peak_bytes,
        "load_s": round(loaded_s, 1),
        "answer_s": round(answered_s, 2),
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
    }


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmHWM"))


def _write(config: DecoderConfig, folder: Path) -> None:
    """Write a sharded folder; matrices are views of one pool of random numbers, each elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Decoder(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    largest = max(shape.numel() for shape in shapes.values())
    pool = torch.randn(largest + 4_096, generator=generator).mul_(0.02).bfloat16()
    placed: dict[str, str] = {}
    for number, shard in enumerate(_shards(shapes, pool)):
        file = f"model-{number:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(shard, file)
    (folder / CONFIG_NAME).write_text(json.dumps(to_hf(config)), encoding="utf-8")
    Tokenizer.train(["one two three four"], vocabulary_size=280).save(folder)
    index = json.dumps({"metadata": {}, "weight_map": placed})
    (folder / INDEX_NAME).write_text(index, encoding="utf-8")  # last: it says that all is there


def _shards(shapes: dict[str, torch.Size], pool: Tensor) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        first = number * 61 % 4_096
        values = pool[first : first + shape.numel()].clone().view(shape)
        shard[their_name(name)] = values if len(shape) > 1 else torch.ones(shape).bfloat16()
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


if __name__ == "__main__":
    sys.exit(main())
