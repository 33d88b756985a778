"""Frames between processes: a 4-byte big-endian length, then one msgpack value.

Values are tagged `msgspec.Struct` unions, checked against their types as they are read; a
frame that does not fit its union is an error, never an object of another kind.
"""

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar, cast

import msgspec

from purvey.errors import InternalError

MAX_FRAME_BYTES = 256 * 2**20
_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
M = TypeVar("M")


def pack(message: msgspec.Struct) -> bytes:
    """Encode one message as a frame.

    Raises:
        InternalError: The message is larger than `MAX_FRAME_BYTES`.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise InternalError(f"a frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[M]):
    """Decoder of a byte stream into messages of one union.

    Args:
        union: The type (`A | B | ...`) that every frame must fit.
    """

    def __init__(self, union: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(cast("type[M]", union))
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[M]:
        """Take bytes as they arrive and yield each complete message.

        Raises:
            InternalError: A length above `MAX_FRAME_BYTES`, or a body that is not msgpack or
                does not fit the union. The stream is then useless and must be closed.
        """
        self._buffer += chunk
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(self._buffer, start)
                if size > MAX_FRAME_BYTES:
                    raise InternalError(f"a frame announces {size} bytes")
                end = start + _LENGTH.size + size
                if len(self._buffer) < end:
                    break
                body = self._buffer[start + _LENGTH.size : end]
                start = end
                yield self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InternalError(f"a frame does not fit its type: {error}") from error
        finally:
            del self._buffer[:start]
