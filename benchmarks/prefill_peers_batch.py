"""Bar 3 for four 512-token prompts at once, against llama.cpp and OpenVINO GenAI.

As for one prompt: 0.4 billion random weights; prompts of random tokens new in each block; one
output token each; two threads for everybody. Counted are the prompt tokens of all four per second
up to the moment at which the last of them has its first token.
"""

import sys

from benchmarks.prefill_peers import measure


def main() -> int:
    """Measure four prompts at once in eight bits, and publish."""
    return measure("prefill_peers_batch", sequences=4, workload=__doc__)


if __name__ == "__main__":
    sys.exit(main())
