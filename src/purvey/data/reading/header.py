"""Is the first record a header? Decided from names people use and from what follows it."""

from collections.abc import Collection
from statistics import median

from purvey.data.reading.names import INDEX_NAMES, LABEL_NAMES, TEXT_NAMES, plain_name

_KNOWN = LABEL_NAMES | TEXT_NAMES | INDEX_NAMES


def has_header(records: list[list[str]], *, wanted: Collection[str] = ()) -> bool:
    """Tell whether the first record names the columns.

    Args:
        records: The first records, at least one.
        wanted: Names the caller will ask for; if all are in the first record it is a header.
    """
    first, rest = [field.strip() for field in records[0]], records[1:]
    if wanted and set(wanted) <= set(first):
        return True
    if not any(first) or len(set(first)) < len(first):
        return False
    if not rest:
        return all(plain_name(name) in _KNOWN for name in first)
    votes = [
        _vote(name, [fields[i].strip() for fields in rest if i < len(fields)])
        for i, name in enumerate(first)
    ]
    return min(votes) > -2 and sum(votes) > 0


def _vote(name: str, values: list[str]) -> int:
    """Return how much one column speaks for a header; -2 rules it out."""
    if name in values:
        return -2
    if _is_number(name):
        return -2
    if plain_name(name) in _KNOWN:
        return 3
    if values and all(_is_number(value) for value in values if value):
        return 2
    if not values or len(name) > 64:
        return 0
    if len(set(values)) <= max(2, len(values) // 4):
        return 1  # a class column whose first cell never comes again
    return 1 if len(name) * 3 < median(len(value) for value in values) else -1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
