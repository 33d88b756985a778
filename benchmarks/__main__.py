"""Run the named bars, or all of them, one after the other."""

import importlib
import sys

BARS = ("control_plane_start", "decode_one", "durable_metering", "large_shapes", "linear_kernels")


def main(names: list[str]) -> int:
    """Measure each bar; the exit status counts the bars whose correctness gate failed."""
    unknown = sorted(set(names) - set(BARS))
    if unknown:
        print(f"unknown bar {unknown[0]!r}; there are: {', '.join(BARS)}", file=sys.stderr)
        return 2
    return sum(importlib.import_module(f"benchmarks.{name}").main() for name in names or BARS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
