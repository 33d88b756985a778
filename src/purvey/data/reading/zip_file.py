"""A zip read strictly: one directory, and entries that are what it says of them.

The format (PKWARE, APPNOTE 6.3.10) tells everything twice, and readers that believe different
halves see different archives. Here both must agree, no two entries may share bytes or a name,
and only stored and deflated plain files are read. Nothing is ever written to disk.
"""

import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidFileError, UnsafeArchiveError

_END = struct.Struct("<4s4H2LH")
_END_64_PLACE = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_EXTRA = struct.Struct("<2H")
_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA, _IN_EXTRA_16 = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED, _SIZES_FOLLOW, _UTF_8 = 0x41, 0x8, 0x800
_STORED, _DEFLATED = 0, 8
_ZIP_64_EXTRA, _UNIX_EXTRA = 0x0001, 0x000D
_DESCRIPTION_BYTES = 512
"""What the directory may take for each entry allowed, on the average."""
_UNIX_EXTRA_BYTES = 12
"""Times and owner; what follows them is the target of a link."""
_REPARSE_POINT = 0x400
"""Windows' mark of a link."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipEntry:
    """One entry, as the directory tells and the caps allow.

    Args:
        number: Its place in the directory, from 1.
        name: As it is written, with `/`; ends in one for a folder.
        raw_name: The name's bytes.
        method: 0 stored, 8 deflated.
        crc32: Of the inflated bytes.
        stored_bytes: In the archive.
        num_bytes: Inflated.
        start: Where its own header begins.
        end: Where the next entry, or the directory, begins.
    """

    number: int
    name: str
    raw_name: bytes
    method: int
    crc32: int
    stored_bytes: int
    num_bytes: int
    start: int
    end: int

    @property
    def is_folder(self) -> bool:
        """Whether it names a folder and holds nothing."""
        return self.name.endswith("/")


def read_directory(archive: BinaryIO, *, source: str) -> list[ZipEntry]:
    """Return the entries in the directory's order, none of which was inflated.

    Raises:
        InvalidFileError: Not a zip, or one that is cut off.
        UnsafeArchiveError: More entries or bytes than the limits table allows, or an entry that
            is no plain file inside the archive; names it.
    """
    start, size, count = _place(archive, source)
    if count > LIMITS.archive_entries or size > LIMITS.archive_entries * _DESCRIPTION_BYTES:
        raise _too_many(source)
    archive.seek(start)
    entries: list[ZipEntry] = []
    names: set[str] = set()
    total = 0
    for entry in _entries(archive.read(size), source=source):
        total += entry.num_bytes
        if len(entries) >= LIMITS.archive_entries:
            raise _too_many(source)
        if total > LIMITS.archive_bytes:
            raise UnsafeArchiveError(
                f"{source!r} inflates to more than {LIMITS.archive_bytes} bytes."
            )
        plain = unicodedata.normalize("NFC", str(PurePosixPath(entry.name))).casefold()
        if plain in names:
            raise refusal(source, entry.number, "another entry has its name, but for case")
        names.add(plain)
        entries.append(entry)
    if len(entries) != count:
        raise UnsafeArchiveError(f"{source!r} has {len(entries)} entries and announces {count}.")
    return _bounded(entries, directory=start, source=source)


def read_entry(archive: BinaryIO, entry: ZipEntry, *, source: str) -> bytes:
    """Inflate one entry, never to more than it announces.

    Raises:
        UnsafeArchiveError: Its own header, its length or its checksum is not what the directory
            says, or it reaches into another entry.
    """
    archive.seek(entry.start)
    header = archive.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise refusal(source, entry.number, "it lies outside the file")
    magic, _, flags, method, _, _, crc32, stored, inflated, name, extra = _LOCAL.unpack(header)
    if magic != b"PK\x03\x04" or archive.read(name) != entry.raw_name:
        raise refusal(source, entry.number, "its own header has another name")
    follows = {0} if flags & _SIZES_FOLLOW else set[int]()
    is_same = (
        (method, flags & _ENCRYPTED) == (entry.method, 0)
        and crc32 in {entry.crc32, *follows}
        and stored in {entry.stored_bytes, _IN_EXTRA, *follows}
        and inflated in {entry.num_bytes, _IN_EXTRA, *follows}
    )
    if not is_same:
        raise refusal(source, entry.number, "its own header differs from the directory's")
    if entry.start + _LOCAL.size + name + extra + entry.stored_bytes > entry.end:
        raise refusal(source, entry.number, "it overlaps another entry")
    archive.seek(extra, 1)
    data = _inflated(archive.read(entry.stored_bytes), entry)
    if data is None or len(data) != entry.num_bytes or zlib.crc32(data) != entry.crc32:
        raise refusal(source, entry.number, "its bytes are not what is announced")
    return data


def refusal(source: str, number: int, problem: str) -> UnsafeArchiveError:
    """Build the error for one entry."""
    return UnsafeArchiveError(f"{source!r}, entry {number}: {problem}.", param=f"entry {number}")


def _place(archive: BinaryIO, source: str) -> tuple[int, int, int]:
    """Find the directory: where it begins, its bytes, how many entries it announces."""
    num_bytes = archive.seek(0, 2)
    archive.seek(max(0, num_bytes - _END.size - _LONGEST_COMMENT))
    tail = archive.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise _unreadable(source)
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
    end = num_bytes - len(tail) + at
    if at + _END.size + comment != len(tail):
        raise _unreadable(source)
    if at >= _END_64_PLACE.size and tail[at - _END_64_PLACE.size :].startswith(b"PK\x06\x07"):
        end = _END_64_PLACE.unpack_from(tail, at - _END_64_PLACE.size)[2]
        archive.seek(min(end, num_bytes))
        record = archive.read(_END_64.size)
        if len(record) < _END_64.size or not record.startswith(b"PK\x06\x06"):
            raise _unreadable(source)
        _, _, _, _, disk, first_disk, here, count, size, start = _END_64.unpack(record)
    if (disk, first_disk, here) != (0, 0, count) or start + size != end:
        raise UnsafeArchiveError(f"{source!r} has a directory that is not where it says.")
    return start, size, count


def _entries(directory: bytes, *, source: str) -> Iterator[ZipEntry]:
    position, number = 0, 0
    while position < len(directory):
        number += 1
        if len(directory) - position < _CENTRAL.size:
            raise refusal(source, number, "its description is cut off")
        entry, position = _entry(directory, position, number, source)
        yield entry


def _entry(directory: bytes, position: int, number: int, source: str) -> tuple[ZipEntry, int]:
    fields = _CENTRAL.unpack_from(directory, position)
    magic, _, _, flags, method, _, _, crc32, stored, inflated, *lengths = fields[:13]
    disk, _, attributes, start = fields[13:]
    name_at = position + _CENTRAL.size
    extra_at = name_at + lengths[0]
    comment_at = extra_at + lengths[1]
    end = comment_at + lengths[2]
    if magic != b"PK\x01\x02" or end > len(directory):
        raise refusal(source, number, "its description is damaged")
    raw_name, extra = directory[name_at:extra_at], directory[extra_at:comment_at]
    inflated, stored, start, disk = _wide(extra, inflated, stored, start, disk)
    name = _decoded(raw_name, is_utf_8=bool(flags & _UTF_8))
    entry = ZipEntry(
        number=number,
        name=name or "",
        raw_name=raw_name,
        method=method,
        crc32=crc32,
        stored_bytes=stored,
        num_bytes=inflated,
        start=start,
        end=0,
    )
    problem = (
        "its name is not text"
        if name is None
        else _problem(entry, flags=flags, attributes=attributes, is_linked=_is_linked(extra))
    )
    if disk or problem:
        raise refusal(source, number, problem or "it lies in another file")
    return entry, end


def _problem(entry: ZipEntry, *, flags: int, attributes: int, is_linked: bool) -> str:
    name = PurePosixPath(entry.name)
    if name.is_absolute() or ".." in name.parts or set("\\:") & set(entry.name):
        return "its name points outside the archive"
    if not name.parts:
        return "it has no name"
    mode = attributes >> 16
    is_plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    if not is_plain or is_linked or attributes & _REPARSE_POINT:
        return "it is a link or a device, not a plain file"
    if flags & _ENCRYPTED:
        return "it is encrypted"
    if entry.method not in {_STORED, _DEFLATED}:
        return f"it is packed by method {entry.method}; pack it with deflate"
    if entry.num_bytes > LIMITS.archive_ratio * max(1, entry.stored_bytes):
        return f"it inflates more than {LIMITS.archive_ratio} times"
    return ""


def _decoded(name: bytes, *, is_utf_8: bool) -> str | None:
    try:
        text = name.decode("utf-8" if is_utf_8 else "cp437")
    except UnicodeDecodeError:
        return None
    return None if any(unicodedata.category(char) == "Cc" for char in text) else text


def _extras(extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, position)
        position += _EXTRA.size
        yield kind, extra[position : position + length]
        position += length


def _wide(
    extra: bytes, inflated: int, stored: int, start: int, disk: int
) -> tuple[int, int, int, int]:
    """Put the 64-bit numbers in the place of those that say that they are there."""
    wide = next((data for kind, data in _extras(extra) if kind == _ZIP_64_EXTRA), b"")
    values = [inflated, stored, start]
    for i, value in enumerate(values):
        if value == _IN_EXTRA and len(wide) >= 8:
            values[i], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    if disk == _IN_EXTRA_16 and len(wide) >= 4:
        disk = int.from_bytes(wide[:4], "little")
    return values[0], values[1], values[2], disk


def _is_linked(extra: bytes) -> bool:
    return any(
        kind == _UNIX_EXTRA and len(data) > _UNIX_EXTRA_BYTES for kind, data in _extras(extra)
    )


def _bounded(entries: list[ZipEntry], *, directory: int, source: str) -> list[ZipEntry]:
    """Tell each entry where the next begins; none may begin in another, as it is announced."""
    ordered = sorted(entries, key=lambda entry: entry.start)
    ends = [*(entry.start for entry in ordered), directory][1:]
    placed: dict[int, ZipEntry] = {}
    for entry, end in zip(ordered, ends, strict=True):
        if entry.start + _LOCAL.size + len(entry.raw_name) + entry.stored_bytes > end:
            raise refusal(source, entry.number, "it overlaps another entry")
        placed[entry.number] = replace(entry, end=end)
    return [placed[entry.number] for entry in entries]


def _inflated(stored: bytes, entry: ZipEntry) -> bytes | None:
    """Return the bytes, one more than announced where there are more; None if it breaks off."""
    if entry.method == _STORED:
        return stored
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(stored, entry.num_bytes + 1)
    except zlib.error:
        return None
    return data if inflater.eof and not inflater.unused_data else None


def _too_many(source: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(f"{source!r} has more than {LIMITS.archive_entries} entries.")


def _unreadable(source: str) -> InvalidFileError:
    return InvalidFileError(f"{source!r} is not a readable zip: pack it again.")
