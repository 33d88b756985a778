"""The 1,797 handwritten digits that ship with scikit-learn, as a zip of class folders.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998; 8 x 8
pixels of 17 grey levels. Read as the plain CSV they are, without importing scikit-learn.
"""

import csv
import gzip
import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

from purvey.errors import UserError

SIDE = 8
_GREY_LEVELS = 16


def digits_zip(*, side: int = 32) -> bytes:
    """Return a zip with one PNG per digit under a folder per class.

    Args:
        side: Pixels of a side; the 8 x 8 originals are enlarged to it, three channels.

    Raises:
        UserError: scikit-learn is not installed.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for number, (label, pixels) in enumerate(_rows()):
            name = f"{label}/{number:04d}.png"
            archive.writestr(zipfile.ZipInfo(name), _png(pixels, side=side))
    return packed.getvalue()


def digit_png(number: int, *, side: int = 32) -> tuple[str, bytes]:
    """Return label and PNG of one digit, by its place in the collection."""
    label, pixels = _rows()[number]
    return label, _png(pixels, side=side)


def _rows() -> list[tuple[str, list[int]]]:
    with gzip.open(_csv_path(), "rt", encoding="ascii", newline="") as text:
        rows = [[int(float(cell)) for cell in row] for row in csv.reader(text) if row]
    return [(str(row[-1]), row[:-1]) for row in rows]


def _csv_path() -> Path:
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise UserError("scikit-learn is not installed.", hint="Install purvey[engine].")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def _png(pixels: list[int], *, side: int) -> bytes:
    from PIL import Image

    grey = bytes(round(level * 255 / _GREY_LEVELS) for level in pixels)
    image = Image.frombytes("L", (SIDE, SIDE), grey).convert("RGB")
    encoded = io.BytesIO()
    image.resize((side, side), Image.Resampling.BILINEAR).save(encoded, "PNG")
    return encoded.getvalue()
