"""Bar 16, its smaller model: decoding one sequence in four bits, against llama.cpp q4_0.

0.4 billion random weights, a prompt of 128 random tokens new in each block, 64 greedy tokens, two
threads for both. llama.cpp keeps the tied head in 6 bits (its own choice for q4_0).
"""

import sys
from functools import partial

from benchmarks.decode_peers import THREADS, measure
from benchmarks.peers import llama_cpp
from benchmarks.peers.compare import Pair

PAIR = Pair(
    precision="int4",
    peer="llama.cpp q4_0",
    start=partial(llama_cpp.engine, "q4_0", threads=THREADS),
)


def main() -> int:
    """Measure one sequence in four bits, and publish."""
    return measure(
        "decode_peers_4bit",
        (PAIR,),
        sequences=1,
        decisive="int4",
        least=0.9,
        workload=__doc__.split("\n\n")[1].replace("\n", " "),
    )


if __name__ == "__main__":
    sys.exit(main())
