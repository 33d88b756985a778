"""Where a step's time goes on our side: the engine's loop in this process, under torch's profiler.

It is run beside the blocks, never during them: the profiler slows what it looks at.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.peers.model import model_folder
from benchmarks.peers.ours import ADAPTER_BYTES, KV_CACHE_BYTES, MAX_BATCH_TOKENS
from purvey.contracts.adapter import LoadAdapter
from purvey.contracts.deployment import Precision
from purvey.contracts.engine import Generate, LoadModel, TokenPrompt
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.models.language import load_language_model
from purvey.worker.compute import Place, place_of
from purvey.worker.resident_language import ResidentLanguage


def profiled(
    precision: Precision,
    prompts: Sequence[Sequence[int]],
    *,
    outputs: int,
    threads: int,
    top: int = 8,
    adapters: Sequence[Path] = (),
) -> list[str]:
    """Return the operators that take most of the loop's own time, one line each.

    Args:
        precision: What the base computes in.
        prompts: Tokens of each prompt; all are in one batch.
        outputs: Tokens to answer each with.
        threads: Threads of the loop.
        top: How many operators to tell.
        adapters: Folders of adapters, one for each prompt, or none.
    """
    torch.set_num_threads(threads)
    folder = model_folder()
    load = LoadModel(
        source=ModelSource(name="bench", folder=str(folder), digest=""),
        num_threads=threads,
        kv_cache_bytes=KV_CACHE_BYTES,
        max_batch_tokens=MAX_BATCH_TOKENS,
        precision=precision,
        adapter_bytes=ADAPTER_BYTES,
    )
    place = Place(is_cuda=False, chosen=place_of(load).chosen)
    resident = ResidentLanguage(load_language_model(folder), place, load)
    for folder in adapters:
        loading = LoadAdapter(request_id=folder.name, adapter=folder.name, folder=str(folder))
        resident.answer(loading, lambda _: None, lambda: None)
    for number, prompt in enumerate(prompts):
        request = Generate(
            request_id=f"profiled-{number}",
            prompt=TokenPrompt(tokens=tuple(prompt)),
            sampling=Sampling(temperature=0.0, max_tokens=outputs),
            adapter=adapters[number].name if adapters else "",
        )
        resident.answer(request, lambda _: None, lambda: None)
    resident.drain()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        resident.run()
    return _told(found, top)


def _told(found: profile, top: int) -> list[str]:
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return [
        f"profile: `{row.key}` {100 * row.self_cpu_time_total / total:.1f} % of operator time, "
        f"{row.count} calls, {row.self_cpu_time_total / row.count:.0f} us each"
        for row in rows[:top]
    ]
