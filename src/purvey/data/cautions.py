"""What an owner should know of a dataset before training on it, in sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence

from purvey.contracts.data import SplitConfig
from purvey.data.leakage import Leak

_MOST_NAMED = 5


def cautions(
    *,
    labels: Sequence[str] | None,
    rows: Mapping[str, Sequence[int]],
    leaks: Sequence[Leak],
    config: SplitConfig,
) -> list[str]:
    """Return the sentences, the gravest first; none where nothing is wrong.

    Args:
        labels: Each row's label, where there is a label column.
        rows: Row numbers by split.
        leaks: What splits share.
        config: The splits as asked for.
    """
    told = [_leak(leak) for leak in leaks]
    wanted = {"validation": config.validation, "test": config.test}
    empty = [split for split, fraction in wanted.items() if fraction and not rows[split]]
    if empty:
        told.append(
            f"{' and '.join(empty)} got no row: too few rows differ from one another. Add rows, or "
            "raise the fraction."
        )
    return told + (_labels(labels) if labels is not None else [])


def _leak(leak: Leak) -> str:
    return (
        f"Leakage: {leak['near']} rows of {leak['split']} share their {leak['column']!r} with "
        f"{leak['held_by']} ({leak['exact']} exactly, the others nearly). Split by a column that "
        "tells them apart (splits.group)."
    )


def _labels(labels: Sequence[str]) -> list[str]:
    counts = Counter(labels)
    if len(counts) == 1:
        return [f"Every row has the label {labels[0]!r}: a classifier needs two."]
    alone = sorted(label for label, count in counts.items() if count == 1)
    if not alone:
        return []
    named = ", ".join(map(repr, alone[:_MOST_NAMED]))
    more = f" and {len(alone) - _MOST_NAMED} more" if len(alone) > _MOST_NAMED else ""
    one = len(alone) == 1
    return [
        f"{'The label' if one else 'The labels'} {named}{more} {'has' if one else 'have'} a single "
        "row, which trains and is never tested: add rows."
    ]
