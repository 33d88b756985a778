"""What a dataset looks like in numbers: counts, balance, lengths, sizes. Never its content."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from purvey.contracts.data import Column
from purvey.data.convert import Value
from purvey.data.histogram import Histogram, histogram
from purvey.data.pictures import picture_size
from purvey.parse.sounds import describe


def profile_columns(
    values: Mapping[str, Sequence[Value]],
    columns: tuple[Column, ...],
    rows: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Describe each column over all splits, and the balance of labels per split.

    Returns:
        JSON values: `columns` by name, and `balance` (split to label to count) where there
        is a label column.
    """
    profile: dict[str, Any] = {  # JSON values
        "columns": {
            column.name: {"kind": column.kind, **_describe(column, values[column.name])}
            for column in columns
        }
    }
    label = next((column.name for column in columns if column.kind == "label"), None)
    if label is not None:
        profile["balance"] = {
            split: dict(sorted(Counter(str(values[label][row]) for row in chosen).items()))
            for split, chosen in rows.items()
        }
    return profile


def _describe(column: Column, values: Sequence[Value]) -> dict[str, Any]:
    match column.kind:
        case "label" | "category":
            counts = Counter(values)
            return {"distinct": len(counts), "largest_share": max(counts.values()) / len(values)}
        case "number" | "score":
            return {"value": _summary([float(value) for value in values])}
        case "image":
            return _describe_images(values)
        case "audio":
            return _describe_recordings(values)
        case _:
            return {"chars": _summary([len(value) for value in values if isinstance(value, str)])}


def _describe_images(values: Sequence[Value]) -> dict[str, Any]:
    sizes = Counter(picture_size(value) for value in values if isinstance(value, bytes))
    common = [
        {"width": width, "height": height, "count": count}
        for (width, height), count in sizes.most_common(5)
    ]
    return {
        "bytes": _summary([len(value) for value in values if isinstance(value, bytes)]),
        "sizes": common,
        "distinct_sizes": len(sizes),
    }


def _describe_recordings(values: Sequence[Value]) -> dict[str, Any]:
    sounds = [describe(value) for value in values if isinstance(value, bytes)]
    rates = Counter(sound.sample_rate_hz for sound in sounds)
    return {
        "bytes": _summary([len(value) for value in values if isinstance(value, bytes)]),
        "seconds": _summary([round(sound.seconds, 4) for sound in sounds]),
        "sample_rates": [{"hz": hz, "count": count} for hz, count in rates.most_common(5)],
        "channels": max(sound.channels for sound in sounds),
    }


def _summary(numbers: Sequence[float]) -> dict[str, float | Histogram]:
    return {
        "min": min(numbers),
        "mean": round(fmean(numbers), 4),
        "median": median(numbers),
        "max": max(numbers),
        "histogram": histogram(numbers),
    }
