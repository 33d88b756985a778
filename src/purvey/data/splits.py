"""Train, validation and test: drawn by hashing each row's inputs with the seed.

The same row goes to the same side wherever it stands in the file; rows with equal inputs
always go together, so none leaks from training into the test.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from purvey.contracts.data import SPLITS, SplitConfig
from purvey.errors import InvalidValueError


def split_rows(
    groups: Sequence[bytes],
    *,
    labels: Sequence[str] | None,
    config: SplitConfig,
    seed: int,
) -> dict[str, list[int]]:
    """Assign every row to one split.

    With labels and `config.stratify`, each label's share is kept as closely as whole rows
    allow, and a label's first group always trains.

    Args:
        groups: Digest of each row's inputs; rows with equal digests stay together.
        labels: Each row's label, where there is one.
        config: Fractions of the whole.
        seed: Changes which rows are drawn.

    Returns:
        Row numbers by split, ascending; a split may be empty.

    Raises:
        InvalidValueError: The fractions leave nothing to train on.
    """
    if config.validation + config.test >= 1:
        raise InvalidValueError(
            "splits.validation and splits.test leave no rows to train on: lower one.",
            param="splits",
        )
    first_row: dict[bytes, int] = {}
    for row, group in enumerate(groups):
        first_row.setdefault(group, row)
    strata: dict[str, list[bytes]] = defaultdict(list)
    for group, row in first_row.items():
        strata[labels[row] if labels is not None and config.stratify else ""].append(group)
    side = _draw(strata, config=config, seed=seed)
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row, group in enumerate(groups):
        rows[side.get(group, "train")].append(row)
    return rows


def _draw(strata: dict[str, list[bytes]], *, config: SplitConfig, seed: int) -> dict[bytes, str]:
    """Return the side of each drawn group; those left out train."""
    key = seed.to_bytes(8, "little")
    side: dict[bytes, str] = {}
    sizes = {label: len(members) for label, members in strata.items()}
    tests = _shares(sizes, config.test, reserved=dict.fromkeys(sizes, 0))
    validations = _shares(sizes, config.validation, reserved=tests)
    for label, members in strata.items():
        ordered = sorted(
            members, key=lambda g: hashlib.blake2b(g, key=key, digest_size=16).digest()
        )
        for group in ordered[: tests[label]]:
            side[group] = "test"
        for group in ordered[tests[label] : tests[label] + validations[label]]:
            side[group] = "validation"
    return side


def _shares(sizes: dict[str, int], fraction: float, *, reserved: dict[str, int]) -> dict[str, int]:
    """Divide `fraction` of all rows among the labels by largest remainder, one kept to train."""
    exact = {label: size * Fraction(fraction) for label, size in sizes.items()}
    room = {label: size - reserved[label] - 1 for label, size in sizes.items()}
    counts = {label: max(0, min(int(exact[label]), room[label])) for label in sizes}
    wanted = round(sum(sizes.values()) * fraction)
    for label in sorted(sizes, key=lambda name: (counts[name] - exact[name], name)):
        if sum(counts.values()) >= wanted:
            break
        counts[label] += counts[label] < room[label]
    return counts
