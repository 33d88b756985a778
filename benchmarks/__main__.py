"""Run the named bars, or all of them, one after the other; `--quick` only tries their path."""

import importlib
import sys

from benchmarks.quick import FLAG

BARS = (
    "adapters_batch",
    "checkpoint_stall",
    "cold_start",
    "control_plane_start",
    "decode_one",
    "durable_metering",
    "fine_tuning_speed",
    "fine_tuning_trl",
    "training_tasks_speed",
    "large_shapes",
    "ranks",
    "linear_kernels",
    "refused_crowd",
    "streaming_tokens",
    "living_together",
    "decode_peers",
    "decode_peers_4bit",
    "decode_peers_batch",
    "prefix_cache",
    "prefill_peers",
    "prefill_peers_batch",
    "serving_peers",
    "serving_peers_float",
    "serving_peers_vllm",
)


def main(names: list[str]) -> int:
    """Measure each bar; the exit status counts the bars whose correctness gate failed."""
    names = [name for name in names if name != FLAG]
    unknown = sorted(set(names) - set(BARS))
    if unknown:
        print(f"unknown bar {unknown[0]!r}; there are: {', '.join(BARS)}", file=sys.stderr)
        return 2
    return sum(importlib.import_module(f"benchmarks.{name}").main() for name in names or BARS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
