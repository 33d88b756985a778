"""Reading a safetensors header without trusting it, and without a tensor library.

The format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purvey.contracts.tensor_header import MAX_HEADER_BYTES, num_elements, parse_header
from purvey.errors import InvalidCheckpointError

_LENGTH_BYTES = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor as the header tells: bytes `start` to `end` after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a file by name, having checked that they fill it exactly.

    Raises:
        InvalidCheckpointError: The header is too long or not JSON, a tensor's bytes do not
            match its shape, tensors overlap or leave holes, or the file is shorter or longer.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise _invalid(path, f"announces a header of {length} bytes")
        text = file.read(length)
    entries = {name: _entry(path, name, value) for name, value in _parse(path, text).items()}
    _require_exact_cover(path, entries, num_bytes=size - _LENGTH_BYTES - length)
    return entries


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        return parse_header(text)
    except ValueError as error:
        what = f"has a header that is not JSON with unique names: {error}"
        raise _invalid(path, what[:200]) from None


def _entry(path: Path, name: str, value: object) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end], **rest} if (
            not rest and dtype in _BITS and all(_is_count(n) for n in [*shape, start, end])
        ):
            entry = TensorEntry(dtype=dtype, shape=tuple(shape), start=start, end=end)
        case _:
            raise _invalid(path, f"describes tensor {name[:200]!r} in a way that is not known")
    elements = num_elements(entry.shape)
    if elements is None or (entry.end - entry.start) * 8 != elements * _BITS[dtype]:
        raise _invalid(path, f"gives tensor {name[:200]!r} bytes that do not match its shape")
    return entry


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _require_exact_cover(path: Path, entries: dict[str, TensorEntry], *, num_bytes: int) -> None:
    position = 0
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.end)):
        if entry.start != position:
            raise _invalid(path, "has tensors that overlap or leave a hole")
        position = entry.end
    if position != num_bytes:
        raise _invalid(path, f"describes {position} bytes of tensors and holds {num_bytes}")


def _invalid(path: Path, what: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{path.name!r} {what}.", param="source")
