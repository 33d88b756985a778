"""Pictures of coloured shapes with questions about them: a small world to answer about images in.

`python examples/shapes.py shapes.zip` writes a zip of PNG files with a manifest, `metadata.csv`:
what `purvey train recipes/shapes.toml` takes. On a noisy ground lie one to three shapes, of
different kinds and colours, each in a corner of its own and not quite in its middle; asked is what
colour or kind one has, where it lies, or how many there are.
"""

import argparse
import csv
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
}
KINDS = ("circle", "square", "triangle", "cross")
PLACES = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("one", "two", "three")
ASKED = ("colour", "shape", "place", "number")
"""What a question is about."""
SIDE = 32
"""Pixels of a picture's side; a corner is half as wide."""
_CORNER = SIDE // 2
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape of a picture, by its words."""

    kind: str
    colour: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A picture, a question about it, and the answer."""

    pixels: Pixels
    question: str
    answer: str


def drawn(
    chance: np.random.Generator, *, about: Sequence[str] = ASKED, most: int = len(NUMBERS)
) -> Asked:
    """Draw a picture of at most so many shapes, and a question about one of these things."""
    count = int(chance.integers(1, most + 1))
    kinds, colours, places = (
        chance.permutation(list(words))[:count].tolist() for words in (KINDS, COLOURS, PLACES)
    )
    shapes = [
        Shape(kind=kind, colour=colour, place=place)
        for kind, colour, place in zip(kinds, colours, places, strict=True)
    ]
    one, topic = shapes[0], str(chance.choice(list(about)))
    question, answer = {
        "colour": (f"What colour is the {one.kind}?", one.colour),
        "shape": (f"What shape is {one.colour}?", one.kind),
        "place": (f"Where is the {one.kind}?", one.place),
        "number": ("How many shapes are there?", NUMBERS[count - 1]),
    }[topic]
    return Asked(pixels=painted(shapes, chance), question=question, answer=answer)


def painted(shapes: Sequence[Shape], chance: np.random.Generator) -> Pixels:
    """Return the pixels of a picture, `SIDE x SIDE x 3`."""
    ground = chance.integers(0, 60)
    pixels = np.full((SIDE, SIDE, 3), ground, dtype=np.float64)
    for shape in shapes:
        down, across = divmod(PLACES.index(shape.place), 2)
        half = chance.uniform(5.0, 7.0)
        middle = _CORNER / 2 + chance.uniform(-1.0, 1.0, size=2)
        rows, columns = np.mgrid[:_CORNER, :_CORNER] + 0.5 - middle[:, None, None]
        corner = pixels[down * _CORNER :, across * _CORNER :][:_CORNER, :_CORNER]
        corner[_mask(shape.kind, rows / half, columns / half)] = COLOURS[shape.colour]
    noisy = pixels + chance.normal(0.0, 8.0, pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def png(pixels: Pixels) -> bytes:
    """Encode pixels as a PNG file of 8 bits for each of three colours."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def archive(
    path: Path,
    *,
    num_rows: int,
    seed: int,
    about: Sequence[str] = ASKED,
    most: int = len(NUMBERS),
) -> None:
    """Write a zip of pictures, drawn as `drawn` does, with a manifest of questions and answers."""
    chance = np.random.default_rng(seed)
    manifest = io.StringIO()
    rows = csv.writer(manifest)
    rows.writerow(["file_name", "question", "answer"])
    with zipfile.ZipFile(path, "w") as file:
        for number in range(num_rows):
            one, name = drawn(chance, about=about, most=most), f"{number:05}.png"
            file.writestr(name, png(one.pixels))
            rows.writerow([name, one.question, one.answer])
        file.writestr("metadata.csv", manifest.getvalue())


def _mask(kind: str, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pixels a shape covers that reaches from -1 to 1 in both directions."""
    inside = np.maximum(abs(rows), abs(columns)) <= 1
    match kind:
        case "circle":
            return rows**2 + columns**2 <= 1
        case "square":
            return np.asarray(inside)
        case "triangle":
            return np.asarray(inside & (abs(columns) <= (rows + 1) / 2))
        case _:
            return np.asarray(inside & (np.minimum(abs(rows), abs(columns)) <= 1 / 3))


def _chunk(name: bytes, data: bytes) -> bytes:
    checked = name + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write pictures with questions and answers.")
    parser.add_argument("path", type=Path, help="the zip to write")
    parser.add_argument("--rows", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    archive(given.path, num_rows=given.rows, seed=given.seed)
    print(f"wrote {given.rows} pictures to {given.path}")
