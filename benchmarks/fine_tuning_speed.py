"""Bar 9: fine-tuning a language model of 30 million parameters on rows of very different lengths.

A Llama shape with random weights; batches of 16 rows of 32 to 512 tokens, all of them targets;
AdamW at one rate, gradients clipped, the same rows in the same batches for everybody; all weights,
and LoRA of rank 16 from one start, in float32. Counted are useful tokens (those that are predicted,
padding apart) per second, and the peak memory of each process. The peers are
`transformers.Trainer` and the shortest loop by hand over the product's own parts; `fine_tuning_trl`
has TRL.
"""

import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.fine_tuning_subject import BETAS, CLIP_NORM, RATE
from benchmarks.harness import Ratio, Report, paired, publish
from benchmarks.peers import trl
from benchmarks.quick import is_quick
from benchmarks.subjects import Subject, loss_gap
from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.models.lora import inject, save_adapter
from purvey.models.weights import load_folder

THREADS = os.cpu_count() or 1
BATCH, STEPS, ROUNDS, ROWS = (2, 1, 1, 16) if is_quick() else (16, 2, 3, 512)
SHORTEST, LONGEST = 32, 512
OF_TRAINER, OF_HAND, BEYOND = 2.0, 0.98, 3.0
LARGEST_LOSS_GAP = 0.005
ADAPTER = LoraConfig(rank=16, alpha=32.0)
PEERS: dict[str, float] = {"transformers": OF_TRAINER, "hand": OF_HAND}
"""The least ratio to each."""
METHODS = ("full", "lora")
SHAPE: dict[str, Any] = {
    "vocab_size": 1_024 if is_quick() else 16_384,
    "hidden_size": 512,
    "intermediate_size": 1_408,
    "num_hidden_layers": 1 if is_quick() else 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}


def main() -> int:
    """Measure and publish; correct only if all subjects have the same losses."""
    return compare_with(
        PEERS, METHODS, bar="fine_tuning_speed", workload=__doc__.split("\n\n")[1], notes=[]
    )


def compare_with(
    peers: Mapping[str, float],
    methods: Sequence[str],
    *,
    bar: str,
    workload: str,
    notes: Sequence[str],
) -> int:
    """Measure against peers, and publish; return the exit status.

    Args:
        peers: The least ratio to each.
        methods: Of `METHODS`.
        bar: What is published.
        workload: In words.
        notes: What a reader must know beside.
    """
    figures: dict[str, Any] = {}
    is_sound, is_met, is_beyond = True, True, True
    with tempfile.TemporaryDirectory() as name:
        _write_start(Path(name))
        for method in methods:
            for peer, least in peers.items():
                print(f"{method} / {peer} ...", file=sys.stderr, flush=True)
                ratio, told = _compare(peer, method, Path(name))
                figures[f"{method} / {peer}"] = ratio.figures() | told
                is_sound = is_sound and told["loss_gap"] <= LARGEST_LOSS_GAP
                is_met = is_met and ratio.median >= least
                is_beyond = is_beyond and (peer == "hand" or ratio.median >= BEYOND)
    verdict = ("met, beyond" if is_beyond else "met") if is_met else "missed"
    publish(
        Report(
            bar=bar,
            workload=workload.replace("\n", " "),
            target=", ".join(f">= {least} of {peer}" for peer, least in peers.items())
            + ", at equal loss",
            verdict=verdict if is_sound else "GATE FAILED",
            figures={**figures, "threads": THREADS},
            notes=[
                "`loss_gap` is the largest relative difference of the mean losses of equal steps.",
                *notes,
            ],
        )
    )
    return 0 if is_sound else 1


def _compare(peer: str, method: str, folder: Path) -> tuple[Ratio, dict[str, float]]:
    with ExitStack() as stack:
        ours, other = (
            stack.enter_context(_subject(name, method, folder)) for name in ("ours", peer)
        )
        ratio = paired(lambda: ours.rate(STEPS), lambda: other.rate(STEPS), rounds=ROUNDS)
        told = {
            "loss_gap": loss_gap(ours, other),
            "peak_mb": ours.peak_mb,
            "peer_peak_mb": other.peak_mb,
            "peak_ratio": ours.peak_mb / other.peak_mb,
        }
        return ratio, told


def _subject(name: str, method: str, folder: Path) -> Subject:
    options: dict[str, Any] = {
        "model": str(folder / "model"),
        "adapter": str(folder / "adapter") if method == "lora" else None,
        "rows": str(folder / "rows.json"),
        "work": str(folder / f"{name}-{method}"),
        "batch": BATCH,
        "threads": THREADS,
    }
    if name in ("ours", "hand"):
        given = {key: value for key, value in options.items() if value is not None}
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "benchmarks.fine_tuning_subject", name, *words]
    else:
        told = options | {"rate": RATE, "betas": BETAS, "clip_norm": CLIP_NORM}
        command = trl.command(name, told)
    return Subject(f"fine-tuning-{name}-{method}", command, threads=THREADS)


def _write_start(folder: Path) -> None:
    """Write the model, the adapter that LoRA starts from, and the rows."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    decoder = load_folder(folder / "model")
    inject(decoder, ADAPTER, generator=torch.Generator().manual_seed(0))
    save_adapter(decoder, folder / "adapter", ADAPTER, base_name="model")
    (folder / "rows.json").write_text(json.dumps(_rows()), encoding="ascii")


def _rows() -> list[list[int]]:
    """Return ragged rows of ids that follow Zipf's law a little."""
    chance = random.Random(0)  # noqa: S311 (a workload, not a secret)
    lengths = [chance.randint(SHORTEST, LONGEST) for _ in range(ROWS)]
    return [
        [int(SHAPE["vocab_size"] ** chance.random()) - 1 for _ in range(length)]
        for length in lengths
    ]


if __name__ == "__main__":
    sys.exit(main())
