"""Small made-up sounds of four classes, that differ in pitch over time and in nothing else."""

import io
import math
import random
import zipfile
from array import array
from collections.abc import Callable

from tests.unit.parse.recordings import encoded

RATES_HZ = (8_000, 16_000, 11_025)
CLASSES: dict[str, Callable[[float, float], float]] = {
    "low": lambda base, _: base,
    "high": lambda base, _: 4 * base,
    "rising": lambda base, moment: base * 4**moment,
    "falling": lambda base, moment: base * 4 ** (1 - moment),
}
"""Pitch in Hz from a base and a moment from 0 to 1."""


def sound(label: str, *, seed: int) -> bytes:
    """Return a recording of a class, 0.3 to 0.4 s long, with noise; each seed gives another."""
    chance = random.Random(f"{label} {seed}")  # noqa: S311 (test data)
    rate_hz, base_hz = chance.choice(RATES_HZ), chance.uniform(300, 450)
    num_samples = round(chance.uniform(0.3, 0.4) * rate_hz)
    turn, samples = chance.uniform(0, 6), array("f")
    for i in range(num_samples):
        turn += 2 * math.pi * CLASSES[label](base_hz, i / num_samples) / rate_hz
        samples.append(0.4 * math.sin(turn) + chance.uniform(-0.1, 0.1))
    return encoded(samples, "WAV", rate_hz=rate_hz)


def sounds_zip(*, per_class: int = 40) -> bytes:
    """Return a zip of class folders of such recordings."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for label in CLASSES:
            for seed in range(per_class):
                archive.writestr(f"{label}/{seed}.wav", sound(label, seed=seed))
    return packed.getvalue()
