"""Which column is what: taken from the request, or inferred from names and values.

Inference looks for one label column (a telling name, or few distinct short values), beside
recordings for a transcript, else for a score; keeps text, numbers, categories, images, recordings,
conversations and preferences as inputs, and drops row numbers. What it decided is in the manifest,
what it left out in the profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import fmean

from purvey.contracts.data import TARGET_KINDS, Column, ColumnKind
from purvey.contracts.limits import LIMITS
from purvey.contracts.rows import PROMPT
from purvey.data.reading.names import INDEX_NAMES, LABEL_NAMES, TRANSCRIPT_NAMES, plain_name
from purvey.data.reading.table import Cell
from purvey.data.tabular import category_columns, is_measured, score_column
from purvey.errors import InvalidValueError
from purvey.parse.sounds import is_sound

IMAGE_URL, AUDIO_URL = "data:image/", "data:audio/"
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
        InvalidValueError: A name that the files lack (with the nearest one), or two labels, scores
            or transcripts.
    """
    for name in columns:
        if name not in names:
            nearest = get_close_matches(name, names, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest else f" It has {list(names)}."
            raise InvalidValueError(
                f"the files have no column {name!r}.{meant}", param=f"columns.{name}"
            )
    for target in TARGET_KINDS:
        alike = [name for name, kind in columns.items() if kind == target]
        if len(alike) > 1:
            raise InvalidValueError(
                f"columns {alike[0]!r} and {alike[1]!r} are both {target}s: keep one.",
                param=f"columns.{alike[1]}",
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
    transcript = _transcript_column(kept, kinds)
    label = _label_column({name: columns[name] for name in kept if name != transcript}, kinds)
    if transcript is None and label is None:
        transcript = _only_text(kept, kinds)
    if transcript is not None:
        kinds[transcript] = "transcript"
    if label is not None:
        kinds[label] = "label"
    score = score_column(kept, kinds) if transcript is None and label is None else None
    if score is not None:
        kinds[score] = "score"
    targets = [name for name in (transcript, label, score) if name is not None]
    inputs = [name for name in kept if name not in targets]
    if label is not None:
        categories = category_columns(columns, kinds, inputs=inputs)
        kinds |= dict.fromkeys(categories, "category")
    texts = sorted((n for n in kept if kinds[n] == "text"), key=lambda n: -_mean_chars(columns[n]))
    others = [name for name in inputs if kinds[name] != "text"]
    order = [*texts, *others, *targets]
    left_out = columns.keys() - set(order)
    return Schema(
        columns=tuple(Column(name=name, kind=kinds[name]) for name in order),
        ignored=tuple(name for name in columns if name in left_out),
    )


def _kind(cells: Sequence[Cell]) -> ColumnKind:
    filled = [cell for cell in cells if cell not in (None, "")]
    if filled and all(isinstance(cell, list) for cell in filled):
        return "conversation"
    if filled and all(isinstance(cell, dict) and PROMPT in cell for cell in filled):
        return "preference"
    if filled and all(_is_medium(cell) for cell in filled):
        return "audio" if 2 * sum(map(_is_audio, filled)) >= len(filled) else "image"
    if filled and all(_is_number(cell) for cell in filled):
        return "number"
    return "text"


def _is_audio(cell: Cell) -> bool:
    if isinstance(cell, bytes):
        return is_sound(cell)
    return isinstance(cell, str) and cell.startswith(AUDIO_URL)


def _is_medium(cell: Cell) -> bool:
    is_url = isinstance(cell, str) and cell.startswith((IMAGE_URL, AUDIO_URL))
    return is_url or isinstance(cell, bytes)


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
        if kinds[name] in {"text", "number"} and _may_be_label(cells, kinds[name])
    }
    named = [name for name in distinct if plain_name(name) in LABEL_NAMES]
    candidates = named or [
        name
        for name, count in distinct.items()
        if count < len(columns[name]) and _is_few(count, len(columns[name]))
    ]
    return min(candidates, key=lambda name: distinct[name], default=None)


def _transcript_column(names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> str | None:
    """Return what recordings say: the text beside them that is called so."""
    texts = _beside_audio(names, kinds)
    return next((name for name in texts if plain_name(name) in TRANSCRIPT_NAMES), None)


def _only_text(names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> str | None:
    """Return the one text beside recordings, for data with nothing else to learn."""
    texts = _beside_audio(names, kinds)
    return texts[0] if len(texts) == 1 else None


def _beside_audio(names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> list[str]:
    has_audio = any(kinds[name] == "audio" for name in names)
    return [name for name in names if has_audio and kinds[name] == "text"]


def _may_be_label(cells: Sequence[Cell], kind: ColumnKind) -> bool:
    values = {str(cell).strip() for cell in cells}
    if len(values) > LIMITS.labels or max(map(len, values), default=0) > _LONGEST_LABEL_CHARS:
        return False
    return kind == "text" or not is_measured(cells)


def _is_few(num_distinct: int, num_rows: int) -> bool:
    return num_distinct <= min(_MOST_UNNAMED_LABELS, max(2, num_rows // 5))


def _mean_chars(cells: Sequence[Cell]) -> float:
    return fmean(len(str(cell)) for cell in cells) if cells else 0.0
