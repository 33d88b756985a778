"""Which column is what: taken from the request, or inferred from names and values.

Inference looks for one label column (a telling name, or few distinct short values), keeps
text, numbers, images and conversations as inputs, and drops row numbers. What it decided is
in the manifest, what it left out in the profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import fmean

from purvey.contracts.data import Column, ColumnKind
from purvey.contracts.limits import LIMITS
from purvey.data.reading.names import INDEX_NAMES, LABEL_NAMES, plain_name
from purvey.data.reading.table import Cell
from purvey.errors import InvalidValueError

DATA_URL = "data:image/"
_LONGEST_LABEL_CHARS = 64
_MOST_UNNAMED_LABELS = 200


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns kept, in order, and the names of those left out."""

    columns: tuple[Column, ...]
    ignored: tuple[str, ...] = ()


def requested_schema(columns: Mapping[str, ColumnKind], names: Sequence[str]) -> Schema:
    """Take the schema from the request; only the columns it names are kept.

    Raises:
        InvalidValueError: A name that the files lack (with the nearest one), or two labels.
    """
    for name in columns:
        if name not in names:
            nearest = get_close_matches(name, names, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest else f" It has {list(names)}."
            raise InvalidValueError(
                f"the files have no column {name!r}.{meant}", param=f"columns.{name}"
            )
    labels = [name for name, kind in columns.items() if kind == "label"]
    if len(labels) > 1:
        raise InvalidValueError(
            f"columns {labels[0]!r} and {labels[1]!r} are both labels: keep one.",
            param=f"columns.{labels[1]}",
        )
    return Schema(
        columns=tuple(Column(name=name, kind=kind) for name, kind in columns.items()),
        ignored=tuple(name for name in names if name not in columns),
    )


def infer_schema(columns: Mapping[str, Sequence[Cell]]) -> Schema:
    """Infer the schema from names and values; the longest text comes first among texts."""
    kinds = {name: _kind(cells) for name, cells in columns.items()}
    ignored = {name for name in columns if _is_index(name, columns[name], kinds[name])}
    kept = [name for name in columns if name not in ignored] or list(columns)
    label = _label_column({name: columns[name] for name in kept}, kinds)
    if label is not None:
        kinds[label] = "label"
    texts = sorted((n for n in kept if kinds[n] == "text"), key=lambda n: -_mean_chars(columns[n]))
    others = [name for name in kept if kinds[name] not in {"text", "label"}]
    order = [*texts, *others, *([label] if label else [])]
    left_out = columns.keys() - set(order)
    return Schema(
        columns=tuple(Column(name=name, kind=kinds[name]) for name in order),
        ignored=tuple(name for name in columns if name in left_out),
    )


def _kind(cells: Sequence[Cell]) -> ColumnKind:
    filled = [cell for cell in cells if cell not in (None, "")]
    if filled and all(isinstance(cell, list) for cell in filled):
        return "conversation"
    if filled and all(_is_image(cell) for cell in filled):
        return "image"
    if filled and all(_is_number(cell) for cell in filled):
        return "number"
    return "text"


def _is_image(cell: Cell) -> bool:
    return isinstance(cell, bytes) or (isinstance(cell, str) and cell.startswith(DATA_URL))


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)):
        return False
    try:
        float(cell)
    except (ValueError, OverflowError):
        return False
    return True


def _is_index(name: str, cells: Sequence[Cell], kind: ColumnKind) -> bool:
    if plain_name(name) not in INDEX_NAMES or kind not in {"number", "text"}:
        return False
    return len({str(cell) for cell in cells}) == len(cells)


def _label_column(
    columns: Mapping[str, Sequence[Cell]], kinds: Mapping[str, ColumnKind]
) -> str | None:
    """Return the label's column: by name first, else the one with the fewest distinct values."""
    if len(columns) < 2:
        return None
    distinct = {
        name: len({str(cell) for cell in cells})
        for name, cells in columns.items()
        if kinds[name] in {"text", "number"} and _may_be_label(cells)
    }
    named = [name for name in distinct if plain_name(name) in LABEL_NAMES]
    candidates = named or [
        name
        for name, count in distinct.items()
        if count < len(columns[name]) and _is_few(count, len(columns[name]))
    ]
    return min(candidates, key=lambda name: distinct[name], default=None)


def _may_be_label(cells: Sequence[Cell]) -> bool:
    values = {str(cell).strip() for cell in cells}
    if len(values) > LIMITS.labels or max(map(len, values), default=0) > _LONGEST_LABEL_CHARS:
        return False
    is_fraction = any(isinstance(cell, float) and not cell.is_integer() for cell in cells)
    return not is_fraction


def _is_few(num_distinct: int, num_rows: int) -> bool:
    return num_distinct <= min(_MOST_UNNAMED_LABELS, max(2, num_rows // 5))


def _mean_chars(cells: Sequence[Cell]) -> float:
    return fmean(len(str(cell)) for cell in cells) if cells else 0.0
