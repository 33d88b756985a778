"""Encoded recordings to samples, under caps on bytes, seconds, channels and rates.

`soundfile` brings numpy along, and is imported when the first recording is opened.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import AudioDecoded, DecodeAudio
from purvey.errors import InvalidValueError
from purvey.parse.foreign import FOREIGN_ERRORS

if TYPE_CHECKING:
    from soundfile import SoundFile

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
LEAST_RATE_HZ = 4_000
SAMPLE_BYTES = 4
_BLOCK_SAMPLES = 2**16
_UNKNOWN_FRAMES = 2**63 - 1
"""What the library says of a stream that does not tell its length."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What a recording is."""

    sample_rate_hz: int
    channels: int
    seconds: float


def is_sound(data: bytes) -> bool:
    """Tell by its first bytes whether it may be a recording of an accepted format."""
    is_wav = data[:4] == b"RIFF" and data[8:12] == b"WAVE"
    is_mp3 = data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0")
    return is_wav or is_mp3 or data[:4] in {b"fLaC", b"OggS"}


def check(data: bytes, *, param: str = "input") -> None:
    """Decode a whole recording, so that a broken one is refused now.

    Raises:
        InvalidValueError: As `decode`.
    """
    with _opened(data, param) as file:
        for _ in _blocks(file, most_frames=file.frames):
            pass


def describe(data: bytes, *, param: str = "input") -> Sound:
    """Tell from its header what a recording is.

    Raises:
        InvalidValueError: As `decode`, but for what the header does not tell.
    """
    with _opened(data, param) as file:
        return Sound(
            sample_rate_hz=file.samplerate,
            channels=file.channels,
            seconds=file.frames / file.samplerate,
        )


def decode(question: DecodeAudio, *, param: str = "input") -> AudioDecoded:
    """Decode a part of a recording.

    Raises:
        InvalidValueError: Too many bytes, seconds or channels, a rate out of range, nothing in it,
            another format, or broken.
    """
    with _opened(question.data, param) as file:
        start = min(round(question.start_s * file.samplerate), file.frames)
        wanted = min(math.ceil(question.max_s * file.samplerate), file.frames - start)
        if wanted * file.channels > LIMITS.audio_samples:
            raise InvalidValueError(
                f"{wanted / file.samplerate:g} s of the recording have more than "
                f"{LIMITS.audio_samples} samples: lower its rate, or mix its channels.",
                param=param,
            )
        file.seek(start)
        samples = b"".join(_blocks(file, most_frames=wanted))
        return AudioDecoded(sample_rate_hz=file.samplerate, channels=file.channels, samples=samples)


@contextmanager
def _opened(data: bytes, param: str) -> Iterator["SoundFile"]:
    """Open a recording whose header was checked; errors of the library become ours."""
    from soundfile import SoundFile

    if len(data) > LIMITS.audio_bytes:
        message = f"the recording has {len(data)} bytes; at most {LIMITS.audio_bytes} are accepted."
        raise InvalidValueError(message, param=param)
    if not is_sound(data):
        raise _broken(param)
    try:
        with SoundFile(io.BytesIO(data)) as file:
            _check_header(file, param)
            yield file
    except FOREIGN_ERRORS:
        raise _broken(param) from None


def _check_header(file: "SoundFile", param: str) -> None:
    if file.format.removesuffix("EX") not in FORMATS:
        raise _broken(param)
    if not LEAST_RATE_HZ <= file.samplerate <= LIMITS.audio_rate_hz:
        raise InvalidValueError(
            f"the recording has {file.samplerate} samples per second; from {LEAST_RATE_HZ} to "
            f"{LIMITS.audio_rate_hz} are accepted.",
            param=param,
        )
    if file.channels > LIMITS.audio_channels:
        raise InvalidValueError(
            f"the recording has {file.channels} channels; at most {LIMITS.audio_channels} are "
            "accepted.",
            param=param,
        )
    if file.frames == 0:
        raise InvalidValueError("the recording is empty.", param=param)
    if file.frames == _UNKNOWN_FRAMES:
        raise InvalidValueError(
            "the recording's header does not tell how long it is: convert it once more.",
            param=param,
        )
    if file.frames > LIMITS.audio_s * file.samplerate:
        raise InvalidValueError(
            f"the recording lasts longer than {LIMITS.audio_s} s: cut it.", param=param
        )


def _blocks(file: "SoundFile", *, most_frames: int) -> Iterator[memoryview]:
    """Yield the samples of the next frames, float32, until the recording's end.

    Raises:
        ValueError: They are not finite, there are none at the beginning, or they break off before
            the end that a header tells exactly.
    """
    is_beginning = file.tell() == 0
    is_exact = file.format in {"WAV", "WAVEX", "FLAC"}
    is_real = file.subtype in {"FLOAT", "DOUBLE"}
    frame_bytes = SAMPLE_BYTES * file.channels
    num_frames = 0
    while num_frames < most_frames:
        asked = min(_BLOCK_SAMPLES // file.channels, most_frames - num_frames)
        block = memoryview(bytearray(asked * frame_bytes))
        read = file.buffer_read_into(block, "float32")
        found = block[: read * frame_bytes]
        if is_real and not math.isfinite(sum(found.cast("f"))):
            msg = "a sample is not finite"
            raise ValueError(msg)
        yield found
        num_frames += read
        if read < asked:
            break
    if num_frames < most_frames and (is_exact or (is_beginning and not num_frames)):
        msg = "it breaks off"
        raise ValueError(msg)


def _broken(param: str) -> InvalidValueError:
    return InvalidValueError(
        f"the recording is broken or none of {', '.join(FORMATS)}.", param=param
    )
