"""Bar 1 for eight sequences that decode together, against llama.cpp and OpenVINO GenAI.

As for one sequence: 0.4 billion random weights, prompts of 128 random tokens new in each block, 64
greedy tokens each, two threads for everybody. Counted are the output tokens per second of all
sequences while each of them is decoding.
"""

import sys

from benchmarks.decode_peers import PAIRS, measure


def main() -> int:
    """Measure eight sequences in eight bits, and publish."""
    return measure(
        "decode_peers_batch",
        tuple(pair for pair in PAIRS if pair.precision == "int8"),
        sequences=8,
        decisive="int8",
        least=1.0,
        workload=__doc__.split("\n\n")[1].replace("\n", " "),
    )


if __name__ == "__main__":
    sys.exit(main())
