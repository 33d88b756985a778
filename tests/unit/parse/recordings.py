"""Recordings as tests make them: tones, noise, silence, and headers that promise too much."""

import io
import math
import random
import struct
from array import array

from soundfile import SoundFile

RATE_HZ = 16_000


def tone(hz: float, *, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> "array[float]":
    """Return the samples of a sine at half the full level."""
    turn = 2 * math.pi * hz / rate_hz
    return array("f", (0.5 * math.sin(turn * i) for i in range(round(seconds * rate_hz))))


def noise(*, seconds: float = 0.5, seed: int = 0, rate_hz: int = RATE_HZ) -> "array[float]":
    """Return white noise."""
    chance = random.Random(seed)  # noqa: S311 (test data)
    return array("f", (chance.uniform(-0.5, 0.5) for _ in range(round(seconds * rate_hz))))


def silence(*, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> "array[float]":
    """Return nothing but zeros."""
    return array("f", bytes(4 * round(seconds * rate_hz)))


def encoded(
    samples: "array[float]",
    form: str = "WAV",
    *,
    rate_hz: int = RATE_HZ,
    channels: int = 1,
    subtype: str | None = None,
) -> bytes:
    """Encode samples; those of several channels alternate."""
    written = io.BytesIO()
    with SoundFile(
        written, "w", samplerate=rate_hz, channels=channels, format=form, subtype=subtype
    ) as file:
        file.buffer_write(samples.tobytes(), "float32")
    return written.getvalue()


def flac_header(*, seconds: int, rate_hz: int = 8_000) -> bytes:
    """Return the head of a FLAC file that announces so many seconds, and nothing behind it."""
    body = struct.pack(">HH", 4_096, 4_096) + bytes(6)
    numbers = rate_hz << 44 | 0 << 41 | 15 << 36 | seconds * rate_hz
    return (
        b"fLaC" + struct.pack(">I", 0x80000000 | 34) + body + struct.pack(">Q", numbers) + bytes(16)
    )


def without_length(flac: bytes) -> bytes:
    """Return a FLAC file whose header does not tell its length, as a stream's does not."""
    (numbers,) = struct.unpack(">Q", flac[18:26])
    return flac[:18] + struct.pack(">Q", numbers >> 36 << 36) + flac[26:]
