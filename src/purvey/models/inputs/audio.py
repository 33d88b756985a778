"""Encoded recordings to samples, and samples to log-mel features.

Shape letters, this file only:
    T = samples   C = channels   M = mel bands   F = frames   N = frequencies of a window
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import AudioSpec
from purvey.contracts.parse import DecodeAudio
from purvey.errors import InvalidValueError
from purvey.models.inputs.resample import resampled
from purvey.parse.parser import PARSER, AudioDecoder

WINDOW_S, HOP_S = 0.025, 0.010
_RANGE = 8 * math.log(10)
"""What lies further below the loudest moment, in natural units of power (80 dB), is silence."""
_LEAST_POWER = 1e-10
_LEAST_DEVIATION = 0.01
_CLOCK = SystemClock()


class SoundReader:
    """Decodes the recordings of one request.

    Invariant: together they take at most `LIMITS.request_decode_s` seconds.

    Args:
        decoder: What decodes.
        clock: Measures it.
    """

    def __init__(self, decoder: AudioDecoder = PARSER, *, clock: Clock = _CLOCK) -> None:
        self._decoder, self._clock = decoder, clock
        self._left_s = float(LIMITS.request_decode_s)

    def waveform(
        self,
        data: bytes,
        *,
        sample_rate_hz: int,
        max_s: float,
        start_s: float = 0.0,
        param: str = "input",
    ) -> Tensor:
        """Decode a recording to mono samples from -1 to 1 at a rate, float32 on the CPU.

        Args:
            data: WAV, FLAC, OGG or MP3.
            sample_rate_hz: Rate of the samples that are returned.
            max_s: Seconds that are read; a shorter recording keeps its length.
            start_s: Where they begin; past the recording's end nothing is left.
            param: Field that errors name.

        Raises:
            InvalidValueError: It is refused, or too much for one request.
        """
        if self._left_s <= 0:
            message = f"the recordings of a request take longer than {LIMITS.request_decode_s} s."
            raise InvalidValueError(message, param=param, hint="Send fewer at a time.")
        began = self._clock.monotonic()
        found = self._decoder.decode_audio(
            DecodeAudio(data=data, start_s=start_s, max_s=max_s),
            param=param,
            timeout_s=min(LIMITS.decode_s, self._left_s),
        )
        self._left_s -= self._clock.monotonic() - began
        if not found.samples:
            return torch.empty(0)
        given_TC = torch.frombuffer(bytearray(found.samples), dtype=torch.float32)
        samples_T = given_TC.reshape(-1, found.channels).mean(dim=1).clamp(-1.0, 1.0)
        new_T = resampled(samples_T, from_hz=found.sample_rate_hz, to_hz=sample_rate_hz)
        return new_T[: round(max_s * sample_rate_hz)]

    def tensor(self, data: bytes, spec: AudioSpec, *, param: str = "input") -> Tensor:
        """Decode to `x_MF` as `spec` declares it, padded or cut to its length; see `log_mel`.

        Padding is as quiet as the quietest moment. Without mel bands: samples `x_T`, padded with
        0.

        Raises:
            InvalidValueError: As `waveform`.
        """
        rate_hz = spec.sample_rate_hz
        samples_T = self.waveform(data, sample_rate_hz=rate_hz, max_s=spec.max_s, param=param)
        num_samples = round(spec.max_s * rate_hz)
        if not spec.num_mels:
            return pad(samples_T, (0, num_samples - len(samples_T)))
        x_MF = log_mel(samples_T, sample_rate_hz=rate_hz, num_mels=spec.num_mels)
        missing = num_frames(num_samples, sample_rate_hz=rate_hz) - x_MF.shape[1]
        return pad(x_MF, (0, missing), value=float(x_MF.min()))


def waveform(
    data: bytes,
    *,
    sample_rate_hz: int,
    max_s: float,
    start_s: float = 0.0,
    param: str = "input",
    decoder: AudioDecoder = PARSER,
) -> Tensor:
    """Decode one recording to `samples_T` as `SoundReader.waveform`."""
    return SoundReader(decoder).waveform(
        data, sample_rate_hz=sample_rate_hz, max_s=max_s, start_s=start_s, param=param
    )


def audio_tensor(
    data: bytes, spec: AudioSpec, *, param: str = "input", decoder: AudioDecoder = PARSER
) -> Tensor:
    """Decode one recording as `SoundReader.tensor`."""
    return SoundReader(decoder).tensor(data, spec, param=param)


def num_frames(num_samples: int, *, sample_rate_hz: int) -> int:
    """Return how many frames `log_mel` makes of so many samples."""
    return 1 + num_samples // round(HOP_S * sample_rate_hz)


def log_mel(samples_T: Tensor, *, sample_rate_hz: int, num_mels: int) -> Tensor:
    """Return the log power in mel bands, `x_MF` in float32, with mean 0 and deviation 1.

    Hann windows of 25 ms every 10 ms, the first centred on the first sample, silence beyond the
    ends; what is 80 dB below the loudest is taken for silence. A recording that is nothing but
    silence is 0 everywhere.
    """
    window = round(WINDOW_S * sample_rate_hz)
    size = 2 ** math.ceil(math.log2(window))
    spectrum_NF = torch.stft(
        samples_T,
        size,
        hop_length=round(HOP_S * sample_rate_hz),
        win_length=window,
        window=torch.hann_window(window),
        pad_mode="constant",
        return_complex=True,
    )
    power_NF = spectrum_NF.real.square() + spectrum_NF.imag.square()
    filters_MN = mel_filters(num_mels, num_frequencies=size // 2 + 1, sample_rate_hz=sample_rate_hz)
    log_MF = (filters_MN @ power_NF).clamp_min(_LEAST_POWER).log()
    log_MF = log_MF.clamp_min(float(log_MF.max()) - _RANGE)
    deviation, mean = torch.std_mean(log_MF, correction=0)
    return (log_MF - mean) / deviation.clamp_min(_LEAST_DEVIATION)


@lru_cache(maxsize=16)
def mel_filters(num_mels: int, *, num_frequencies: int, sample_rate_hz: int) -> Tensor:
    """Return triangles of height 1, evenly spread over the mel scale, as `filters_MN`, float32.

    `mel = 2595 log10(1 + f / 700)` (O'Shaughnessy 1987). A band too narrow to hold one of the
    frequencies takes the nearest.
    """
    highest_mel = 2_595 * math.log10(1 + sample_rate_hz / 2 / 700)
    edges_mel = torch.linspace(0, highest_mel, num_mels + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2_595) - 1)
    given_hz = torch.linspace(0, sample_rate_hz / 2, num_frequencies, dtype=torch.float64)
    low_hz, peak_hz, high_hz = (edges_hz[i : i + num_mels, None] for i in range(3))
    rising_MN = (given_hz - low_hz) / (peak_hz - low_hz)
    falling_MN = (high_hz - given_hz) / (high_hz - peak_hz)
    filters_MN = torch.minimum(rising_MN, falling_MN).clamp_min(0)
    for band in (filters_MN.sum(dim=1) == 0).nonzero()[:, 0].tolist():
        filters_MN[band, (given_hz - peak_hz[band]).abs().argmin()] = 1.0
    return filters_MN.float()
