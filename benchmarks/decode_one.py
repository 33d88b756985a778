"""Bar 1, first cut: decoding one sequence, our engine process against `transformers.generate`.

The same random Llama weights in float32, a prompt of 128 tokens, 64 greedy tokens, one thread
count for both. Ours is the served path: tokens cross to an engine process and text comes back.
Tokens must be equal before a speed counts.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers

from benchmarks.harness import Report, paired, publish
from purvey.contracts.engine import Finished, Generate, LoadModel, TokenPrompt
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.client import LocalEngineLauncher
from purvey.models.tokenizer import Tokenizer

PROMPT, OUTPUT = 128, 64
SHAPE = {
    "vocab_size": 8_192,
    "hidden_size": 512,
    "intermediate_size": 1_408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def main() -> int:
    """Measure and publish; the ratio is ours over the peer's tokens per second."""
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    prompt = torch.randint(3, SHAPE["vocab_size"], (PROMPT,), generator=_generator()).tolist()
    with tempfile.TemporaryDirectory() as folder:
        model = _write(Path(folder))
        with asyncio.Runner() as runner:
            engine = runner.run(_launch(Path(folder), threads))
            is_equal = runner.run(_tokens(engine, prompt)) == _peer_tokens(model, prompt)
            ratio = paired(
                lambda: OUTPUT / _timed(lambda: runner.run(_tokens(engine, prompt))),
                lambda: OUTPUT / _timed(lambda: _peer_tokens(model, prompt)),
                rounds=7,
            )
            runner.run(engine.close(timeout_s=10))
    verdict = "met" if ratio.low >= 1 else "missed"
    publish(
        Report(
            bar="decode_one",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=">= 1.0 x transformers.generate in float32, prefill included",
            verdict=verdict if is_equal else "TOKENS DIFFER",
            figures={
                "ratio": ratio.median,
                "ratio_95": [ratio.low, ratio.high],
                "ours_tokens_per_s": ratio.ours,
                "peer_tokens_per_s": ratio.peer,
                "rounds": ratio.rounds,
                "discarded_rounds": ratio.discarded,
                "threads": threads,
                "peer": f"transformers {transformers.__version__}, torch {torch.__version__}",
            },
            notes=["llama.cpp and OpenVINO, the bar's real peers, follow with the fast engine."],
        )
    )
    return 0 if is_equal else 1


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _write(folder: Path) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, bos_token_id=0, eos_token_id=1)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # spread the logits, so that no near-tie decides
        model.model.embed_tokens.weight.mul_(10)
    model.save_pretrained(folder)
    Tokenizer.train(topics.values(), vocabulary_size=SHAPE["vocab_size"]).save(folder)
    return model


async def _launch(folder: Path, threads: int) -> Any:
    source = ModelSource(name="bench", folder=str(folder), digest="")
    load = LoadModel(source=source, num_threads=threads, kv_cache_bytes=2**28, max_batch_tokens=512)
    return await LocalEngineLauncher(cwd=folder).launch(load)


async def _tokens(engine: Any, prompt: list[int]) -> list[int]:
    request = Generate(
        request_id="bench",
        prompt=TokenPrompt(tokens=tuple(prompt)),
        sampling=Sampling(temperature=0.0, max_tokens=OUTPUT, num_logprobs=0),
    )
    tokens: list[int] = []
    async for event in engine.generate(request):
        if isinstance(event, Finished):
            break
        tokens += [token.token_id for token in getattr(event, "tokens", ())]
    return tokens


def _peer_tokens(model: Any, prompt: list[int]) -> list[int]:
    inputs = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=OUTPUT,
            do_sample=False,
            pad_token_id=1,
        )
    generated: list[int] = out[0, PROMPT:].tolist()
    return generated


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
