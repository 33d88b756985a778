"""A run's numbers as a TensorBoard event file: scalars by step and by wall time.

A file is a sequence of records (TFRecord): the length of the data (8 bytes, little-endian), its
masked CRC-32C, the data, its masked CRC-32C. Data is an `Event` of protocol buffers, of which the
fields here are used: `wall_time` 1, `step` 2, `file_version` 3, `summary` 5; in a summary `value`
1, with `tag` 1 and `simple_value` 2.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping

from purvey.contracts.records import JobEventRecord
from purvey.server.reporting.values import number

VERSION = "brain.Event:2"
_NO_SCALARS = frozenset({"step", "total_steps"})
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_MASK_DELTA = 0xA282EAD8
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types


def event_file(events: Iterable[JobEventRecord], *, began_at: float) -> bytes:
    """Return the file of a run.

    Args:
        events: Its metrics, in order; the time of the first is not before `began_at`.
        began_at: Epoch seconds of the run's start.
    """
    return b"".join(_records(events, began_at))


def _records(events: Iterable[JobEventRecord], began_at: float) -> Iterator[bytes]:
    yield record(_double(1, began_at) + _bytes(3, VERSION.encode()))
    for event in events:
        scalars = scalars_of(event.data)
        step = event.data.get("step")
        if scalars and isinstance(step, int) and step >= 0:
            values = b"".join(_bytes(1, _scalar(tag, value)) for tag, value in scalars.items())
            head = _double(1, event.created_at) + _key(2, _VARINT) + _varint(step)
            yield record(head + _bytes(5, values))


def scalars_of(data: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers of an event that are drawn over its step, by name."""
    found = {name: number(value) for name, value in data.items() if name not in _NO_SCALARS}
    return {name: value for name, value in found.items() if value is not None}


def record(data: bytes) -> bytes:
    """Return data with its length, each with its checksum."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes; of `123456789` it is `0xE3069283`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + _MASK_DELTA) & 0xFFFFFFFF)


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(_remainder(byte) for byte in range(256))


_LARGEST_FLOAT = 3.4028234e38  # of 32 bits


def _scalar(tag: str, value: float) -> bytes:
    clipped = min(max(value, -_LARGEST_FLOAT), _LARGEST_FLOAT)
    return _bytes(1, tag.encode()) + _key(2, _FLOAT) + struct.pack("<f", clipped)


def _double(field: int, value: float) -> bytes:
    return _key(field, _DOUBLE) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
