"""Set up the named peers, or all: `python -m benchmarks.peers llama_cpp openvino`."""

import importlib
import sys

PEERS = ("llama_cpp", "openvino", "transformers_serve", "vllm_cpu", "peft", "litserve", "trl")


def main(names: list[str]) -> int:
    """Set up each peer; what is there already is left as it is."""
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        print(f"unknown peer {unknown[0]!r}; there are: {', '.join(PEERS)}", file=sys.stderr)
        return 2
    for name in names or PEERS:
        importlib.import_module(f"benchmarks.peers.{name}").setup()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
