"""Bar 2 in float32, against `transformers serve`, which has no eight bits.

As against llama-server: sixteen texts of 128 tokens at once to `/v1/completions`, 64 greedy tokens
each, two threads for either engine. The peer runs with continuous batching, its own way of serving
many streams.
"""

import sys
from functools import partial

from benchmarks.peers import transformers_serve
from benchmarks.serving_peers import THREADS, Rival, measure

TRANSFORMERS = Rival(
    precision="fp32",
    peer="transformers serve float32",
    start=partial(transformers_serve.server, "float32", threads=THREADS, is_batched=True),
    extra={},
)


def main() -> int:
    """Measure against `transformers serve`, and publish."""
    return measure(
        "serving_peers_float",
        (TRANSFORMERS,),
        workload=__doc__.split("\n\n")[1].replace("\n", " "),
    )


if __name__ == "__main__":
    sys.exit(main())
