"""Bar 5: eight adapters in one batch of eight, against the base's own batch and against PEFT.

A Llama shape of 0.4 billion random weights with eight adapters of rank 16 on every linear layer, as
PEFT writes them; eight prompts of 128 random tokens, an adapter each; 64 greedy tokens; two threads
for everybody. Counted are output tokens per second of all sequences after the first. An adapter's
numbers are read beside the base's in each step, so how many bytes they are is told too.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Report, paired, publish
from benchmarks.peers import peft
from benchmarks.peers.answer import from_child
from benchmarks.peers.calibration import calibrate
from benchmarks.peers.compare import BLOCK_SEED, GATE_SEED
from benchmarks.peers.gate import equal_outputs
from benchmarks.peers.model import token_prompts
from benchmarks.peers.ours import OurEngine
from benchmarks.peers.profile import profiled
from benchmarks.quick import is_quick
from purvey.contracts.deployment import Precision

COUNT = 8
THREADS = os.cpu_count() or 1
PROMPT, OUTPUTS, ROUNDS = (16, 4, 1) if is_quick() else (128, 64, 5)
LEAST_OF_BASE, LEAST_OF_PEFT = 0.88, 1.3
BYTES = (
    "`least` is the ratio of a step that does nothing but read: the base's weights, and then also "
    "all eight adapters, whose tables are bfloat16 beside int8 and float32 beside float32."
)


class Adapted:
    """Our engine with the adapters loaded. A context manager."""

    def __init__(self, precision: Precision) -> None:
        self.engine = OurEngine(precision, threads=THREADS)
        folders = peft.adapters(COUNT)
        self.names = [folder.name for folder in folders]
        self.num_bytes = sum(self.engine.load_adapter(f.name, f) for f in folders)
        self._asked = 0

    def tokens_per_s(self, names: Sequence[str]) -> float:
        """Decode one block of new prompts, an adapter each, or by the base alone."""
        self._asked += 1
        prompts = token_prompts(COUNT, PROMPT, seed=BLOCK_SEED + self._asked)
        return self.engine.generate(prompts, OUTPUTS, adapters=names).decoded_per_s

    def __enter__(self) -> "Adapted":
        return self

    def __exit__(self, *error: object) -> None:
        self.engine.__exit__(None, None, None)


def main() -> int:
    """Measure int8 and float32 against their bases, and float32 against PEFT, and publish."""
    limits = calibrate(threads=THREADS)
    figures: dict[str, Any] = {}
    for precision in ("int8", "fp32"):
        figures[f"{precision} / its base"] = _against_base(precision)
    figures["fp32 / PEFT"], is_sound = _against_peft()
    is_met = (
        figures["int8 / its base"]["ratio"] >= LEAST_OF_BASE
        and figures["fp32 / PEFT"]["ratio"] >= LEAST_OF_PEFT
    )
    publish(
        Report(
            bar="adapters_batch",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=f">= {LEAST_OF_BASE} of the base's batch (int8), >= {LEAST_OF_PEFT} of PEFT",
            verdict=("met" if is_met else "missed") if is_sound else "GATE FAILED",
            figures={**figures, "limits": asdict(limits), "threads": THREADS},
            notes=[BYTES, *_profile()],
        )
    )
    return 0 if is_sound else 1


def _profile() -> list[str]:
    prompts = token_prompts(COUNT, PROMPT, seed=BLOCK_SEED)
    return profiled(
        "int8", prompts, outputs=OUTPUTS, threads=THREADS, adapters=peft.adapters(COUNT)
    )


def _against_base(precision: Precision) -> dict[str, Any]:
    print(f"{precision} / its base ...", file=sys.stderr, flush=True)
    with Adapted(precision) as ours:
        ratio = paired(
            lambda: ours.tokens_per_s(ours.names), lambda: ours.tokens_per_s(()), rounds=ROUNDS
        )
        weights = ours.engine.weights_bytes
        return ratio.figures() | {
            "adapters_mb": ours.num_bytes / 1e6,
            "weights_mb": weights / 1e6,
            "least": weights / (weights + ours.num_bytes),
        }


def _against_peft() -> tuple[dict[str, Any], bool]:
    """Compare in float32: tokens of the gate's prompts, then speed."""
    print("fp32 / PEFT ...", file=sys.stderr, flush=True)
    with Adapted("fp32") as ours, peft.engine("float32", threads=THREADS, count=COUNT) as child:
        order = list(range(COUNT))
        prompts = token_prompts(COUNT, PROMPT, seed=GATE_SEED)
        theirs = child.ask(prompts=prompts, max_tokens=OUTPUTS, adapters=order)
        own = ours.engine.generate(prompts, OUTPUTS, with_ids=True, adapters=ours.names)
        equal = equal_outputs(own.tokens, theirs["tokens"])
        asked = BLOCK_SEED

        def of_peer() -> float:
            nonlocal asked
            asked += 1
            given = token_prompts(COUNT, PROMPT, seed=asked)
            answer = child.ask(prompts=given, max_tokens=OUTPUTS, adapters=order)
            return from_child(answer, COUNT, OUTPUTS).decoded_per_s

        ratio = paired(lambda: ours.tokens_per_s(ours.names), of_peer, rounds=ROUNDS)
    is_sound = equal >= COUNT - 1  # one near-tie may decide a token of random weights
    return ratio.figures() | {"gate": {"equal_outputs": equal, "of": COUNT}}, is_sound


if __name__ == "__main__":
    sys.exit(main())
