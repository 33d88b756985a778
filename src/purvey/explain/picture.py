"""The heat map: the image as given beside the image under its scores, with a legend.

Blue supports the target, orange opposes it: a pair that the common kinds of colour blindness
tell apart. Strength is opacity over a grey copy, so what does not matter stays grey.

Shape letters, this file:
    H, W = rows and columns of one panel
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from purvey.explain.leave_one_out import Attribution

PANEL_PIXELS = 360
"""Longer side of each panel."""
GAP = 16
LEGEND_WIDTH = 96
BAR_WIDTH = 16
SUPPORTS = (0, 92, 171)
OPPOSES = (230, 111, 0)
INK = (60, 60, 60)
PAPER = (255, 255, 255)
FADED = 0.45
"""Contrast left to the grey copy: on a pale ground the colours look as in the legend."""
STRONGEST = 0.88
"""Opacity of the strongest score; below 1 so that the image still shows through."""


def picture_size(width: int, height: int) -> tuple[int, int]:
    """Return width and height of the heat map for an image of that size."""
    panel_width, panel_height = _panel_size(width, height)
    return 2 * panel_width + 3 * GAP + LEGEND_WIDTH, panel_height + 2 * GAP


def heat_map_png(shown: Image.Image, attribution: Attribution, *, of: tuple[int, int]) -> bytes:
    """Draw the heat map as a PNG: original, overlay, legend.

    Args:
        shown: The image, RGB, at any size.
        attribution: Scores of patches.
        of: Width and height of the image whose pixels the boxes count.
    """
    size = _panel_size(*of)
    # A few pixels are shown as squares, many are smoothed.
    smooth = Image.Resampling.LANCZOS if max(of) > PANEL_PIXELS // 4 else Image.Resampling.NEAREST
    panel = shown.resize(size, smooth)
    limit = float(np.abs(attribution.scores).max()) or 1.0
    overlay = _overlay(panel, _heat(of, size, attribution) / limit)
    sheet = Image.new("RGB", picture_size(*of), PAPER)
    sheet.paste(panel, (GAP, GAP))
    sheet.paste(overlay, (2 * GAP + size[0], GAP))
    _legend(sheet, left=3 * GAP + 2 * size[0], height=size[1], limit=limit)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def _panel_size(width: int, height: int) -> tuple[int, int]:
    scale = PANEL_PIXELS / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _heat(
    given: tuple[int, int], size: tuple[int, int], attribution: Attribution
) -> NDArray[np.float64]:
    """Return `heat_HW`: each pixel has the score of its patch."""
    heat_HW = np.zeros((size[1], size[0]))
    across, down = size[0] / given[0], size[1] / given[1]
    for part, score in zip(attribution.parts, attribution.scores, strict=True):
        left, top, right, bottom = part.box or (0, 0, 0, 0)
        rows = slice(round(top * down), round(bottom * down))
        heat_HW[rows, round(left * across) : round(right * across)] = score
    return heat_HW


def _overlay(panel: Image.Image, heat_HW: NDArray[np.float64]) -> Image.Image:
    grey = np.asarray(panel.convert("L").convert("RGB"), dtype=np.float64)
    grey = 255 - FADED * (255 - grey)
    colour = np.where(heat_HW[..., None] >= 0, SUPPORTS, OPPOSES)
    opacity = (STRONGEST * np.abs(heat_HW))[..., None]
    mixed = grey * (1 - opacity) + colour * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _legend(sheet: Image.Image, *, left: int, height: int, limit: float) -> None:
    """Draw a scale from +limit (supports) over 0 to -limit (opposes), with its numbers."""
    strength = np.linspace(1.0, -1.0, height)[:, None, None]
    colour = np.where(strength >= 0, SUPPORTS, OPPOSES)
    opacity = STRONGEST * np.abs(strength)
    bar = np.rint(np.array(PAPER) * (1 - opacity) + colour * opacity).astype(np.uint8)
    sheet.paste(Image.fromarray(np.repeat(bar, BAR_WIDTH, axis=1)), (left, GAP))
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, GAP, left + BAR_WIDTH - 1, GAP + height - 1), outline=INK)
    big, small = ImageFont.load_default(14), ImageFont.load_default(11)
    start = left + BAR_WIDTH + 6
    for share, anchor in ((0.0, "la"), (0.5, "lm"), (1.0, "ld")):
        number = f"{limit * (1 - 2 * share):+.2g}" if share != 0.5 else "0"
        draw.text((start, GAP + share * (height - 1)), number, INK, font=big, anchor=anchor)
    draw.text((start, GAP + 20), "supports", SUPPORTS, font=small, anchor="la")
    draw.text((start, GAP + height - 21), "opposes", OPPOSES, font=small, anchor="ld")
