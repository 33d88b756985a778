"""Noisy Morse code with its transcripts: a small world in which speech recognition can be tried.

`python examples/morse.py morse.zip` writes a zip of WAV files with a manifest, `metadata.csv`:
what `purvey train recipes/morse.toml` takes. Speed, pitch and loudness differ from recording to
recording, the hand that sends is not quite even, and there is white noise.

The code is ITU-R M.1677-1: a dash is three dots long, marks of a letter are one dot apart, letters
three, words seven; at so many words per minute a dot lasts 1.2 seconds divided by that.
"""

import argparse
import csv
import io
import wave
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TABLE = """
    a.- b-... c-.-. d-.. e. f..-. g--. h.... i.. j.--- k-.- l.-.. m--
    n-. o--- p.--. q--.- r.-. s... t- u..- v...- w.-- x-..- y-.-- z--..
"""
CODE = {entry[0]: entry[1:] for entry in _TABLE.split()}
WORDS = (
    *("sea", "wind", "north", "south", "rain", "calm", "boat", "port", "night", "help"),
    *("send", "wait", "good", "bad", "fuel", "low", "high", "tide", "ship", "storm"),
)
SAMPLE_RATE_HZ = 4_000
_RAMP = np.hanning(21) / np.hanning(21).sum()
"""Over 5 ms a tone comes and goes, so that it does not click."""
Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sending:
    """How one recording sounds.

    Args:
        words_per_minute: Speed, by the word PARIS.
        tone_hz: Pitch.
        noise: Deviation of the noise, where the tone's amplitude is `loudness`.
        loudness: Amplitude of the tone, at most 1.
        unevenness: Deviation of each length, as a share of it.
    """

    words_per_minute: float
    tone_hz: float
    noise: float
    loudness: float = 0.5
    unevenness: float = 0.05


def sent(text: str, how: Sending, chance: np.random.Generator) -> Samples:
    """Return the samples of a text of letters and spaces, from -1 to 1."""
    dot_s = 1.2 / how.words_per_minute
    edges_s = [0.0, 3 * dot_s]  # silence first: where a mark begins, and where it ends, by turns
    for word in text.split():
        for letter in word:
            for mark in CODE[letter]:
                length_s = dot_s * (3 if mark == "-" else 1)
                edges_s.append(edges_s[-1] + length_s * _uneven(how, chance))
                edges_s.append(edges_s[-1] + dot_s * _uneven(how, chance))
            edges_s[-1] += 2 * dot_s * _uneven(how, chance)
        edges_s[-1] += 4 * dot_s
    moments_s = np.arange(round(edges_s[-1] * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    is_on = np.searchsorted(np.array(edges_s[1:]), moments_s, side="right") % 2 == 1
    envelope = np.convolve(is_on, _RAMP, mode="same")
    tone = envelope * np.sin(2 * np.pi * how.tone_hz * moments_s)
    noise = chance.normal(0.0, how.noise, len(tone))
    return np.clip(how.loudness * tone + noise, -1, 1).astype(np.float32)


def drawn(
    chance: np.random.Generator,
    *,
    num_words: int = 3,
    noise: float = 0.15,
    words: Sequence[str] = WORDS,
) -> tuple[str, Samples]:
    """Draw a text of a few words and how it is sent: 12 to 25 words a minute at 500 to 900 Hz."""
    text = " ".join(chance.choice(words, size=chance.integers(1, num_words + 1)))
    how = Sending(
        words_per_minute=chance.uniform(12, 25),
        tone_hz=chance.uniform(500, 900),
        noise=noise,
        loudness=chance.uniform(0.3, 0.6),
    )
    return text, sent(text, how, chance)


def wav(samples: Samples) -> bytes:
    """Encode samples as a 16-bit WAV file."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return written.getvalue()


def archive(
    path: Path,
    *,
    num_rows: int,
    seed: int,
    num_words: int = 3,
    noise: float = 0.15,
    words: Sequence[str] = WORDS,
) -> None:
    """Write a zip of recordings, drawn as `drawn` does, with a manifest of their transcripts."""
    chance = np.random.default_rng(seed)
    manifest = io.StringIO()
    rows = csv.writer(manifest)
    rows.writerow(["file_name", "transcript"])
    with zipfile.ZipFile(path, "w") as file:
        for number in range(num_rows):
            text, samples = drawn(chance, num_words=num_words, noise=noise, words=words)
            name = f"{number:05}.wav"
            file.writestr(name, wav(samples))
            rows.writerow([name, text])
        file.writestr("metadata.csv", manifest.getvalue())


def _uneven(how: Sending, chance: np.random.Generator) -> float:
    return max(0.5, chance.normal(1.0, how.unevenness))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write Morse code with its transcripts.")
    parser.add_argument("path", type=Path, help="the zip to write")
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    archive(given.path, num_rows=given.rows, seed=given.seed)
    print(f"wrote {given.rows} recordings to {given.path}")
