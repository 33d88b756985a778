"""Images as nobody's camera writes them."""

import io
import struct
import zlib

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
END = b"IEND"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Encode an image."""
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def grey_png(width: int, height: int, *, extra: bytes = b"", rows: int | None = None) -> bytes:
    """Return a black PNG of one bit per pixel, with chunks of your own before its pixels.

    Args:
        width: Columns that the header announces.
        height: Rows that the header announces.
        extra: Chunks.
        rows: Rows that there are; all unless given.
    """
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = bytes((1 + (width + 7) // 8) * (height if rows is None else rows))
    data = chunk(b"IDAT", zlib.compress(pixels, 1))
    return PNG + chunk(b"IHDR", header) + extra + data + chunk(END)


def text_bomb(num_bytes: int) -> bytes:
    """Return a chunk of compressed text that inflates to so many bytes."""
    return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(num_bytes), 9))


def international_text_bomb(num_bytes: int) -> bytes:
    """Return the same as international text."""
    return chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b" " * num_bytes, 9))


def profile_bomb(num_bytes: int) -> bytes:
    """Return a colour profile that inflates to so many bytes."""
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(num_bytes), 9))


def animated_gif(num_frames: int) -> bytes:
    """Return a GIF whose frames are all the same pixel, white."""
    one = encoded(Image.new("L", (1, 1), 255), "GIF")
    start = one.index(b"\x2c")  # the first image's descriptor
    return one[:start] + one[start:-1] * num_frames + one[-1:]


def animated_png(num_frames: int) -> bytes:
    """Return an APNG whose frames are all the same pixel, black."""
    pixel = zlib.compress(bytes(2))
    control = struct.pack(">IIIIHHBB", 1, 1, 0, 0, 1, 10, 0, 0)
    frames = [chunk(b"fcTL", struct.pack(">I", 0) + control), chunk(b"IDAT", pixel)]
    for number in range(1, 2 * num_frames - 1, 2):
        frames.append(chunk(b"fcTL", struct.pack(">I", number) + control))
        frames.append(chunk(b"fdAT", struct.pack(">I", number + 1) + pixel))
    header = struct.pack(">IIBBBBB", 1, 1, 1, 0, 0, 0, 0)
    told = chunk(b"acTL", struct.pack(">II", num_frames, 0))
    return PNG + chunk(b"IHDR", header) + told + b"".join(frames) + chunk(END)


def scan_bomb(side: int, num_scans: int) -> bytes:
    """Return a progressive JPEG whose last scan stands there again and again."""
    one = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    start = one.rindex(b"\xff\xda")
    return one[:start] + one[start:-2] * num_scans + one[-2:]
