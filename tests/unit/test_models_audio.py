"""Recordings: what becomes of samples, and the features that networks hear."""

import math
from array import array

import numpy as np
import pytest
import torch
from torch import Tensor

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import AudioSpec
from purvey.contracts.parse import AudioDecoded, DecodeAudio
from purvey.contracts.recipe_parts.inputs import AudioAugment
from purvey.errors import InvalidValueError
from purvey.models.inputs.audio import (
    SoundReader,
    audio_tensor,
    log_mel,
    mel_filters,
    num_frames,
    waveform,
)
from purvey.models.inputs.augment_audio import augment_audio
from purvey.models.inputs.resample import resampled
from purvey.parse.parser import DecoderHere
from purvey.testing.clock import FakeClock
from tests.unit.parse.recordings import RATE_HZ, encoded, noise, silence, tone

HERE = DecoderHere()


def heard(data: bytes, *, rate_hz: int = RATE_HZ, max_s: float = 10.0) -> Tensor:
    return waveform(data, sample_rate_hz=rate_hz, max_s=max_s, decoder=HERE)


def sine(hz: float, *, rate_hz: int, seconds: float = 1.0) -> Tensor:
    return (2 * math.pi * hz * torch.arange(round(seconds * rate_hz)).double() / rate_hz).sin()


