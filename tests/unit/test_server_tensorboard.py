"""Event files for TensorBoard, read by a strict parser that shares no line with the writer."""

import math
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from purvey.contracts.records import JobEventRecord
from purvey.server.reporting.tensorboard import crc32c, event_file

DELTA = 0xA282EAD8


def bitwise_crc32c(data: bytes) -> int:
    """By the definition: one bit after the other."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def records_of(file: bytes) -> Iterator[bytes]:
    """Yield the data of each record; both checksums must be right, and nothing be left over."""

    def check(data: bytes, masked: int) -> None:
        rotated = (masked - DELTA) & 0xFFFFFFFF
        assert ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF == bitwise_crc32c(data)

    while file:
        (length,) = struct.unpack_from("<Q", file)
        check(file[:8], struct.unpack_from("<I", file, 8)[0])
        data = file[12 : 12 + length]
        check(data, struct.unpack_from("<I", file, 12 + length)[0])
        yield data
        file = file[16 + length :]


def fields_of(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protocol buffer."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(message):
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 1:
                yield key >> 3, struct.unpack_from("<d", message, place)[0]
                place += 8
            case 2:
                size = varint()
                yield key >> 3, message[place : place + size]
                place += size
            case 5:
                yield key >> 3, struct.unpack_from("<f", message, place)[0]
                place += 4
            case other:
                pytest.fail(f"wire type {other}")
    assert place == len(message)


def read(file: bytes) -> list[tuple[float, int, dict[str, float]]]:
    """Return time, step and scalars of each event after the first, which names the version."""
    first, *rest = ([*fields_of(data)] for data in records_of(file))
    assert dict(first)[3] == b"brain.Event:2"
    found = []
    for event in map(dict, rest):
        values = [dict(fields_of(value)) for number, value in fields_of(event[5]) if number == 1]
        scalars = {value[1].decode(): value[2] for value in values}
        found.append((event[1], event[2], scalars))
    return found


def event(step: object, **data: object) -> JobEventRecord:
    return JobEventRecord(
        id="ftevent-1",
        job_id="job_1",
        seq=1,
        type="metrics",
        level="info",
        message="",
        data={"step": step, "total_steps": 900, **data},
        created_at=1_795_467_000.25,
    )


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4, and the catalogue of CRCs
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_every_number_is_a_scalar_at_its_step_and_time() -> None:
    told = [
        event(1, train_loss=0.5, learning_rate=1e-3, valid_loss=None, note="text", good=True),
        event(300, train_loss=0.25, accuracy=1),
    ]
    found = read(event_file(told, began_at=1_795_466_999.0))
    assert [(when, step) for when, step, _ in found] == [
        (1_795_467_000.25, 1),
        (1_795_467_000.25, 300),
    ]
    assert found[0][2] == pytest.approx({"train_loss": 0.5, "learning_rate": 1e-3})
    assert found[1][2] == {"train_loss": 0.25, "accuracy": 1.0}


def test_what_is_no_number_of_a_step_is_left_out() -> None:
    told = [event(None, train_loss=0.5), event(-1, train_loss=1.0), event(2), event(3, x=math.inf)]
    assert read(event_file(told, began_at=0.0)) == []
    assert read(event_file([event(4, x=1e50)], began_at=0.0))[0][2]["x"] == pytest.approx(
        3.4e38, rel=0.01
    )
