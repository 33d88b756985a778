"""Bar 9: fine-tuning a language model of 30 million parameters on rows of very different lengths.

A Llama shape with random weights; batches of 16 rows of 32 to 512 tokens, all of them targets;
AdamW at one rate, gradients clipped, the same rows in the same batches for everybody; all weights
and LoRA of rank 16, in float32. Counted are useful tokens (those that are predicted, padding apart)
per second, and the peak memory of each process. The peers are `transformers.Trainer`, and the
shortest loop by hand over the product's own parts.
"""

import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.harness import ROOT, Ratio, Report, paired, publish
from benchmarks.peers.cache import child_environment
from benchmarks.peers.child import JsonChild
from benchmarks.quick import is_quick

THREADS = os.cpu_count() or 1
BATCH, STEPS, ROUNDS, ROWS = (2, 1, 1, 16) if is_quick() else (16, 2, 3, 512)
OF_TRAINER, OF_HAND, BEYOND = 2.0, 0.98, 3.0
LARGEST_LOSS_GAP = 0.005
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


class Subject:
    """A process that fine-tunes. A context manager."""

    def __init__(self, name: str, method: str, folder: Path) -> None:
        options = {
            "folder": folder / "model",
            "work": folder / f"{name}-{method}",
            "batch": BATCH,
            "threads": THREADS,
            "rows": ROWS,
            "method": method,
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "benchmarks.fine_tuning_subject", name, *words]
        environment = child_environment(THREADS, {"PYTHONPATH": str(ROOT)})
        self._child = JsonChild(f"fine-tuning-{name}-{method}", command, environment)
        self.losses: list[float] = []
        self.peak_mb = 0.0

    def tokens_per_s(self) -> float:
        """Train some steps further and return useful tokens per second."""
        answer = self._child.ask(steps=STEPS)
        self.losses.append(answer["loss"])
        self.peak_mb = answer["peak_mb"]
        return float(answer["tokens"] / answer["seconds"])

    def __enter__(self) -> "Subject":
        self._child.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._child.__exit__(None, None, None)


def main() -> int:
    """Measure and publish; correct only if all subjects have the same losses."""
    figures: dict[str, Any] = {}
    is_sound, is_met, is_beyond = True, True, True
    with tempfile.TemporaryDirectory() as name:
        _write_model(Path(name) / "model")
        for method in ("full", "lora"):
            for peer, least in (("transformers", OF_TRAINER), ("hand", OF_HAND)):
                print(f"{method} / {peer} ...", file=sys.stderr, flush=True)
                ratio, gap, memory = _compare(peer, method, Path(name))
                figures[f"{method} / {peer}"] = ratio.figures() | memory | {"loss_gap": gap}
                is_sound = is_sound and (gap <= LARGEST_LOSS_GAP or method == "lora")
                is_met = is_met and ratio.median >= least
                is_beyond = is_beyond and (peer == "hand" or ratio.median >= BEYOND)
    verdict = ("met, beyond" if is_beyond else "met") if is_met else "missed"
    publish(
        Report(
            bar="fine_tuning_speed",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=f">= {OF_TRAINER} of Trainer, >= {OF_HAND} of the loop by hand, at equal loss",
            verdict=verdict if is_sound else "GATE FAILED",
            figures={**figures, "threads": THREADS},
            notes=[
                "`loss_gap` is the relative difference of the mean losses of equal steps.",
                "LoRA's fresh matrices are drawn by each library for itself; its losses are told.",
            ],
        )
    )
    return 0 if is_sound else 1


def _compare(peer: str, method: str, folder: Path) -> tuple[Ratio, float, dict[str, float]]:
    with ExitStack() as stack:
        ours = stack.enter_context(Subject("ours", method, folder))
        other = stack.enter_context(Subject(peer, method, folder))
        ratio = paired(ours.tokens_per_s, other.tokens_per_s, rounds=ROUNDS)
        gap = abs(statistics.mean(ours.losses) / statistics.mean(other.losses) - 1)
        memory = {
            "peak_mb": ours.peak_mb,
            "peer_peak_mb": other.peak_mb,
            "peak_ratio": ours.peak_mb / other.peak_mb,
        }
        return ratio, gap, memory


def _write_model(folder: Path) -> None:
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