@pytest.mark.parametrize(
    ("from_hz", "to_hz"),
    [(8_000, 16_000), (44_100, 16_000), (48_000, 8_000), (16_000, 44_100), (11_025, 16_000)],
)
def test_a_tone_has_the_same_pitch_level_and_phase_at_another_rate(
    from_hz: int, to_hz: int
) -> None:
    new_T = resampled(sine(1_000, rate_hz=from_hz).float(), from_hz=from_hz, to_hz=to_hz)
    wanted_T = sine(1_000, rate_hz=to_hz)
    assert len(new_T) == len(wanted_T)
    inside = slice(to_hz // 20, -to_hz // 20)  # beyond both ends there is silence
    assert (new_T.double() - wanted_T)[inside].abs().max() < 1e-3


@pytest.mark.parametrize(("hz", "damped"), [(3_100, False), (4_100, True), (7_900, True)])
def test_what_the_lower_rate_cannot_hold_is_damped(hz: float, damped: bool) -> None:
    new_T = resampled(sine(hz, rate_hz=16_000).float(), from_hz=16_000, to_hz=8_000)
    level = new_T[500:-500].square().mean().sqrt() * math.sqrt(2)
    assert level < 1e-3 if damped else abs(level - 1) < 1e-3


def test_resampling_agrees_with_scipy_on_noise_that_both_rates_hold() -> None:
    from scipy.signal import resample_poly

    chance = torch.Generator().manual_seed(0)
    spectrum_N = torch.zeros(8_001, dtype=torch.complex64)
    spectrum_N[:2_500] = torch.randn(2_500, dtype=torch.complex64, generator=chance)
    given_T = torch.fft.irfft(spectrum_N)
    given_T /= given_T.abs().max()
    wanted_T = torch.from_numpy(
        resample_poly(given_T.numpy(), 441, 640, window=("kaiser", 12.0)).copy()
    )
    new_T = resampled(given_T, from_hz=16_000, to_hz=11_025)
    assert new_T.shape == wanted_T.shape
    assert (new_T - wanted_T)[600:-600].abs().max() < 5e-3


def test_rates_without_a_common_divisor_cost_no_more() -> None:
    new_T = resampled(sine(500, rate_hz=15_999).float(), from_hz=15_999, to_hz=8_000)
    assert abs(len(new_T) - 8_000) <= 1
    wanted_T = sine(500, rate_hz=8_000)
    assert (new_T[:400].double() - wanted_T[:400])[100:].abs().max() < 0.01


def test_a_constant_stays_and_equal_rates_change_nothing() -> None:
    new_T = resampled(torch.ones(4_000), from_hz=8_000, to_hz=12_000)
    assert (new_T[100:-100] - 1).abs().max() < 1e-5
    given_T = torch.randn(100)
    assert torch.equal(resampled(given_T, from_hz=8_000, to_hz=8_000), given_T)
    assert len(resampled(torch.randn(1), from_hz=8_000, to_hz=48_000)) == 6


def test_a_waveform_is_mono_at_the_rate_asked_for_and_no_longer_than_asked_for() -> None:
    left, right = tone(440, rate_hz=8_000), silence(rate_hz=8_000)
    both = array("f", (value for pair in zip(left, right, strict=True) for value in pair))
    samples_T = heard(encoded(both, channels=2, rate_hz=8_000))
    assert samples_T.dtype == torch.float32
    assert len(samples_T) == RATE_HZ // 2
    wanted_T = 0.25 * sine(440, rate_hz=RATE_HZ, seconds=0.5)
    assert (samples_T.double() - wanted_T)[400:-400].abs().max() < 1e-3
    assert len(heard(encoded(tone(440)), max_s=0.1)) == RATE_HZ // 10
    part_T = waveform(
        encoded(noise()), sample_rate_hz=RATE_HZ, max_s=0.1, start_s=0.2, decoder=HERE
    )
    assert torch.equal(part_T, heard(encoded(noise()))[3_200:4_800])
    past = waveform(encoded(noise()), sample_rate_hz=RATE_HZ, max_s=1.0, start_s=9.0, decoder=HERE)
    assert len(past) == 0


def test_levels_beyond_full_are_cut() -> None:
    loud = encoded(array("f", [3.0e38, -7.0, 0.25]), subtype="FLOAT")
    assert heard(loud).tolist() == [1.0, -1.0, 0.25]


def oracle(samples_T: Tensor, *, rate_hz: int, num_mels: int, frames: int) -> Tensor:
    """Compute log-mel features of so many frames, normalised, with transformers."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    window = round(0.025 * rate_hz)
    size = 2 ** math.ceil(math.log2(window))
    filters = mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=num_mels,
        min_frequency=0.0,
        max_frequency=rate_hz / 2,
        sampling_rate=rate_hz,
        norm=None,
        mel_scale="htk",
    )
    power = spectrogram(
        samples_T.double().numpy(),
        window_function(window, "hann"),
        frame_length=window,
        hop_length=round(0.010 * rate_hz),
        fft_length=size,
        power=2.0,
        center=False,
        mel_filters=filters,
        mel_floor=1e-10,
    )
    log_MF = np.log(power[:, :frames])
    log_MF = np.maximum(log_MF, log_MF.max() - 8 * math.log(10))
    return torch.from_numpy((log_MF - log_MF.mean()) / log_MF.std())


@pytest.mark.parametrize(("rate_hz", "num_mels"), [(16_000, 64), (8_000, 40)])
def test_features_are_those_of_transformers(rate_hz: int, num_mels: int) -> None:
    chance = torch.Generator().manual_seed(1)
    samples_T = 0.1 * torch.randn(rate_hz, generator=chance) + 0.5 * sine(700, rate_hz=rate_hz)
    x_MF = log_mel(samples_T.float(), sample_rate_hz=rate_hz, num_mels=num_mels)
    # Ours centre a window of 25 ms within one of a power of two; theirs begins with it.
    size = 2 ** math.ceil(math.log2(round(0.025 * rate_hz)))
    before = round(0.025 * rate_hz) // 2
    padded_T = torch.nn.functional.pad(samples_T, (before, size))
    theirs_MF = oracle(padded_T, rate_hz=rate_hz, num_mels=num_mels, frames=x_MF.shape[1])
    assert (x_MF - theirs_MF).abs().max() < 2e-3


def test_features_have_the_frames_and_the_scale_that_are_told() -> None:
    x_MF = log_mel(torch.randn(4_321), sample_rate_hz=RATE_HZ, num_mels=64)
    assert x_MF.dtype == torch.float32
    assert x_MF.shape == (64, num_frames(4_321, sample_rate_hz=RATE_HZ)) == (64, 28)
    assert abs(float(x_MF.mean())) < 1e-4
    assert abs(float(x_MF.std()) - 1) < 1e-2
    quiet_MF = log_mel(1e-3 * torch.ones(1), sample_rate_hz=RATE_HZ, num_mels=64)
    assert quiet_MF.shape == (64, 1)


def test_a_tone_is_loudest_in_its_band_and_loudness_itself_is_forgotten() -> None:
    x_MF = log_mel(heard(encoded(tone(1_000))), sample_rate_hz=RATE_HZ, num_mels=64)
    bands_M = mel_filters(64, num_frequencies=257, sample_rate_hz=RATE_HZ)[:, 32]  # 1,000 Hz
    assert x_MF[:, 25].argmax() == bands_M.argmax()
    fainter_MF = log_mel(heard(encoded(tone(1_000))) / 8, sample_rate_hz=RATE_HZ, num_mels=64)
    assert (x_MF - fainter_MF).abs().max() < 0.02


def test_silence_is_zero_everywhere() -> None:
    x_MF = audio_tensor(encoded(silence()), AudioSpec(max_s=1.0), decoder=HERE)
    assert x_MF.shape == (64, 101)
    assert x_MF.abs().max() < 1e-2


@pytest.mark.parametrize(("rate_hz", "num_mels"), [(1_000, 64), (16_000, 256), (48_000, 8)])
def test_no_band_is_empty(rate_hz: int, num_mels: int) -> None:
    size = 2 ** math.ceil(math.log2(round(0.025 * rate_hz)))
    filters_MN = mel_filters(num_mels, num_frequencies=size // 2 + 1, sample_rate_hz=rate_hz)
    assert filters_MN.shape == (num_mels, size // 2 + 1)
    assert filters_MN.min() == 0
    assert filters_MN.max() <= 1
    assert (filters_MN.sum(dim=1) > 0).all()


def test_short_recordings_are_padded_with_quiet_and_long_ones_cut() -> None:
    spec = AudioSpec(sample_rate_hz=RATE_HZ, max_s=1.0, num_mels=40)
    short_MF = audio_tensor(encoded(tone(440)), spec, decoder=HERE)
    assert short_MF.shape == (40, 101)
    own_MF = log_mel(heard(encoded(tone(440))), sample_rate_hz=RATE_HZ, num_mels=40)
    assert torch.equal(short_MF[:, :51], own_MF)
    assert (short_MF[:, 51:] == own_MF.min()).all()
    long_MF = audio_tensor(encoded(tone(440, seconds=3.0)), spec, decoder=HERE)
    assert long_MF.shape == (40, 101)


def test_without_bands_the_samples_themselves_come() -> None:
    spec = AudioSpec(sample_rate_hz=8_000, max_s=1.0, num_mels=0)
    x_T = audio_tensor(encoded(tone(440)), spec, decoder=HERE)
    assert x_T.shape == (8_000,)
    assert x_T[:4_000].abs().max() > 0.4
    assert not x_T[4_000:].any()


def test_here_and_in_a_parse_process_features_are_the_same() -> None:
    data, spec = encoded(noise(), "MP3"), AudioSpec(sample_rate_hz=8_000, max_s=0.5)
    assert torch.equal(audio_tensor(data, spec), audio_tensor(data, spec, decoder=HERE))


def test_what_is_no_recording_is_refused_by_the_inputs_name() -> None:
    with pytest.raises(InvalidValueError, match="broken or none of WAV") as refusal:
        audio_tensor(b"not a recording", AudioSpec(), param="voice", decoder=HERE)
    assert refusal.value.param == "voice"


class Slow:
    """A decoder that takes as long as it is told."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self.allowed_s: list[float] = []

    def decode_audio(self, question: DecodeAudio, *, param: str, timeout_s: float) -> AudioDecoded:
        self.allowed_s.append(timeout_s)
        self._clock.advance(min(self._seconds, timeout_s))
        return AudioDecoded(sample_rate_hz=8_000, channels=1, samples=bytes(4))


def test_the_recordings_of_one_request_share_time(clock: FakeClock) -> None:
    decoder = Slow(clock, seconds=LIMITS.decode_s - 1)
    sounds = SoundReader(decoder, clock=clock)
    for _ in range(4):
        sounds.waveform(b"", sample_rate_hz=8_000, max_s=1.0)
    with pytest.raises(InvalidValueError, match="take longer") as refusal:
        sounds.waveform(b"", sample_rate_hz=8_000, max_s=1.0, param="inputs.7")
    assert refusal.value.param == "inputs.7"
    assert decoder.allowed_s == [10, 10, 10, 3]


def changed(x_MF: Tensor, seed: int, **config: float) -> Tensor:
    torch.manual_seed(seed)
    return augment_audio(x_MF, AudioAugment.model_validate(config))


def blanked(x_MF: Tensor, dim: int) -> list[int]:
    """Return which bands, or frames, are 0 throughout."""
    return (x_MF == 0).all(dim=1 - dim).nonzero()[:, 0].tolist()


def test_masks_blank_bands_and_moments_no_wider_than_asked_for() -> None:
    x_MF = torch.ones(40, 100)
    bands = [
        blanked(changed(x_MF, i, frequency_masks=1, frequency_mask_bands=8), 0) for i in range(50)
    ]
    frames = [blanked(changed(x_MF, i, time_masks=1, time_mask_fraction=0.1), 1) for i in range(50)]
    for found, widest, size in ((bands, 8, 40), (frames, 10, 100)):
        assert max(map(len, found)) == widest
        assert all(one == list(range(one[0], one[0] + len(one))) for one in found if one)
        assert min(one[0] for one in found if one) < size // 4
        assert max(one[-1] for one in found if one) >= size * 3 // 4
    twice = changed(x_MF, 0, frequency_masks=2, frequency_mask_bands=40, time_masks=1)
    assert twice.shape == x_MF.shape


def test_a_shift_moves_time_in_both_directions_and_loses_nothing() -> None:
    x_MF = torch.arange(100.0).repeat(3, 1)
    starts = [int(changed(x_MF, i, shift_fraction=0.1)[0, 0]) for i in range(60)]
    assert {(start + 50) % 100 - 50 for start in starts} <= set(range(-10, 11))
    assert {start > 50 for start in starts} == {True, False}
    assert torch.equal(changed(x_MF, 1, shift_fraction=0.1).sort(dim=1).values, x_MF)


def test_samples_are_shifted_and_masked_in_time_alone() -> None:
    x_T = torch.ones(1_000)
    assert torch.equal(changed(x_T, 0, frequency_masks=4), x_T)
    found_T = changed(x_T, 0, time_masks=1, time_mask_fraction=0.1, shift_fraction=0.1)
    assert 0 < int((found_T == 0).sum()) <= 100


def test_changes_repeat_with_the_seed_and_leave_the_original() -> None:
    x_MF = torch.randn(40, 100)
    before = x_MF.clone()
    everything = {"frequency_masks": 2, "time_masks": 2, "shift_fraction": 0.2}
    assert torch.equal(changed(x_MF, 5, **everything), changed(x_MF, 5, **everything))
    assert not torch.equal(changed(x_MF, 5, **everything), changed(x_MF, 6, **everything))
    assert torch.equal(x_MF, before)
    assert changed(x_MF, 5).data_ptr() != x_MF.data_ptr()
