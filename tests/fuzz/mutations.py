"""Safetensors files and what becomes of them when bytes, texts and structures are changed.

Everything comes from one `random.Random`: a seed stands for one row of files.
"""

import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

Json = Any
Header = dict[str, Json]
COUNTS: tuple[Json, ...] = (
    0, 1, 2, 3, 8, 255, 2**16, 2**31, 2**32, 2**48, 2**53 + 1, 2**60, 2**62, 2**63 - 1, 2**63,
    2**64 - 1, 2**64, 10**30, -1, -(2**63), 0.0, 1.5, 1e308, float("nan"), float("inf"),
    True, False, None, "4", [], [4], {},
)  # fmt: skip
DTYPES: tuple[Json, ...] = (
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL",
    "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "f32", "", "O", None, 32, ["F32"], "F32\x00",
)  # fmt: skip
SHAPES: tuple[Json, ...] = (
    [], [0], [1], [2, 2], [4, 4], [1] * 9, [1] * 70, [0, 2**62, 2**62], [2**62, 2**62, 0],
    [2**32, 2**32], [2**63, 2], [2**64], [2**40, 0], None, 4, "4", {"0": 4}, [[4]], [4.0],
)  # fmt: skip
NAMES = ("a", "b", "", "__metadata__", "é", "\U0001f600", "\ud800", "a.b", "../a", "x" * 300)
TEXTS = (
    b"NaN", b"-0", b"1e2", b"00", b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"\\ud800", b"\\u0061",
    b"[", b"]", b"{", b"}", b",", b":", b'"', b" ", b"\n", b"\t", b"null", b"true", b"\xc3",
    b"[" * 300, b'{"a":' * 200, b"9" * 5_000, b"Infinity", b"//", b"'", b"\\",
)  # fmt: skip
LENGTHS = (0, 1, 7, 8, 2**16, 16 * 2**20, 16 * 2**20 + 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1)


def originals() -> list[tuple[Header, bytes]]:
    """Return valid files as headers and the bytes behind them."""
    floats = struct.pack("<8f", *(0.5 * n for n in range(8)))
    one: Header = {"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}}
    two: Header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "I32", "shape": [5], "data_offsets": [12, 32]},
    }
    many: Header = {
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "none": {"dtype": "F32", "shape": [3, 0], "data_offsets": [4, 4]},
        "bits": {"dtype": "BOOL", "shape": [4], "data_offsets": [4, 8]},
        "half": {"dtype": "BF16", "shape": [2, 2, 2], "data_offsets": [8, 24]},
        "long": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
    }
    return [(one, floats), (two, bytes(32)), (many, bytes(32)), ({}, b"")]


def mutants(seed: int) -> Iterator[bytes]:
    """Yield changed files without an end."""
    rng = random.Random(seed)  # noqa: S311 (tests)
    valid = originals()
    while True:
        header, body = rng.choice(valid)
        if rng.random() < 0.6:
            yield _changed_file(rng, _text(rng, _changed_header(rng, header)), body)
        else:
            yield _changed_file(rng, json.dumps(header).encode(), body, is_certain=True)


def assembled(text: bytes, body: bytes) -> bytes:
    """Return a file of this header text and these bytes behind it."""
    return struct.pack("<Q", len(text)) + text + body


def _changed_file(
    rng: random.Random, text: bytes, body: bytes, *, is_certain: bool = False
) -> bytes:
    if is_certain or rng.random() < 0.3:
        text = rng.choice(_ON_TEXTS)(rng, text)
    whole = assembled(text, body)
    if rng.random() < 0.25:
        whole = rng.choice(_ON_FILES)(rng, whole)
    return whole


def _changed_header(rng: random.Random, header: Header) -> Header:
    copied: Header = {
        name: dict(entry) if isinstance(entry, dict) else entry for name, entry in header.items()
    }
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_ON_HEADERS)(rng, copied)
    return copied


def _text(rng: random.Random, header: Header) -> bytes:
    """Write a header; now and then with a name twice, or in another encoding."""
    text = json.dumps(header, ensure_ascii=rng.random() < 0.7)
    if header and rng.random() < 0.05:
        name = rng.choice(list(header))
        again = f"{json.dumps(name)}: {json.dumps(header[name])}"
        text = f"{text[:-1]}, {again}}}"
    encoding = "utf-8" if rng.random() < 0.95 else rng.choice(("utf-16", "utf-32", "utf-8-sig"))
    return text.encode(encoding, "surrogatepass")


def _entry(rng: random.Random, header: Header) -> Header:
    """Return the entry of some tensor; one without a home where there is none."""
    entries = [entry for entry in header.values() if isinstance(entry, dict)]
    return rng.choice(entries) if entries else {}


def _list(value: Json) -> list[Json]:
    return list(value) if isinstance(value, list) else []


