"""Bar 9, second part: fine-tuning beside TRL's `SFTTrainer`, with and without padding.

The model, rows, batches and optimizer of `fine_tuning_speed`; all weights.
"""

import sys

from benchmarks.fine_tuning_speed import OF_TRAINER, compare_with


def main() -> int:
    """Measure and publish; correct only if all subjects have the same losses."""
    return compare_with(
        {"trl": OF_TRAINER, "trl-padding-free": OF_TRAINER},
        ("full",),
        bar="fine_tuning_trl",
        workload=__doc__.split("\n\n")[1],
        notes=[
            "A batch without padding is one sequence, as a packed one is; packing itself would put "
            "other rows into a batch, and losses could not be compared. On a processor "
            "`transformers` then computes attention over the whole batch under a mask."
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
