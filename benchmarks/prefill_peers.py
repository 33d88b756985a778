"""Bar 3: time to the first token of one 512-token prompt, against llama.cpp and OpenVINO GenAI.

0.4 billion random weights; prompts of random tokens new in each block, so that no cache knows them;
one output token; two threads for everybody. Counted are prompt tokens per second up to the moment
at which the last prompt has its first token: of one prompt, 512 over its time to first token.
"""

import os
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.decode_peers import PAIRS
from benchmarks.harness import Report, publish
from benchmarks.peers.answer import Answer
from benchmarks.peers.calibration import Limits, calibrate
from benchmarks.peers.compare import GATE_SEED, Block, Outcome, compare
from benchmarks.peers.gate import consult
from benchmarks.peers.model import token_prompts
from benchmarks.peers.profile import profiled
from benchmarks.quick import is_quick

PROMPT = 512
THREADS = os.cpu_count() or 1
LEAST = {"llama.cpp q8_0": 1.8, "OpenVINO GenAI int8": 0.95}
MULTIPLICATIONS = 2 * 398e6
"""Per prompt token, by weights; attention adds 6 % at this length."""


def main() -> int:
    """Measure one prompt in eight bits, where the bar is, and publish."""
    return measure("prefill_peers", sequences=1, workload=__doc__)


def measure(bar: str, *, sequences: int, workload: str) -> int:
    """Measure so many prompts at once against each peer, and publish."""
    quick = is_quick()
    length = 64 if quick else PROMPT
    oracle = consult(
        token_prompts(4, 16 if quick else 128, seed=GATE_SEED),
        outputs=2 if quick else 8,
        threads=THREADS,
    )
    limits = calibrate(threads=THREADS)
    block = _block(sequences, length)
    found = {
        pair: compare(pair, block, oracle, threads=THREADS, rounds=1 if quick else 5)
        for pair in PAIRS
        if pair.peer in LEAST
    }
    is_sound = all(one.passed for one in found.values())
    is_met = all(one.ratio.median >= LEAST[pair.peer] for pair, one in found.items())
    publish(
        Report(
            bar=bar,
            workload=workload.split("\n\n")[1].replace("\n", " ").strip(),
            target=f"ours over the peer's at least {LEAST}",
            verdict=("met" if is_met else "missed") if is_sound else "GATE FAILED",
            figures={
                **{pair.name: _told(one, block, limits) for pair, one in found.items()},
                "limits": asdict(limits),
                "threads": THREADS,
                "quick": quick,
            },
            notes=profiled(
                "int8", token_prompts(sequences, length, seed=GATE_SEED), outputs=1, threads=THREADS
            ),
        )
    )
    return 0 if is_sound else 1


def _block(sequences: int, length: int) -> Block:
    def rate(answer: Answer) -> float:
        return sequences * length / max(answer.first_s)

    return Block(sequences=sequences, prompt_tokens=length, outputs=1, figure=rate)


def _told(outcome: Outcome, block: Block, limits: Limits) -> dict[str, Any]:
    told = outcome.figures()
    tokens = block.sequences * block.prompt_tokens
    told["ours_first_token_ms"] = tokens / told["ours"] * 1e3
    told["peer_first_token_ms"] = tokens / told["peer"] * 1e3
    told["ours_mfu_of_fp32"] = told["ours"] * MULTIPLICATIONS / 1e9 / limits.matmul_gflop_s
    return told


if __name__ == "__main__":
    sys.exit(main())