def _set_offset(rng: random.Random, header: Header) -> None:
    entry = _entry(rng, header)
    offsets = _list(entry.get("data_offsets")) or [0, 0]
    if rng.random() < 0.5 and all(type(n) is int for n in offsets):
        offsets = [n + rng.choice((-4, -1, 1, 4)) for n in offsets]
    else:
        offsets[rng.randrange(len(offsets))] = rng.choice(COUNTS)
    entry["data_offsets"] = offsets


def _set_offsets(rng: random.Random, header: Header) -> None:
    _entry(rng, header)["data_offsets"] = rng.choice(([], [0], [0, 1, 2], None, {}, "0", [[0], 1]))


def _set_dtype(rng: random.Random, header: Header) -> None:
    _entry(rng, header)["dtype"] = rng.choice(DTYPES)


def _set_shape(rng: random.Random, header: Header) -> None:
    _entry(rng, header)["shape"] = rng.choice(SHAPES)


def _set_dimension(rng: random.Random, header: Header) -> None:
    entry = _entry(rng, header)
    shape = _list(entry.get("shape"))
    shape.insert(rng.randint(0, len(shape)), rng.choice(COUNTS))
    entry["shape"] = shape


def _reorder_shape(rng: random.Random, header: Header) -> None:
    entry = _entry(rng, header)
    if isinstance(entry.get("shape"), list):
        entry["shape"] = [*entry["shape"], 1] if rng.random() < 0.5 else entry["shape"][::-1]


def _empty_tensor(rng: random.Random, header: Header) -> None:
    """Add a tensor of no bytes, of which there may be any number at any place."""
    at = rng.choice((0, 4, 12, 32))
    shape = rng.choice(([0], [0, 2**62], [2**62, 0], [0, 2**62, 2**62], [2**40, 2**40, 0]))
    header[rng.choice(NAMES)] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at]}


def _add_key(rng: random.Random, header: Header) -> None:
    deep: Json = 0
    for _ in range(rng.choice((1, 60, 126, 130, 200))):
        deep = [deep]
    _entry(rng, header)[rng.choice(("extra", "Dtype", "strides"))] = rng.choice((deep, None, 1))


def _drop_key(rng: random.Random, header: Header) -> None:
    _entry(rng, header).pop(rng.choice(("dtype", "shape", "data_offsets")), None)


def _drop_tensor(rng: random.Random, header: Header) -> None:
    if header:
        header.pop(rng.choice(list(header)))


def _replace_tensor(rng: random.Random, header: Header) -> None:
    header[rng.choice(NAMES)] = rng.choice((None, [], {}, 1, "a", float("nan"), {"a": {}}))


def _rename_tensor(rng: random.Random, header: Header) -> None:
    if header:
        header[rng.choice(NAMES)] = header.pop(rng.choice(list(header)))


def _set_metadata(rng: random.Random, header: Header) -> None:
    header["__metadata__"] = rng.choice(
        ({}, None, [], "pt", {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": float("nan")},
         {"\ud800": "a"}, {"a": "\udfff"}, {"": ""}, {"a": "x" * 999}, 0, float("inf"))
    )  # fmt: skip


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _extend(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"\x00", b" ", b" " * 7, b"\n", b"\x00" * 8, b"{}", data))


def _lead(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((b" ", b"\n", b"\x00", b"\xef\xbb\xbf", b"[")) + data


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(TEXTS) + data[at:]


def _cut(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + data[at + rng.choice((1, 2, 5, 20)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:end] + data[start:]


def _digits(rng: random.Random, data: bytes) -> bytes:
    places = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return data
    at = rng.choice(places)
    new = rng.choice(
        (b"9" * 20, b"-1", b"-0", b"0.0", b"1e1", b"NaN", b"", b"%d" % rng.randrange(40))
    )
    return data[:at] + new + data[at + 1 :]


def _set_length(rng: random.Random, data: bytes) -> bytes:
    true = int.from_bytes(data[:8], "little")
    near = (max(0, true - 1), true + 1, len(data), max(0, len(data) - 8), true * 2)
    length = rng.choice((*near, *LENGTHS, rng.getrandbits(64))) % 2**64
    return struct.pack("<Q", length) + data[8:]


_ON_HEADERS: tuple[Callable[[random.Random, Header], None], ...] = (
    _set_offset, _set_offsets, _set_dtype, _set_shape, _set_dimension, _reorder_shape,
    _empty_tensor, _empty_tensor, _add_key, _drop_key, _drop_tensor, _replace_tensor,
    _rename_tensor, _set_metadata,
)  # fmt: skip
_ON_TEXTS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _truncate, _extend, _lead, _insert, _insert, _cut, _repeat, _digits, _digits,
)  # fmt: skip
_ON_FILES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _truncate, _extend, _set_length, _set_length,
)  # fmt: skip
