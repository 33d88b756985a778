"""Zips that no packer writes, made byte by byte at run time."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

from PIL import Image

LINK, FIFO, DEVICE = 0o120777, 0o010644, 0o020644


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One entry: what is there, and what is said of it where that differs."""

    name: bytes = b"cats/1.png"
    data: bytes = b""
    method: int = 0
    flags: int = 0
    mode: int = 0
    attributes: int = 0
    extra: bytes = b""
    crc32: int | None = None
    num_bytes: int | None = None
    own_name: bytes | None = None
    own_method: int | None = None
    stored: bytes | None = None
    start: int | None = None


def picture(colour: int = 0) -> bytes:
    """Return a small PNG."""
    encoded = io.BytesIO()
    Image.new("RGB", (4, 4), (colour % 256, colour // 256 % 256, 7)).save(encoded, "PNG")
    return encoded.getvalue()


def packed(*entries: Packed, announced: int | None = None, before: bytes = b"") -> bytes:
    """Return the archive of these entries."""
    body, directory = bytearray(before), bytearray()
    for entry in entries:
        start = len(body) if entry.start is None else entry.start
        stored = _deflated(entry.data) if entry.method == 8 else entry.data
        stored = stored if entry.stored is None else entry.stored
        num_bytes = len(entry.data) if entry.num_bytes is None else entry.num_bytes
        crc32 = zlib.crc32(entry.data) if entry.crc32 is None else entry.crc32
        own_name = entry.name if entry.own_name is None else entry.own_name
        own_method = entry.method if entry.own_method is None else entry.own_method
        sizes = (crc32, len(stored), num_bytes)
        if entry.start is None:
            body += struct.pack(
                "<4s5H3L2H",
                *(b"PK\x03\x04", 20, entry.flags, own_method, 0, 0),
                *sizes,
                *(len(own_name), 0),
            )
            body += own_name + stored
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\x01\x02", 20, 20, entry.flags, entry.method, 0, 0),
            *sizes,
            *(
                len(entry.name),
                len(entry.extra),
                0,
                0,
                0,
                entry.mode << 16 | entry.attributes,
                start,
            ),
        )
        directory += entry.name + entry.extra
    count = len(entries) if announced is None else announced
    end = (b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory) + struct.pack("<4s4H2LH", *end)


def many(count: int) -> bytes:
    """Return an archive of so many empty entries, as the ordinary packer writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(count):
            archive.writestr(f"c/{i}.png", b"")
    return file.getvalue()


def nested(depth: int = 5, width: int = 16) -> bytes:
    """Return a zip of zips of zips: a few kilobytes that would unfold to terabytes."""
    data = bytes(2**20)
    for level in range(depth):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(width):
                archive.writestr(f"cats/{level}-{i}.{'zip' if level else 'png'}", data)
        data = file.getvalue()
    return data


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _with(**changes: object) -> bytes:
    return packed(Packed(data=picture(), **changes))  # type: ignore[arg-type]  # fields by name


def _zip_64(num_bytes: int) -> bytes:
    extra = struct.pack("<2H2Q", 1, 16, num_bytes, 4)
    entry = Packed(data=b"xxxx", num_bytes=0xFFFFFFFF, extra=extra)
    return packed(entry).replace(
        struct.pack("<2L", 4, 2**32 - 1), struct.pack("<2L", *[2**32 - 1] * 2)
    )


def _two(*names: bytes) -> bytes:
    return packed(*(Packed(name=n, data=picture(i)) for i, n in enumerate(names)))


UNSAFE: dict[str, tuple[bytes, str]] = {
    "a step up": (_with(name=b"cats/../../evil.png"), "points outside"),
    "an absolute name": (_with(name=b"/tmp/cats/evil.png"), "points outside"),
    "a name of another system": (_with(name=b"cats\\..\\evil.png"), "points outside"),
    "a drive": (_with(name=b"C:/cats/evil.png"), "points outside"),
    "a NUL in a name": (_with(name=b"cats/evil.png\0.txt"), "not text"),
    "a name that is no text": (_with(name=b"cats/\xff.png", flags=0x800), "not text"),
    "no name": (_with(name=b""), "no name"),
    "a link, then a file through it": (
        packed(Packed(name=b"cats", data=b"/tmp", mode=LINK), Packed(data=picture())),
        "entry 1: it is a link",
    ),
    "a link that Windows made": (_with(attributes=0x400), "a link"),
    "a hard link": (_with(extra=struct.pack("<2H", 0xD, 16) + bytes(12) + b"/etc"), "a link"),
    "a pipe": (_with(mode=FIFO), "a device"),
    "a device": (_with(mode=DEVICE), "a device"),
    "names that differ by case": (_two(b"cats/a.png", b"Cats/A.png"), "has its name"),
    "a name twice": (_two(b"cats/a.png", b"cats/a.png"), "entry 2: another"),
    "a name twice, spelt otherwise": (_two(b"cats/a.png", b"./cats//a.png"), "has its name"),
    "entries that share their bytes": (
        packed(Packed(data=picture()), Packed(name=b"cats/2.png", data=picture(), start=0)),
        "overlaps",
    ),
    "an entry inside another": (
        packed(
            Packed(data=packed(Packed(data=picture()))),
            Packed(name=b"cats/2.png", data=picture(), start=40),
        ),
        "overlaps",
    ),
    "a header that reaches into another": (
        packed(Packed(data=b"", own_name=b"cats/1.png" + bytes(70)), Packed(name=b"cats/2.png"))
        .replace(struct.pack("<2H", 80, 0), struct.pack("<2H", 10, 999)),
        "overlaps",
    ),
    "encrypted": (_with(flags=0x1), "encrypted"),
    "strongly encrypted": (_with(flags=0x40), "encrypted"),
    "a wrong checksum": (_with(crc32=1), "bytes are not"),
    "a name of its own": (_with(own_name=b"dogs/1.png"), "another name"),
    "a method of its own": (_with(own_method=8), "differs"),
    "LZMA, whose dictionary may take 4 GiB": (_with(method=14), "method 14"),
    "a method nobody knows": (_with(method=99), "method 99"),
    "deflate that is not": (_with(method=8, stored=b"\xff" * 50), "bytes are not"),
    "deflate and something behind it": (
        _with(method=8, stored=_deflated(picture()) + b"behind"), "bytes are not"
    ),
    "more bytes than announced": (
        packed(Packed(data=bytes(300), method=8, num_bytes=100)), "bytes are not"
    ),
    "fewer bytes than announced": (
        packed(Packed(data=bytes(300), method=8, num_bytes=400)), "bytes are not"
    ),
    "a bomb": (packed(Packed(data=bytes(10_000_000), method=8)), "inflates more than 200 times"),
    "2^62 bytes announced": (_zip_64(2**62), "inflates more than 200 times"),
    "an entry beyond the file": (_with(start=10**6), "overlaps"),
    "more entries announced than there are": (
        packed(Packed(data=picture()), announced=7), "announces 7"
    ),
    "fewer entries announced than there are": (
        packed(Packed(), Packed(name=b"cats/2.png"), announced=1), "announces 1"
    ),
    "a directory elsewhere": (b"x" + packed(Packed(data=picture())), "not where it says"),
}  # fmt: skip
"""Archives by what is wrong with them, with what must be said; all are `unsafe_archive`."""
