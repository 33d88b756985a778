"""One safetensors file: its header is checked by us before anything is allocated from it.

Layout: 8 bytes little-endian header length, a JSON header, then the tensors' bytes without
holes or overlaps (https://github.com/huggingface/safetensors, "Format").
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from purvey.contracts.tensor_header import MAX_HEADER_BYTES, num_elements, parse_header
from purvey.errors import InvalidCheckpointError

_MAX_DIMENSIONS = 8
_KEYS = {"dtype", "shape", "data_offsets"}
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
_ITEM_BYTES |= {"U8": 1, "BOOL": 1}
_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What is written, widest first: in that order tensors are aligned in the file."""
_ORDER = {dtype: place for place, dtype in enumerate(_NAMES)}
TYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in _NAMES.items()}
"""What a header calls the types that are written."""
_PIECE_BYTES = 2**22


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """What a file announces of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Read and check a file's header without touching its tensors.

    Raises:
        InvalidCheckpointError: The header is too large, torn or not JSON; a tensor has an unknown
            type, a shape that disagrees with its bytes, or leaves a hole or an overlap.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise _refusal(path, "its header does not fit the file")
        raw = stream.read(header_bytes)
    try:
        entries = parse_header(raw)
    except ValueError as error:
        what = f"its header is not a JSON object without duplicates: {error}"
        raise _refusal(path, what[:200]) from None
    headers = {name: _tensor_header(path, name, entry) for name, entry in entries.items()}
    _check_contiguous(path, headers, size - 8 - header_bytes)
    return headers


def read_tensors(
    path: Path,
    *,
    is_finite_required: bool = True,
    is_widened: bool = True,
    is_wanted: Callable[[str], bool] | None = None,
) -> dict[str, Tensor]:
    """Map a checked file into memory; floating-point tensors come as float32 on the CPU.

    Float32 tensors are copy-on-write views of the file; others are converted copies, or such
    views in the file's own dtype where they need not be `is_widened`. Tensors whose names are
    not `is_wanted` are left out and not looked at.

    Raises:
        InvalidCheckpointError: As `read_header`, or a value is not finite.
    """
    headers = read_header(path)
    tensors = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in filter(is_wanted or _any, headers):
                tensor = file.get_tensor(name)
                tensors[name] = _widen(tensor) if is_widened else tensor
    except (SafetensorError, OSError) as error:
        raise _refusal(path, str(error)) from None
    if is_finite_required:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not _is_finite(tensor):
                what = f"tensor {name[:200]!r} holds values that are not finite"
                raise _refusal(path, what)
    return tensors


def why_unstorable(value: object) -> str | None:
    """Say why a value of a state dict could not be written and read back; None if it can be."""
    if not isinstance(value, Tensor):
        return "is no tensor"
    if value.layout != torch.strided:
        return "is not dense"
    if value.dtype not in _NAMES:
        return f"has the unsupported type {value.dtype}"
    if value.ndim > _MAX_DIMENSIONS:
        return f"has {value.ndim} dimensions, more than {_MAX_DIMENSIONS}"
    return None


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write tensors as they are (detached, contiguous, each with its own bytes).

    Tensors that share memory, as tied weights do, are written as often as they are named. The
    interpreter is free for other threads while bytes are written and digested. A file of that name
    is replaced, not overwritten: the tensors may be mapped from it.

    Returns:
        Hex SHA-256 of the file.

    Raises:
        OSError: The file cannot be written.
    """
    ordered = sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))
    digest = hashlib.sha256()
    if path.is_file():
        path.unlink()
    with _named_os_error(path), path.open("wb") as stream:
        for piece in _pieces(ordered):
            stream.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _pieces(tensors: list[tuple[str, Tensor]]) -> Iterable[bytes | memoryview]:
    """Yield the bytes of the file: its header, padded to eight, then every tensor's."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # JSON values
    end = 0
    for name, tensor in tensors:
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for _, tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        whole = flat.numpy().data
        for start in range(0, len(whole), _PIECE_BYTES):
            yield whole[start : start + _PIECE_BYTES]


@contextmanager
def _named_os_error(path: Path) -> Iterator[None]:
    """Name the file in what the system refuses; a failed write of an open one tells none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _tensor_header(path: Path, name: str, entry: Any) -> TensorHeader:  # noqa: ANN401 (JSON)
    tensor = f"tensor {name[:200]!r}"
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _refusal(path, f"{tensor} is described incompletely") from None
    if entry.keys() != _KEYS:
        raise _refusal(path, f"{tensor} is described by more than {sorted(_KEYS)}")
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        raise _refusal(path, f"{tensor} has an impossible shape or offset")
    if len(shape) > _MAX_DIMENSIONS:
        raise _refusal(path, f"{tensor} has more than {_MAX_DIMENSIONS} dimensions")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _refusal(path, f"{tensor} has the unsupported type {str(dtype)[:40]!r}")
    elements = num_elements(shape)
    if elements is None or elements * _ITEM_BYTES[dtype] != end - start:
        raise _refusal(path, f"{tensor} has bytes that do not fit its shape")
    return TensorHeader(dtype=dtype, shape=tuple(shape), start=start, end=end)


def _check_contiguous(path: Path, headers: Mapping[str, TensorHeader], num_bytes: int) -> None:
    position = 0
    for name, header in sorted(headers.items(), key=lambda item: (item[1].start, item[1].end)):
        if header.start != position:
            raise _refusal(path, f"tensor {name[:200]!r} leaves a hole or overlaps another")
        position = header.end
    if position != num_bytes:
        raise _refusal(path, f"its tensors cover {position} of {num_bytes} bytes")


def _any(name: str) -> bool:
    return True


def _is_finite(tensor: Tensor) -> bool:
    """Tell by the extremes, NaN where any number is; 20 times faster than a mask of all."""
    return not tensor.numel() or all(bool(one.isfinite()) for one in torch.aminmax(tensor))


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _refusal(path: Path, complaint: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{path.name} is not usable: {complaint}.", param="model")
