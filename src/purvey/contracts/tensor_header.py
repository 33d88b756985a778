"""The JSON header of a safetensors file, read no more leniently than the format's own library.

What two parsers could read differently is refused here, so that a file that was let in is the
file that is loaded. Sizes and offsets are each reader's to check.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 100_000
_MOST = {b"{": 2, b"[": 4, b":": 8, b",": 24}
"""How often a mark may stand in a header for each tensor that one may have at most: what a parser
makes of a mark takes far more memory than the mark, and names and metadata need few of them."""
_MAX_ELEMENTS = 2**60
METADATA = "__metadata__"


def parse_header(text: bytes) -> dict[str, Any]:
    """Return what a header says of each tensor, by name, the metadata left out.

    Raises:
        ValueError: It is no JSON object of the kind that the library reads: something else, a
            name twice, a number that is no count, text that is not Unicode, metadata other than
            texts by name, or more marks than `MAX_TENSORS` need. Its message says which.
    """
    if not text.startswith(b"{"):
        raise ValueError("no JSON object from its first byte on")
    if any(text.count(mark) > most * MAX_TENSORS for mark, most in _MOST.items()):
        raise ValueError(f"more than {MAX_TENSORS} tensors need")
    try:
        header: dict[str, Any] = _DECODER.decode(text.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if b"\\u" in text:
        _check_scalars(header)
    metadata = header.pop(METADATA, None)
    if metadata is not None and not _is_texts(metadata):
        raise ValueError("metadata that is not texts by name")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} tensors")
    return header


def num_elements(shape: Sequence[int]) -> int | None:
    """Count a tensor's elements; None where some library's arithmetic would overflow.

    A dimension of nothing does not save the others: strides are computed from those.
    """
    if math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        return None
    return math.prod(shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that occurs twice")
    return found


def _count(digits: str) -> int:
    if digits == "-0" or len(digits) > 20:
        raise ValueError("a number that is no count")
    return int(digits)


def _no_number(name: str) -> Any:  # noqa: ANN401 (never returns)
    raise ValueError(f"{name}, which is not JSON")


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _check_scalars(value: Any) -> None:  # noqa: ANN401 (JSON)
    """Refuse halves of surrogate pairs, which only an escape can bring."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend((*item, *item.values()))
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str):
            item.encode()  # UnicodeEncodeError is a ValueError


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_count, parse_constant=_no_number)
