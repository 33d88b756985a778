"""Bar 1: decoding one sequence, against llama.cpp and OpenVINO GenAI.

A Llama shape of 0.4 billion random weights, the same in every file; a prompt of 128 random tokens,
new in each block; 64 greedy tokens; two threads for everybody. Counted are output tokens per second
after the first. Ours crosses to an engine process and back; the peers are called in their own.
"""

import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, publish
from benchmarks.peers import llama_cpp, openvino
from benchmarks.peers.calibration import Limits, calibrate
from benchmarks.peers.compare import GATE_SEED, Block, Outcome, Pair, compare
from benchmarks.peers.gate import consult
from benchmarks.peers.model import token_prompts
from benchmarks.peers.profile import profiled
from benchmarks.quick import is_quick

PROMPT, OUTPUT = 128, 64
THREADS = os.cpu_count() or 1
NO_BF16 = "bf16 is not measured: this processor multiplies none, and `auto` never takes it here."
PAIRS = (
    Pair(
        precision="int8",
        peer="llama.cpp q8_0",
        start=partial(llama_cpp.engine, "q8_0", threads=THREADS),
    ),
    Pair(
        precision="int8",
        peer="OpenVINO GenAI int8",
        start=partial(openvino.engine, "int8", threads=THREADS),
    ),
    Pair(
        precision="bf16",
        peer="llama.cpp bf16",
        start=partial(llama_cpp.engine, "bf16", threads=THREADS),
    ),
    Pair(
        precision="fp32",
        peer="llama.cpp f32",
        start=partial(llama_cpp.engine, "f32", threads=THREADS),
        is_exact=True,
    ),
)


def main() -> int:
    """Measure one sequence in every precision, and publish."""
    has_bf16 = "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return measure(
        "decode_peers",
        tuple(pair for pair in PAIRS if has_bf16 or pair.precision != "bf16"),
        sequences=1,
        decisive="int8",
        least=0.95,
        workload=__doc__.split("\n\n")[1].replace("\n", " "),
        notes=() if has_bf16 else (NO_BF16,),
    )


def measure(
    bar: str,
    pairs: tuple[Pair, ...],
    *,
    sequences: int,
    decisive: str,
    least: float,
    workload: str,
    notes: tuple[str, ...] = (),
) -> int:
    """Measure decoding of so many sequences against each peer, and publish.

    Args:
        bar: The report's name.
        pairs: Who is compared.
        sequences: Sequences that decode together.
        decisive: The precision whose every pair must reach `least`.
        least: Ratio of ours to the peer's tokens per second.
        workload: What the report says was run.
        notes: What else it says.
    """
    quick = is_quick()
    prompt, outputs, rounds = (16, 4, 1) if quick else (PROMPT, OUTPUT, 5)
    oracle = consult(
        token_prompts(4, prompt, seed=GATE_SEED), outputs=3 if quick else 16, threads=THREADS
    )
    before = calibrate(threads=THREADS)
    block = Block(
        sequences=sequences,
        prompt_tokens=prompt,
        outputs=outputs,
        figure=lambda answer: answer.decoded_per_s,
    )
    found = {pair: compare(pair, block, oracle, threads=THREADS, rounds=rounds) for pair in pairs}
    after = calibrate(threads=THREADS)
    is_sound = all(outcome.passed for outcome in found.values())
    deciding = [one.ratio.median for pair, one in found.items() if pair.precision == decisive]
    is_met = min(deciding) >= least
    publish(
        Report(
            bar=bar,
            workload=workload,
            target=f"{decisive} >= {least} of every peer, output tokens per second",
            verdict=("met" if is_met else "missed") if is_sound else "GATE FAILED",
            figures={
                **{pair.name: _told(one, sequences, before) for pair, one in found.items()},
                "limits_before": asdict(before),
                "limits_after": asdict(after),
                "threads": THREADS,
                "quick": quick,
                "peers": f"llama-cpp-python {llama_cpp.VERSION}, openvino-genai 2026.4.1.0",
            },
            notes=[
                *notes,
                *profiled(
                    pairs[0].precision,
                    token_prompts(sequences, prompt, seed=GATE_SEED),
                    outputs=outputs,
                    threads=THREADS,
                ),
            ],
        )
    )
    return 0 if is_sound else 1


def _told(outcome: Outcome, sequences: int, limits: Limits) -> dict[str, Any]:
    told = outcome.figures()
    step_s = sequences / told["ours"]
    told["ours_step_ms"] = step_s * 1e3
    told["peer_step_ms"] = sequences / told["peer"] * 1e3
    told["ours_weights_mb"] = outcome.weights_bytes / 1e6
    told["ours_mbu"] = outcome.weights_bytes / step_s / 1e9 / limits.read_gb_s
    return told


if __name__ == "__main__":
    sys.exit(main())
