"""Whatever a recording is, it ends as right samples or as one refused request."""

import math
from array import array
from collections.abc import Callable
from itertools import pairwise

import pytest

from purvey.contracts.limits import LIMITS, Limits
from purvey.contracts.parse import AudioDecoded, DecodeAudio
from purvey.errors import InvalidValueError
from purvey.parse import sounds
from purvey.parse.parser import DecoderHere, Parser
from tests.unit.parse.recordings import (
    RATE_HZ,
    encoded,
    flac_header,
    noise,
    silence,
    tone,
    without_length,
)

TEN_HOURS_S = 36_000


def decode(
    parser: Parser | DecoderHere, data: bytes, *, start_s: float = 0.0, max_s: float = 600.0
) -> AudioDecoded:
    question = DecodeAudio(data=data, start_s=start_s, max_s=max_s)
    return parser.decode_audio(question, param="input.audio", timeout_s=LIMITS.decode_s)


def samples_of(found: AudioDecoded) -> "array[float]":
    samples = array("f")
    samples.frombytes(found.samples)
    return samples


def furthest(one: "array[float]", two: "array[float]") -> float:
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("form", "subtype", "within"),
    [
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_U8", 2**-6),
        ("WAV", "FLOAT", 0.0),
        ("WAV", "ULAW", 0.02),
        ("WAVEX", "PCM_16", 2**-15),
        ("FLAC", "PCM_16", 2**-15),
    ],
)
def test_samples_come_back_as_they_were(
    parser: Parser, form: str, subtype: str, within: float
) -> None:
    given = tone(440)
    found = decode(parser, encoded(given, form, subtype=subtype))
    assert (found.sample_rate_hz, found.channels) == (RATE_HZ, 1)
    assert furthest(samples_of(found), given) <= within


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_lossy_formats_keep_the_tone(parser: Parser, form: str, subtype: str | None) -> None:
    found = decode(parser, encoded(tone(440, seconds=1.0), form, subtype=subtype))
    samples = samples_of(found)
    assert 0.9 <= len(samples) / found.sample_rate_hz <= 1.2
    crossings = sum(a < 0 <= b for a, b in pairwise(samples))
    assert abs(crossings - 440) <= 20


def test_channels_alternate_and_keep_their_own(parser: Parser) -> None:
    left, right = tone(440), silence()
    both = array("f", (value for pair in zip(left, right, strict=True) for value in pair))
    found = decode(parser, encoded(both, channels=2))
    assert found.channels == 2
    assert furthest(samples_of(found)[::2], left) <= 2**-15
    assert not any(samples_of(found)[1::2])


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_part_is_what_the_whole_has_there(parser: Parser, form: str) -> None:
    data = encoded(noise(seconds=3.0), form)
    whole = samples_of(decode(parser, data))
    part = samples_of(decode(parser, data, start_s=1.0, max_s=0.5))
    assert len(part) == RATE_HZ // 2
    assert furthest(part, whole[RATE_HZ : RATE_HZ * 3 // 2]) <= 1e-3
    assert len(decode(parser, data, start_s=2.9, max_s=5.0).samples) <= RATE_HZ
    assert decode(parser, data, start_s=60.0).samples == b""


def not_finite(value: float) -> bytes:
    return encoded(array("f", [0.0, value, 0.0]), subtype="FLOAT")


def half(form: str) -> bytes:
    data = encoded(noise(seconds=2.0), form)
    return data[: len(data) // 2]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "broken or none of"),
    "text": (lambda: b"hello there" * 100, "broken or none of"),
    "another format": (lambda: encoded(tone(440), "AIFF"), "broken or none of"),
    "a head alone": (lambda: encoded(tone(440))[:20], "broken or none of"),
    "no samples": (lambda: encoded(array("f")), "empty"),
    "half a FLAC": (lambda: half("FLAC"), "broken or none of"),
    "ten hours": (lambda: flac_header(seconds=TEN_HOURS_S), "longer than 7200 s"),
    "no length": (lambda: without_length(encoded(noise(), "FLAC")), "does not tell how long"),
    "nine channels": (lambda: encoded(silence(seconds=0.9), channels=9), "9 channels"),
    "2,000 Hz": (lambda: encoded(silence(), rate_hz=2_000), "2000 samples per second"),
    "384,000 Hz": (lambda: encoded(silence(), rate_hz=384_000), "384000 samples per second"),
    "not a number": (lambda: not_finite(math.nan), "broken or none of"),
    "infinite": (lambda: not_finite(math.inf), "broken or none of"),
    "one byte too many": (lambda: bytes(LIMITS.audio_bytes + 1), "bytes; at most"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_with_the_reason(parser: Parser, name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(InvalidValueError, match=said) as refusal:
        decode(parser, make())
    assert refusal.value.param == "input.audio"
    assert "0x" not in refusal.value.text
    assert decode(parser, encoded(tone(440))).channels == 1


@pytest.mark.parametrize("form", ["WAV", "OGG", "MP3"])
def test_what_is_cut_off_is_read_as_far_as_it_goes_or_refused(parser: Parser, form: str) -> None:
    try:
        seconds = len(decode(parser, half(form)).samples) / 4 / RATE_HZ
    except InvalidValueError as refusal:
        seconds = 1.0 if refusal.param == "input.audio" else 0.0
    assert 0.5 < seconds < 1.5


def test_more_samples_than_are_decoded_at_once_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded(silence(seconds=2.0), "FLAC", channels=4)  # half a second of each
    monkeypatch.setattr(sounds, "LIMITS", Limits(audio_samples=RATE_HZ))
    assert len(decode(DecoderHere(), data, max_s=0.25).samples) == 4 * RATE_HZ
    with pytest.raises(InvalidValueError, match=r"0\.5 s of the recording have more than 16000"):
        decode(DecoderHere(), data)


def test_the_header_tells_rate_channels_and_length() -> None:
    found = sounds.describe(encoded(noise(seconds=1.5), "FLAC", channels=2))
    assert found == sounds.Sound(sample_rate_hz=RATE_HZ, channels=2, seconds=0.75)
    with pytest.raises(InvalidValueError, match="longer than 7200 s"):
        sounds.check(flac_header(seconds=7_201))
    with pytest.raises(InvalidValueError, match="broken"):  # nothing follows the header
        sounds.check(flac_header(seconds=7_200))


def test_here_and_in_a_parse_process_samples_are_the_same(parser: Parser) -> None:
    data = encoded(noise(), "OGG")
    assert decode(DecoderHere(), data) == decode(parser, data)


def test_first_bytes_tell_recordings_from_images() -> None:
    assert all(sounds.is_sound(encoded(tone(440), form)) for form in sounds.FORMATS)
    others = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM")
    assert not any(map(sounds.is_sound, others))
